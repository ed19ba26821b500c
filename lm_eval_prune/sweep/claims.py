"""Who computes what: a lock file a cell, so that several processes share a folder.

The operating system lets go of a dead process's lock, so a cell whose process was killed is free at once.
"""

from __future__ import annotations

import contextlib
import glob
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lm_eval_prune.errors import FileFormatError

__all__ = ["claim", "claimed", "clear_claims", "is_claimed"]


def _lock(folder: Path, name: str) -> FileLock:
    path = folder / "claims" / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f"{path.parent}: cannot be written: {error.strerror or error}") from None
    return FileLock(path, is_singleton=False)


@contextmanager
def claim(folder: Path, name: str, *, writes: Iterable[Path] = (), wait: bool = False) -> Iterator[bool]:
    """Whether `name` is this process's inside; False where another has it (never, with `wait`).

    What a process that was killed left of `writes`, the files that only the claim's owner writes, is removed. Whoever
    gets a claim looks first whether the work has been done meanwhile. Raises FileFormatError.
    """
    lock = _lock(folder, name)
    try:
        with warnings.catch_warnings():
            # filelock's way out, marker files, would keep the claims of processes that died on another machine.
            warnings.filterwarnings("error", "flock not supported")
            lock.acquire(timeout=-1 if wait else 0)
    except (NotImplementedError, UserWarning):
        raise FileFormatError(
            f"{folder}: its file system has no locks (flock), by which processes share a sweep; give an --output_path "
            "elsewhere"
        ) from None
    except Timeout:
        yield False
        return
    except OSError as error:
        raise FileFormatError(f"{lock.lock_file}: cannot be locked: {error.strerror or error}") from None
    try:
        for path in writes:
            for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                left.unlink(missing_ok=True)
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
    except OSError:  # a folder that may only be read
        return False
    lock.release()
    return False


def claimed(folder: Path, prefix: str) -> list[str]:
    """What begins so and a living process has now."""
    names = sorted(path.stem for path in (folder / "claims").glob(f"{prefix}*.lock"))
    return [name for name in names if is_claimed(folder, name)]


def clear_claims(folder: Path, is_done: Callable[[str], bool]) -> None:
    """Remove the lock files that nobody holds, of work that is done."""
    for path in (folder / "claims").glob("*.lock"):
        with claim(folder, path.stem) as free:
            if free and is_done(path.stem):
                path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others are at work
        (folder / "claims").rmdir()
