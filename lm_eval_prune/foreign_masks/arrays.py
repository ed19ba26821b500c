"""Arrays of 0 and 1 from text, .npy and .safetensors. Nothing is unpickled, and sizes are looked at first."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

from lm_eval_prune.components import MAX_COMPONENTS
from lm_eval_prune.errors import FileFormatError, MaskError, MaskShapeError
from lm_eval_prune.strict_json import json_line
from lm_eval_prune.text import message_of

__all__ = ["arrays_of", "is_array", "matrix_of", "ones_of", "text_rows"]

NPY = b"\x93NUMPY"
KINDS = "biuf"
"""NumPy's kinds of what may be 0 or 1: booleans, integers, floats."""


def arrays_of(data: bytes, path: Path) -> tuple[Any, Any] | None:
    """(heads, FFNs or None) as nested lists, of a .npy or .safetensors file; None of others. Raises FileFormatError."""
    if data.startswith(NPY):
        return _npy(data, path), None
    return _safetensors(data, path) if is_array(data) else None


def is_array(data: bytes) -> bool:
    """Whether a file's bytes are those of .npy or .safetensors, which begins with the length of its JSON header."""
    header = data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8
    return data.startswith(NPY) or header


def matrix_of(array: Any) -> list[list[bool]]:
    """Rows of 0 and 1 as booleans; shape (layers, heads), or (layers, 1, heads, 1, 1) as transformers expands it.

    Raises MaskShapeError, MaskError.
    """
    if not isinstance(array, list) or not array:
        raise MaskShapeError(f"head_mask is {json_line(array)}; expected a row of 0 and 1 for each layer")
    rows = [ones_of(_unexpanded(row), f"layer {layer}") for layer, row in enumerate(array)]
    if not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise MaskShapeError(f"rows of {len(rows[0])} and {len(next((r for r in rows if len(r) != len(rows[0])), []))}")
    return rows


def ones_of(row: Any, where: str) -> list[bool]:
    """Which entries of a list of 0 and 1 are one. Raises MaskShapeError, MaskError."""
    if not isinstance(row, list):
        raise MaskShapeError(f"{where}: {json_line(row)}; expected a list of 0 and 1")
    for value in row:
        if type(value) not in (bool, int, float) or value not in (0, 1):
            scores = ", scores such as these rank what to prune (docs/masks.md)" if type(value) is float else ""
            raise MaskError(f"{where}: {json_line(value)} is neither 0 nor 1{scores}")
    return [value == 1 for value in row]


def text_rows(text: str) -> list[list[float]]:
    """Lines of numbers, as numpy.savetxt writes them; no rows where a word is no number."""
    number = re.compile(r"[0-9.eE+-]{1,40}|[Tt]rue|[Ff]alse")
    words = [re.split(r"[\s,]+", line.strip().strip("[],")) for line in text.splitlines() if line.strip()]
    if not words or not all(number.fullmatch(word) for line in words for word in line):
        return []
    try:
        return [[float({"true": "1", "false": "0"}.get(word.lower(), word)) for word in line] for line in words]
    except ValueError:
        return []


def _unexpanded(row: Any) -> Any:
    """A layer's row of (1, heads, 1, 1) as (heads,); any other as it is."""
    if isinstance(row, list) and len(row) == 1 and isinstance(row[0], list) and isinstance(row[0][0:1], list):
        heads = row[0]
        if all(isinstance(h, list) and len(h) == 1 and isinstance(h[0], list) and len(h[0]) == 1 for h in heads):
            return [head[0][0] for head in heads]
    return row


def _npy(data: bytes, path: Path) -> Any:
    from numpy.lib import format as npy

    file = io.BytesIO(data)
    try:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(file)]
        shape, _, dtype = read_header(file)
        if dtype.kind not in KINDS or not 0 < math.prod(shape) <= MAX_COMPONENTS:
            raise ValueError(f"an array of {math.prod(shape)} {dtype.name}; expected 0 and 1 for each head")
        file.seek(0)
        return npy.read_array(file, allow_pickle=False).tolist()
    except Exception as error:  # of many kinds: the header is read by Python's own parser
        raise FileFormatError(f"{path}: not read as .npy: {message_of(error)}") from None


def _safetensors(data: bytes, path: Path) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise FileFormatError(f"{path}: not read as .safetensors: {message_of(error)}") from None
    named = {name: tensors.pop(name) for name in ("head_mask", "ffn_mask") if name in tensors}
    if "head_mask" not in named and len(tensors) == 1:
        _, named["head_mask"] = tensors.popitem()
    if tensors or "head_mask" not in named:
        names = ", ".join(map(json_line, sorted(tensors)[:5])) or "none"
        raise FileFormatError(f'{path}: tensors {names}; expected "head_mask", and "ffn_mask" where FFNs go too')
    if odd := [name for name, tensor in named.items() if not 0 < tensor.numel() <= MAX_COMPONENTS]:
        raise FileFormatError(f'{path}: "{odd[0]}" is empty, or larger than the heads of any model')
    lists = {name: tensor.double().tolist() for name, tensor in named.items()}
    return lists["head_mask"], lists.get("ffn_mask")
