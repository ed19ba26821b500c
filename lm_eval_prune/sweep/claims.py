"""Who computes what: a lock file a cell, so that several processes share a folder.

The operating system lets go of a dead process's lock, so a cell whose process was killed is free at once. Lock files
are empty and have names of ours; nothing else in the folder is touched, and a link in its place is not followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.locks import NO_LOCKS, hold, let_go

__all__ = ["claim", "claimed", "clear_claims", "is_claimed", "present"]

NAMES = re.compile(r"(plan|process-[\w.-]+|importance-.+|[0-9a-f]{24})\.lock")
"""Lock files of a sweep."""


def claim_path(folder: Path, name: str) -> Path:
    return folder / "claims" / f"{name}.lock"


@contextmanager
def claim(folder: Path, name: str, *, wait: bool = False, remove: bool = False) -> Iterator[bool]:
    """Whether `name` is this process's inside; False where another has it (never, with `wait`).

    With `remove` its lock file is gone behind it, where this process had it.
    Whoever gets a claim looks first whether the work has been done meanwhile. Raises FileFormatError.
    """
    path = claim_path(folder, name)
    try:
        lock = _hold(path, wait)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise FileFormatError(
                f"{folder}: its file system has no locks (flock), by which processes share a sweep; give an "
                "--output_path elsewhere"
            ) from None
        raise FileFormatError(f"{path}: cannot be locked: {error.strerror or error}") from None
    try:
        yield lock is not None
    finally:
        if lock is not None:
            let_go(lock, remove=path if remove else None)


def _hold(path: Path, wait: bool) -> int | None:
    """Raises OSError where it cannot be locked, FileFormatError where there is no folder to do it in."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            there = next(folder for folder in path.parents if os.path.lexists(folder))
            if not there.is_dir():
                raise FileFormatError(f"{there}: cannot be written: {error.strerror}") from None
            continue  # it was there, and another process has cleared it away before it was looked at
        except OSError as error:
            raise FileFormatError(f"{path.parent}: cannot be written: {error.strerror or error}") from None
        if path.parent.is_symlink():
            raise FileFormatError(f"{path.parent}: a link; those in a sweep's folder are not followed; remove it")
        with contextlib.suppress(FileNotFoundError):  # another process has just cleared the folder away
            return hold(path, wait=wait)


@contextmanager
def present(folder: Path) -> Iterator[str]:
    """Inside, others see that this process is at work in the folder: as the claim of this name."""
    name = f"process-{uuid.uuid4().hex}"
    with claim(folder, name, remove=True):
        yield name


def is_claimed(folder: Path, name: str) -> bool:
    """Whether a living process has it now."""
    path = claim_path(folder, name)
    if not path.is_file() or path.parent.is_symlink():
        return False
    try:
        with claim(folder, name) as free:
            return not free
    except FileFormatError:  # a folder that may only be read
        return False


def claimed(folder: Path, prefix: str) -> list[str]:
    """What begins so and a living process has now."""
    return [path.stem for path in _lock_files(folder) if path.name.startswith(prefix) and is_claimed(folder, path.stem)]


def clear_claims(folder: Path, is_done: Callable[[str], bool]) -> None:
    """Remove the lock files that nobody holds, of work that is done."""
    for path in _lock_files(folder):
        if is_done(path.stem):
            with claim(folder, path.stem, remove=True):
                pass
    with contextlib.suppress(OSError):  # others are at work
        (folder / "claims").rmdir()


def _lock_files(folder: Path) -> list[Path]:
    """Ours: of our names, empty, and no links."""
    if (folder / "claims").is_symlink():
        return []
    try:
        paths = sorted(path for path in (folder / "claims").iterdir() if NAMES.fullmatch(path.name))
    except OSError:
        return []
    return [path for path in paths if not path.is_symlink() and path.is_file() and _is_empty(path)]


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False
