"""Files: read within bounds, written atomically; `strict_json.py` makes values of them. Nothing here unpickles."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from lm_eval_prune.errors import ArgumentError, FileFormatError
from lm_eval_prune.locks import is_still, let_go, lock_descriptor
from lm_eval_prune.strict_json import json_line, parse_json
from lm_eval_prune.text import spreadsheet_text, without_halves

__all__ = [
    "MAX_BYTES",
    "digest",
    "files_below",
    "is_folder",
    "is_pickle",
    "is_same_file",
    "json_line",
    "opened",
    "plain_json",
    "read_bytes",
    "read_json",
    "remove_temporaries",
    "require_no_input",
    "require_ours",
    "require_writable",
    "sha256_of",
    "write_bytes",
    "write_csv",
    "write_json",
]

MAX_BYTES = 64 * 2**20
"""Larger files are not read: the importance scores of a 100-billion-parameter model take under 1 MiB."""


def read_json(path: str | os.PathLike[str], *, allow_nan: bool = False, allow_halves: bool = False) -> dict[str, Any]:
    """The JSON object in the file `path`, read by `strict_json.parse_json`. Raises FileFormatError naming the file."""
    path = Path(path)
    data = read_bytes(path)
    if is_pickle(data):
        raise FileFormatError(f"{path}: a pickle or zip archive, which is never loaded; expected a JSON text file")
    content = parse_json(data, path, allow_nan=allow_nan, allow_halves=allow_halves)
    if not isinstance(content, dict):
        raise FileFormatError(f"{path}: expected a JSON object, found {_json_type(content)}")
    return content


def is_pickle(data: bytes) -> bool:
    """Whether the bytes of a file are those of a pickle, or of a zip archive, in which PyTorch packs its own."""
    return data[:1] == b"\x80" or data[:2] == b"PK"


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any], *, text: str | None = None) -> None:
    """Write `content` (or its rendering `text`) so that `path` holds the old or the new file whole, never a part."""
    text = text if text is not None else json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        data = f"{text}\n".encode()
    except UnicodeEncodeError:
        raise FileFormatError(f"{path}: cannot be written: half of a surrogate pair in it is no text") from None
    write_bytes(path, data)


def write_csv(
    path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
) -> None:
    """Write records as CSV for spreadsheets, under the first one's keys or `names`, atomically."""
    buffer, names = io.StringIO(newline=""), names or list(records[0])
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(spreadsheet_text, names))
    writer.writerows([spreadsheet_text(record[name]) for name in names] for record in records)
    write_bytes(path, buffer.getvalue().encode())


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder of this name; not where no file system takes the name, as one of 5,000 letters."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def files_below(folder: str | os.PathLike[str], ending: str) -> list[Path]:
    """Everything in a folder whose name ends so, at any depth, in order; what is no file is for the reader to say.

    Links to folders are not followed: they may lead to the whole disk. What cannot be looked into is passed over.
    """
    found = ((place, name) for place, folders, names in os.walk(folder) for name in (*folders, *names))
    return sorted(Path(place, name) for place, name in found if name.endswith(ending))


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


def require_ours(path: str | os.PathLike[str]) -> None:
    """Raise ArgumentError where `path` is a file that does not say in its first lines that it is of this package.

    Such a file that was cut off still says so; an empty one is nobody's.
    """
    path = Path(path)
    if path.exists() and (data := read_bytes(path)) and b'"lm-eval-prune-' not in data[:1000]:
        raise ArgumentError(f"{path}: is there and is no file of lm-eval-prune; it is not replaced; give another name")


