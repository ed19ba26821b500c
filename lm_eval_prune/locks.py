"""Locks of the operating system on files: it lets go of them when the process that holds them ends, however it ends.

A lock file may be removed by whoever holds it, as it is let go of. A process that had the removed file open then
notices that its lock is of a file that is no longer there, and asks again. A forked child does not inherit a lock: one
that outlived its parent would hold it for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["NO_LOCKS", "held", "hold", "is_still", "let_go", "lock_descriptor"]

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system says that has no locks, as some of clusters."""

_held: set[int] = set()
"""Descriptors of files that this process has locked."""


@contextmanager
def held(path: Path | str, *, wait: bool = False, remove: bool = False) -> Iterator[bool]:
    """Whether `path` is this process's inside; False where another has it (never, with `wait`). Raises OSError.

    With `remove` the lock file is gone behind it, where this process had it.
    """
    descriptor = hold(path, wait=wait)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            let_go(descriptor, remove=path if remove else None)


def hold(path: Path | str, *, wait: bool = False) -> int | None:
    """Lock the file `path`, made if need be; None where another process has it. `let_go` takes what is returned.

    A link is not followed. Raises OSError.
    """
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o666)
        try:
            if not lock_descriptor(descriptor, wait=wait):
                os.close(descriptor)
                return None
            if is_still(descriptor, path):
                return descriptor
        except BaseException:
            let_go(descriptor)
            raise
        let_go(descriptor)


def lock_descriptor(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file; False where another process has it. Raises OSError where the file system has no locks."""
    while not _locked(descriptor, wait):
        if not wait:
            return False
    _held.add(descriptor)
    return True


if sys.platform == "win32":
    import msvcrt

    def _locked(descriptor: int, wait: bool) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):  # another has it; LK_LOCK gives up after ten seconds
                return False
            raise
        return True

else:
    import fcntl

    def _locked(descriptor: int, wait: bool) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def let_go(descriptor: int, *, remove: Path | str | None = None) -> None:
    """Close it: with its last descriptor a file is unlocked. `remove` is the path of a lock file that goes with it.

    It goes before it is unlocked: later it could be the next process's. On Windows it goes afterwards: no open file can
    be removed there, and so none of the next process's either.
    """
    _held.discard(descriptor)
    if remove is not None and sys.platform != "win32":
        _remove(remove)
    os.close(descriptor)
    if remove is not None and sys.platform == "win32":
        _remove(remove)


def _remove(path: Path | str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


def is_still(descriptor: int, path: Path | str) -> bool:
    """Whether the open file is the one that lies there now."""
    with contextlib.suppress(FileNotFoundError):
        there, ours = os.lstat(path), os.fstat(descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
    return False


def _forget() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
