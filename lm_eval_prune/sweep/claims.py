"""Who computes what: a lock file a cell, so that several processes share a folder.

The operating system lets go of a dead process's lock, so a cell whose process was killed is free at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lm_eval_prune.errors import FileFormatError

__all__ = ["claim", "clear_claims", "is_claimed"]


def _lock(folder: Path, name: str) -> FileLock:
    path = folder / "claims" / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f"{path.parent}: cannot be written: {error.strerror or error}") from None
    return FileLock(path, is_singleton=False)


@contextmanager
def claim(folder: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """Whether `name` is this process's inside; False where another has it (never, with `wait`).

    Whoever gets a claim looks first whether the work has been done meanwhile.
    """
    lock = _lock(folder, name)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise FileFormatError(f"{lock.lock_file}: cannot be locked: {error.strerror or error}") from None
    try:
        _remove_unfinished(folder, name)
        yield True
    finally:
        lock.release()


def is_claimed(folder: Path, name: str) -> bool:
    """Whether a living process has it now."""
    if not (folder / "claims" / f"{name}.lock").exists():
        return False
    lock = _lock(folder, name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def clear_claims(folder: Path, names: list[str]) -> None:
    """Remove the lock files of work that is done."""
    for name in names:
        (folder / "claims" / f"{name}.lock").unlink(missing_ok=True)
    try:
        (folder / "claims").rmdir()
    except OSError:
        return  # others are at work


def _remove_unfinished(folder: Path, name: str) -> None:
    """What a process that was killed while writing left: only the claim's owner writes these names."""
    for place in ("cells", "failed"):
        for left in (folder / place).glob(f".{name}.*.tmp"):
            left.unlink(missing_ok=True)
