"""JSON files: read strictly, written atomically. Nothing here unpickles or runs anything.

Reading refuses what would be read silently as something else: repeated keys, NaN, a file larger than `MAX_BYTES`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ArgumentError, FileFormatError

__all__ = [
    "MAX_BYTES",
    "is_same_file",
    "json_line",
    "plain_json",
    "read_json",
    "require_format",
    "require_no_input",
    "require_writable",
    "sha256_of",
    "write_bytes",
    "write_json",
]

MAX_BYTES = 64 * 2**20
"""Larger files are not read: the importance scores of a 100-billion-parameter model take under 1 MiB."""


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in the file `path`. Raises FileFormatError, whose message names the file."""
    path = Path(path)
    data = _read_bytes(path)
    if data[:1] == b"\x80" or data[:2] == b"PK":
        raise FileFormatError(f"{path}: a pickle or zip archive, which is never loaded; expected a JSON text file")
    try:
        content = json.loads(
            data.decode("utf-8"), object_pairs_hook=_without_repeated_keys, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: not a text file (byte {error.start} is not UTF-8); expected JSON") from None
    except RecursionError:
        raise FileFormatError(f"{path}: JSON nested too deeply") from None
    except ValueError as error:
        raise FileFormatError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise FileFormatError(f"{path}: expected a JSON object, found {_json_type(content)}")
    return content


def require_format(
    content: Mapping[str, Any], where: object, *, name: str, version: int, required: set[str], optional: set[str]
) -> None:
    """Check a file's `format`, `version` and keys. Raises FileFormatError naming the first thing that is wrong."""
    found = content.get("format")
    if found != name:
        raise FileFormatError(f'{where}: "format" is {json_line(found)}; expected "{name}"')
    found = content.get("version")
    if type(found) is not int or found != version:
        raise FileFormatError(f'{where}: "version" is {json_line(found)}; this release reads version {version}')
    if missing := required - content.keys():
        raise FileFormatError(f"{where}: {_quoted(missing)} missing")
    if unknown := content.keys() - required - optional - {"format", "version"}:
        raise FileFormatError(f"{where}: unknown key {_quoted(unknown)}; known are {_quoted(required | optional)}")


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any], *, text: str | None = None) -> None:
    """Write `content` (or its rendering `text`) so that `path` holds the old or the new file whole, never a part."""
    text = text if text is not None else json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def is_same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether both paths lead to one file, through links and in whatever spelling the file system allows."""
    try:
        return Path(one).samefile(other)
    except OSError:  # one of the two is not there
        return False


def require_no_input(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise ArgumentError where `output` is one of the files that are read, and writing it would lose that one."""
    if any(is_same_file(output, path) for path in inputs):
        raise ArgumentError(f"{output}: is read and would be lost; give another --output_path")


def require_writable(folder: Path) -> None:
    """Raise FileFormatError where no file can be written into `folder`, or where it cannot be made. Makes nothing."""
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise FileFormatError(f"{folder}: cannot be written: {error.strerror or error}") from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that `path` holds the old or the new one whole, and the new one survives a power cut.

    Raises FileFormatError where it cannot be written; then nothing is left behind.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be written: {error.strerror or error}") from error


def plain_json(content: Mapping[str, Any], default: Callable[[Any], Any]) -> dict[str, Any]:
    """`content` as plain JSON values, as a file would give them back; `default` renders what JSON does not know."""
    result: dict[str, Any] = json.loads(json.dumps(content, default=default, ensure_ascii=False))
    return result


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(_read_bytes(Path(path))).hexdigest()


def json_line(value: object, *, width: int = 60) -> str:
    """`value` as JSON on one line, cut to `width` characters, for error messages."""
    line = json.dumps(value, ensure_ascii=False, default=str)
    return line if len(line) <= width else line[: width - 3] + "..."


def _read_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise FileFormatError(f"{path}: a folder; expected a JSON file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise FileFormatError(
                f"{path}: {size / 2**20:,.0f} MiB, too large to be a mask or importance file "
                f"(limit {MAX_BYTES // 2**20} MiB); not read"
            )
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file") from None
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:  # a pipe or device has no size to look at beforehand
        raise FileFormatError(f"{path}: too large to be a mask or importance file; not read")
    return data


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {json_line(repeated)} repeated in one object")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _json_type(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _quoted(names: set[str]) -> str:
    return ", ".join(json_line(name) for name in sorted(names))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can sync folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