def require_writable(folder: Path) -> None:
    """Raise FileFormatError where no file can be written into `folder`, or where it cannot be made. Makes nothing."""
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise FileFormatError(f"{folder}: cannot be written: {error.strerror or error}") from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that `path` holds the old or the new one whole, and the new one survives a power cut.

    What killed processes have left of such writing in the same folder is removed. Pipes and devices, such as
    /dev/stdout, are written to and stay what they are. Raises FileFormatError where the file cannot be written; then
    nothing is left behind.
    """
    path = Path(path)
    if "\0" in str(path):
        raise FileFormatError(f"{str(path)!r}: no file can have this name")
    try:
        if _is_a_stream(path):
            with path.open("wb") as stream:
                stream.write(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if (folder := path.parent.absolute()) not in _cleaned:
            remove_temporaries(folder)
            _cleaned.add(folder)
        descriptor, temporary, guard = _temporary(path)
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
        finally:
            if guard is not None:
                let_go(guard)
        _sync_folder(path.parent)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be written: {error.strerror or error}") from error


def _is_a_stream(path: Path) -> bool:
    """Whether it is a pipe or a device, or leads to what a process has open: no other file may take its place."""
    if path.exists() and not path.is_file() and not path.is_dir():
        return True
    return path.absolute().parts[:2] == ("/", "proc") or path.absolute().parent in (Path("/dev"), Path("/dev/fd"))


TEMPORARY = ".lm-eval-prune.tmp"
"""How the names of files end that are being written."""
WINDOWS = os.name == "nt"
_cleaned: set[Path] = set()
"""Folders that this process has cleaned."""


def remove_temporaries(folder: str | os.PathLike[str]) -> None:
    """Remove what `write_bytes` was writing into `folder` in processes that were killed: living ones hold locks."""
    for path in Path(folder).glob(f".*{TEMPORARY}"):
        if WINDOWS or path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(OSError), path.open("rb+") as file:
            descriptor = os.dup(file.fileno())
            try:
                if lock_descriptor(descriptor):
                    path.unlink(missing_ok=True)
            finally:
                let_go(descriptor)


def _temporary(path: Path) -> tuple[int, str, int | None]:
    """A new file beside `path`: (its descriptor, its path, a second descriptor that holds its lock)."""
    while True:
        # Names of 255 bytes are the longest; this one needs some for itself.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:50]}.", suffix=TEMPORARY, dir=path.parent)
        if WINDOWS:  # an open file cannot be renamed there
            return descriptor, temporary, None
        guard = os.dup(descriptor)
        with contextlib.suppress(OSError):  # a file system without locks: nothing there is taken for left behind
            lock_descriptor(guard, wait=True)
        if is_still(guard, temporary):
            return descriptor, temporary, guard
        os.close(descriptor)  # another process took it for left behind before it was locked
        let_go(guard)


def plain_json(content: Mapping[str, Any], default: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """`content` as plain JSON values, as a file would give them back; `default` renders what JSON does not know.

    Halves of surrogate pairs are spelt out: no file can hold them.
    """
    result: dict[str, Any] = json.loads(without_halves(json.dumps(content, default=default, ensure_ascii=False)))
    return result


def digest(content: Any) -> str:
    """SHA-256, in hexadecimal, of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a small file's bytes, in hexadecimal. Raises FileFormatError as `read_bytes` does."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], expected: str) -> Iterator[BinaryIO]:
    """A file, open for reading. Raises FileFormatError naming it, also for what goes wrong while it is read.

    Pipes and devices are refused: they may have nothing to say, or no end, and cannot be read again.
    """
    path = Path(path)
    if "\0" in str(path):
        raise FileFormatError(f"{str(path)!r}: no such file")
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise FileFormatError(f"{path}: a folder; expected a file of {expected}")
        if not stat.S_ISREG(mode):
            raise FileFormatError(f"{path}: a pipe, socket or device; expected a file of {expected}")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file") from None
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_bytes(path: str | os.PathLike[str], expected: str = "JSON") -> bytes:
    """The bytes of a file of at most MAX_BYTES. Raises FileFormatError naming the file."""
    with opened(path, expected) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(MAX_BYTES + 1) if size <= MAX_BYTES else b""
    if max(size, len(data)) > MAX_BYTES:  # or it grows while it is read
        raise FileFormatError(f"{path}: {size / 2**20:,.0f} MiB, too large (limit {MAX_BYTES // 2**20} MiB); not read")
    return data


def _json_type(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


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
