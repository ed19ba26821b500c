"""Good inputs, spoilt: values of JSON exchanged, removed, repeated; words of text; bytes of anything."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["mutated"]

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 7.5, -0.5, 0.5, 1e-300, 1e300, -1e300, float("nan"),
    float("inf"), -float("inf"),
    2**31, 2**63, -(2**63), 10**400, "", " ", "x", "0", "1", "-1", "nan", "NaN", "Infinity", "1e999",
    "0.5", "1/3", "²", "٣",
    "five", "null", "None", "true", "../../../x", "/etc/passwd", "a/b", "a\\b", "C:\\x", "..", ".",
    "~", "x" * 300, "x" * 70_000,
    "\x00", "\x1b[31mred", "\x9b2J", "\u202egnp.exe", "\ud800", "é", "模型", "👩‍🔬", "a\nb", "a,b=c",
    "a=b", "=1+1", "{}", "[]",
    "<script>", "{{7*7}}", "%s%n", "$(id)", "`id`", "!!python/object/apply:os.system", [], {}, [[]],
    [{}], [None], [1], ["x"],
    [0.5, 0.5], {"x": 1}, {"": None}, {"x": {"y": {}}}, {"0": [0]}, [1, 2, 3] * 50,
]  # fmt: skip
"""What stands where something else was expected."""
TOKENS = [
    "1e400", "-1e400", "NaN", "-Infinity", "01", "-", "1.", "0x10", "tru", "'x'", "9" * 5000, "1e-400",
    "-0", "-0.0", "1E5",
    "[" * 200_000, '{"a":' * 100_000, '"\\ud800"', '"\\u0000"', "undefined", "", ",", "1,1", "//", "1_000",
]  # fmt: skip
"""What JSON's own writer would not write."""
WORDS = [
    "", " ", "\t", "\n", "\r\n", "\x00", "\ufeff", "\u2028", ",", ",,", "=", "==", ":", "::", "-",
    "--", "- ", "&a ", "*a", "!", "!!",
    "!function x.y", "!!python/object/apply:os.system [id]", "|", ">", "{", "}", "[", "]", "{}", "[]",
    "'", '"', "\\", "#", "%", "@", "`",
    "$HOME", "~", "../..", "/dev/null", "null", "true", "nan", "inf", "-inf", "0", "-1", "1e999",
    "0.5", "9" * 400, "x" * 5000, "²",
]  # fmt: skip


def mutated(data: bytes, form: str, draw: random.Random) -> bytes:
    """`data`, spoilt in one to three places. `form` is json (or lines of JSON), text (YAML, arguments) or bytes."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(WAYS[form])(data, draw)
    return data


def _json(data: bytes, draw: random.Random) -> bytes:
    """One value of a JSON document, or of one of several lines of JSON, is another, gone, elsewhere or there twice."""
    lines = data.split(b"\n") if b"\n{" in data.strip() and not data.startswith(b"{\n") else [data]
    place = draw.randrange(len(lines))
    try:
        content = json.loads(lines[place])
        content = _changed(content, draw)
        lines[place] = json.dumps(content, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
    except (ValueError, RecursionError):
        return _bytes(data, draw)
    return b"\n".join(lines)


def _changed(content: Any, draw: random.Random) -> Any:
    places = list(_places(content))
    if not places or draw.random() < 0.02:
        return copy.deepcopy(draw.choice(ODD))
    holder, key = draw.choice(places)
    way = draw.randrange(10)
    if way < 5:
        holder[key] = copy.deepcopy(draw.choice(ODD))
    elif way == 5:
        del holder[key]
    elif way == 6:  # something of the same file in the wrong place
        other, name = draw.choice(places)
        holder[key] = copy.deepcopy(other[name])
    elif way == 7:
        holder[key] = _other_type(holder[key])
    elif isinstance(holder, dict):
        value = holder.pop(key) if way == 8 else copy.deepcopy(holder[key])
        holder[str(draw.choice([*ODD, str(key).upper(), f"{key} "]))] = value
    else:
        holder.insert(key, copy.deepcopy(holder[key]))
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value inside."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield content, key
        yield from _places(value)


def _other_type(value: Any) -> Any:
    if isinstance(value, str):
        return [value] if len(value) % 2 else {value: value}
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict):
        return list(value.items()) if len(value) % 2 else json.dumps(value)
    return [value] if not isinstance(value, list) else dict(enumerate(value))


def _token(data: bytes, draw: random.Random) -> bytes:
    """A number or text of a JSON document is what JSON does not know; or a key is there twice."""
    found = list(re.finditer(rb'-?\d+(\.\d+)?([eE][-+]?\d+)?|"[^"\\]*"', data))
    if not found:
        return _bytes(data, draw)
    one = draw.choice(found)
    other = one.group() + b":1," + one.group() if draw.random() < 0.2 else draw.choice(TOKENS).encode()
    return data[: one.start()] + other + data[one.end() :]


def _words(data: bytes, draw: random.Random) -> bytes:
    """A word, or what stands between two, is another, gone or there twice; or two lines change places."""
    parts = re.split(rb"([A-Za-z0-9_./+-]+|\n\s*)", data)
    place = draw.randrange(len(parts))
    way = draw.randrange(5)
    if way < 2:
        parts[place] = draw.choice(WORDS).encode()
    elif way == 2:
        parts[place] = b""
    elif way == 3:
        parts.insert(place, parts[place])
    else:
        other = draw.randrange(len(parts))
        parts[place], parts[other] = parts[other], parts[place]
    return b"".join(parts)


def _bytes(data: bytes, draw: random.Random) -> bytes:
    """Bytes are turned, cut, repeated or put in."""
    changed = bytearray(data)
    place = draw.randrange(len(changed) + 1)
    end = min(len(changed), place + draw.choice((1, 1, 4, 16, 256)))
    way = draw.randrange(5)
    if way == 0:
        del changed[place:]
    elif way == 1:
        del changed[place:end]
    elif way == 2:
        changed[place:place] = changed[place:end] * draw.choice((1, 2, 1000))
    elif way == 3:
        changed[place:place] = draw.randbytes(draw.choice((1, 2, 8, 64)))
    elif place < len(changed):
        changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


WAYS: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    "json": (_json, _json, _json, _token, _bytes),
    "text": (_words, _words, _words, _bytes),
    "bytes": (_bytes,),
}
