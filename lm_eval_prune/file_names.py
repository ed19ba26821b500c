"""From texts to file names. Whatever a file, a task or a model calls itself, its name becomes a path only here.

A name from here holds no separator, no dots that climb, no control or direction character, is no option of a command,
and is allowed on Linux, macOS and Windows.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

__all__ = ["distinct_names", "importance_file_name", "means_file_name", "numbered", "safe_name", "slug"]

LONGEST = 100
"""Characters of a name; four of them and what stands between fit the 255 bytes that file systems allow."""
PLAIN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.+-]*[A-Za-z0-9_+-])?")
DIGEST = re.compile(r".*-[0-9a-f]{8}")
"""How a name ends that stands for a text which is no name."""
DEVICES = r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?"
"""Of Windows, with any ending."""
RESERVED = re.compile(f"aggregate|{DEVICES}", re.IGNORECASE)
"""Devices, and what stands for the task in the name of a mean over tasks."""


def safe_name(text: object) -> str:
    """A file name, without an ending, for any text; different texts have different names.

    A text of up to 100 ASCII letters, digits and `_ . + -` is its own name, as nearly every task of the harness is. Of
    any other the name is what can be kept of it, and 8 hexadecimal digits of its SHA-256 behind a dash. Case is kept:
    `distinct_names` tells apart what differs in nothing else.
    """
    text = str(text)
    own = len(text) <= LONGEST and PLAIN.fullmatch(text) and not DIGEST.fullmatch(text) and not RESERVED.fullmatch(text)
    return text if own else _with_digest(text)


def distinct_names(texts: Iterable[str]) -> dict[str, str]:
    """Text -> its `safe_name`, no two the same where the file system ignores case.

    Texts that differ in case alone get digits of their SHA-256, all but one in lower case.
    """
    names = {text: safe_name(text) for text in texts}
    often = Counter(name.lower() for name in names.values())
    return {
        text: _with_digest(text) if often[name.lower()] > 1 and name != name.lower() else name
        for text, name in names.items()
    }


def slug(text: str) -> str:
    """Lower-case letters, digits and dashes of `text`, for names that people read; two texts may have the same."""
    words = re.sub(r"[^a-z0-9]+", "-", text[: 4 * LONGEST].lower())[:60].strip("-") or "unnamed"
    return f"name-{words}" if re.fullmatch(DEVICES, words) else words


def numbered(names: Iterable[str]) -> list[str]:
    """The names in their order, the second and further ones of a name numbered; all are different."""
    last: dict[str, int] = {}
    found: dict[str, None] = {}
    for name in names:
        candidate = name
        while candidate in found:
            last[name] = last.get(name, 1) + 1
            candidate = f"{name}-{last[name]}"
        found[candidate] = None
    return list(found)


def importance_file_name(task: str, num_fewshot: int, component: str, method: str, under: str = "") -> str:
    """`<task>-<k>shot-<component>-<method>.json`; `task` is from `safe_name` or `distinct_names`, or `aggregate`.

    Of scores under a mask, whose hash is `under`, `-under-` and its first digits stand before the ending.
    """
    mask = f"-under-{safe_name(under[:12])}" if under else ""
    return f"{task}-{safe_name(num_fewshot)}shot-{safe_name(component)}-{safe_name(method)}{mask}.json"


def means_file_name(task: str, num_fewshot: int) -> str:
    """`<task>-<k>shot-means.safetensors`; `task` is from `safe_name` or `distinct_names`."""
    return f"{task}-{safe_name(num_fewshot)}shot-means.safetensors"


def _with_digest(text: str) -> str:
    # Surrogates stand in names that are no UTF-8; they have no UTF-8 themselves.
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    ascii_text = unicodedata.normalize("NFKD", text[: 4 * LONGEST]).encode("ascii", "ignore").decode()
    # No dots: Windows takes a device's name with any ending for the device.
    kept = re.sub(r"[^A-Za-z0-9_+]+", "-", ascii_text).strip("-")[: LONGEST - 9]
    return f"{kept or 'unnamed'}-{digest}"
