"""`--model_args`: a harness model's arguments, in every form that `lm_eval run` takes, read in this one place.

    pretrained=facebook/opt-125m,dtype=float32      text; commas within brackets, braces and quotes do not divide
    ["pretrained=facebook/opt-125m", "revision=x"]  several texts, as the words of a command line
    {"pretrained": "lr=0.1,seed=1"}                 JSON, or the mapping itself, as YAML gives it

Values are what `lm_eval run` makes of them: `true` and `false`, numbers, Python's literals; all else is text. Two
things differ, on purpose: spaces around names and values do not count, and names, paths and shares (`TEXTS`) stay the
text that was written, so that a commit `1234567` is no number and a share keeps its decimals; None is as if they were
not given.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import json_line

__all__ = ["model_args_text", "parse_model_args"]

TEXTS = {
    "pretrained", "revision", "subfolder", "tokenizer", "peft", "delta", "gguf_file", "offload_folder", "dtype",
    "device", "scorer", "load", "mask", "head_importance", "prune_heads", "ffn_importance", "prune_ffns",
}  # fmt: skip
"""Arguments that are never numbers: a name, a path or an exact decimal."""

EXAMPLE = "expected name=value, such as pretrained=facebook/opt-125m"
QUOTES, OPENING, CLOSING = "\"'", "[({", "])}"


def parse_model_args(given: str | Mapping[str, Any] | Sequence[str] | None) -> dict[str, Any]:
    """The arguments by name, in the order given; of one that is given twice the last counts. Raises ArgumentError."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return _checked(given)
    if not isinstance(given, Sequence):
        raise ArgumentError(f"model_args: {given!r}; {EXAMPLE}")
    arguments: dict[str, Any] = {}
    for text in [given] if isinstance(given, str) else given:
        if not isinstance(text, str):
            raise ArgumentError(f"model_args: {text!r}; {EXAMPLE}")
        arguments |= _of_json(text) if text.lstrip().startswith("{") else _of_text(text)
    return arguments


def model_args_text(arguments: Mapping[str, Any]) -> str:
    """One text that `parse_model_args` reads as these arguments: `name=value,name=value` where that is enough."""
    text = ",".join(f"{name}={value}" for name, value in arguments.items())
    try:
        same = repr(parse_model_args(text)) == repr(dict(arguments))
    except ArgumentError:
        same = False
    return text if same else json.dumps(arguments, ensure_ascii=False, default=str)


def _checked(arguments: Mapping[Any, Any]) -> dict[str, Any]:
    if broken := [name for name in arguments if not isinstance(name, str) or name.strip() in ("", "self")]:
        raise ArgumentError(f"model_args: {broken[0]!r}: not the name of an argument; {EXAMPLE}")
    checked = {}
    for name, value in arguments.items():
        if name in TEXTS and type(value) in (int, float):
            value = str(value)
        elif name in TEXTS and not isinstance(value, (str, type(None))):
            raise ArgumentError(f"model_args: {name}: expected text, found {json_line(value)}")
        if value is not None or name not in TEXTS:
            checked[name] = value
    return checked


def _of_json(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
    except RecursionError:
        raise ArgumentError("model_args: JSON nested too deeply") from None
    except ValueError as error:
        raise ArgumentError(f"model_args: not valid JSON ({error}); JSON's texts stand in double quotes") from None
    return _checked(arguments)


def _of_text(text: str) -> dict[str, Any]:
    arguments = {}
    for part in filter(str.strip, _parts(text)):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ArgumentError(f"model_args: {part.strip()[:60]!r}; {EXAMPLE}")
        arguments[name] = _unquoted(value.strip()) if name in TEXTS else _value(value.strip())
    return _checked(arguments)


def _parts(text: str) -> Iterator[str]:
    """What stands between commas that are outside of brackets, braces and quotes."""
    start, depth, quote = 0, 0, ""
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES:
            quote = character
        elif character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth = max(depth - 1, 0)
        elif character == "," and not depth:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for read in (_whole_number, float, _literal):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue  # a value is text where it is nothing else
    return text


def _whole_number(text: str) -> int:
    if not text.isnumeric():
        raise ValueError(text)
    return int(text)


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's opinion of what only looks like its own
        return ast.literal_eval(text)


def _unquoted(text: str) -> str | None:
    """Text as it is, without the quotes around it; None where Python's None is written."""
    if text == "None":
        return None
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES else text
