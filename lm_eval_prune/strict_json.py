"""JSON from files of strangers -> values that are what they seem and cost what they weigh.

What a lenient reader takes silently as something else is refused: repeated keys, NaN, numbers beyond a float's range.
So is what is cheap to write and dear to read: deep nesting, millions of values, integers of thousands of digits.
`validated` holds the values to a schema, a pydantic model. Every error is one line.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.text import without_halves

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Model = TypeVar("Model", bound=BaseModel)

__all__ = ["MAX_DEPTH", "MAX_DIGITS", "MAX_VALUES", "decoded", "json_line", "parse_json", "validated"]

MAX_DEPTH = 100
"""Lists and objects within one another. Python's own limit is near a thousand, less what calls are open."""
MAX_VALUES = 5_000_000
"""Elements of all lists and objects, commas within texts counted too: each may take 200 bytes of memory."""
MAX_DIGITS = 300
"""Of an integer; the largest float has 309."""
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
"""What editors on Windows put before a text."""
HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def decoded(data: bytes, where: object, expected: str = "JSON") -> str:
    """The text in a file: UTF-8, or what a byte order mark says. Raises FileFormatError that begins with `where`."""
    mark = next((mark for mark in BYTE_ORDER_MARKS if data.startswith(mark)), b"")
    try:
        return data[len(mark) :].decode(BYTE_ORDER_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{where}: not a text file (byte {error.start} is not {error.encoding.upper()}); expected {expected}"
        ) from None


def parse_json(data: bytes, where: object, *, allow_nan: bool = False, allow_halves: bool = False) -> Any:
    """The JSON value in `data`. Raises FileFormatError that begins with `where`.

    Results of other programs may hold what Python's own reader takes: `allow_nan` takes NaN, Infinity and numbers
    beyond a float's range (integers of more than MAX_DIGITS digits too, which are Infinity then), `allow_halves` texts
    with one half of a surrogate pair, which becomes its number, `<U+D800>`: no file and no terminal takes it.
    """
    text = decoded(data, where)
    if sum(map(text.count, "[{,")) > MAX_VALUES:
        raise FileFormatError(f"{where}: more than {MAX_VALUES:,} values; not read")
    try:
        content = json.loads(
            text,
            object_pairs_hook=_without_repeated_keys,
            parse_constant=None if allow_nan else _refuse_constant,
            parse_float=None if allow_nan else _finite,
            parse_int=_integer_or_infinity if allow_nan else _integer,
        )
        _require_shallow(content)
        if HALF_A_PAIR.search(text):
            if not allow_halves:
                _require_text(content)
            content = _spelt_out(content)
    except RecursionError:
        raise FileFormatError(f"{where}: nested too deeply (more than {MAX_DEPTH} levels)") from None
    except _RefusedError as error:
        raise FileFormatError(f"{where}: {error}") from None
    except ValueError as error:
        raise FileFormatError(f"{where}: not valid JSON: {error}") from None
    return content


def validated(model: type[Model], content: Mapping[str, Any], where: object) -> Model:
    """`content` as the pydantic `model`. Raises FileFormatError: one line that begins with `where` and names the key.

    What is expected of a key is its field's `description`. `format` and `version`, where the model has them, are
    literals of one value.
    """
    from pydantic import ValidationError

    for key, expected in (("format", "expected"), ("version", "this release reads version")):
        if key in model.model_fields:
            (right,) = get_args(model.model_fields[key].annotation)
            found = content.get(key)
            if type(found) is not type(right) or found != right:  # True is 1 to pydantic
                raise FileFormatError(f'{where}: "{key}" is {json_line(found)}; {expected} {json_line(right)}')
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise FileFormatError(f"{where}: {_first_fault(model, error)}") from None


def json_line(value: object, *, width: int = 60) -> str:
    """`value` as JSON on one line, cut to `width` characters, for error messages."""
    try:
        line = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError, TypeError):  # nested too deeply, or in itself
        line = f"a {type(value).__name__}"
    return line if len(line) <= width else line[: width - 3] + "..."


def _first_fault(model: type[BaseModel], error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    fields = model.model_fields
    if missing := sorted(
        str(fault["loc"][0]) for fault in faults if fault["type"] == "missing" and fault["loc"][1:] == ()
    ):
        return f"{', '.join(map(json_line, missing))} missing"
    fault = faults[0]
    if fault["type"] == "extra_forbidden":
        known = ", ".join(json_line(name) for name in sorted(fields.keys() - {"format", "version"}))
        return f"unknown key {json_line(fault['loc'][-1])}; known are {known}"
    key = str(fault["loc"][0]) if fault["loc"] else ""
    place = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"][1:])
    description = fields[key].description if key in fields else None
    expected = f"expected {description}" if description else str(fault["msg"]).removeprefix("Value error, ")
    return f"{json_line(place)} is {json_line(fault['input'])}; {expected}" if key else expected


class _RefusedError(ValueError):
    """JSON that is not taken."""


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedError(f"key {json_line(key)} repeated in one object")
            seen.add(key)
    return content


def _require_shallow(content: Any) -> None:
    """Raise _RefusedError where values are nested more than MAX_DEPTH deep: what walks them later may call itself."""
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [
            part
            for value in level
            if isinstance(value, dict | list)
            for part in (value.values() if isinstance(value, dict) else value)
            if isinstance(part, dict | list)
        ]
        if not level:
            return
    raise _RefusedError(f"nested too deeply (more than {MAX_DEPTH} levels)")


def _require_text(content: Any) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        raise _RefusedError(f"\\u{half:04x} is half of a surrogate pair, which is no text") from None


def _spelt_out(content: Any) -> Any:
    if isinstance(content, str):
        return without_halves(content)
    if isinstance(content, dict):
        return {_spelt_out(key): _spelt_out(value) for key, value in content.items()}
    return [_spelt_out(value) for value in content] if isinstance(content, list) else content


def _refuse_constant(name: str) -> None:
    raise _RefusedError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _RefusedError(f"{text[:20]} is beyond the largest number")
    return number


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _RefusedError(f"a number of {len(text)} digits; expected at most {MAX_DIGITS}")
    return int(text)


def _integer_or_infinity(text: str) -> int | float:
    if len(text) <= MAX_DIGITS:
        return int(text)
    return -math.inf if text.startswith("-") else math.inf
