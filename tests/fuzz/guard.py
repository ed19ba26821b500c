"""Watches code at work: where it writes, whether it starts or calls anything, how much time and memory it takes."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["MAX_BYTES", "MAX_SECONDS", "Reached", "TooSlow", "confined"]

MAX_SECONDS = 10.0
MAX_BYTES = 2 * 10**9
"""Of address space beside what the process has."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = (
    "os.chmod",
    "os.chown",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
)
CALLS = (
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pickle.find_class",
    "socket.connect", "socket.getaddrinfo", "subprocess.Popen",
)  # fmt: skip


class Reached(BaseException):
    """Something was written, removed, started or called outside of the input's folder."""


class TooSlow(BaseException):
    """An input took longer than MAX_SECONDS."""


class _Hook:
    """The one audit hook, which can be set but never taken away: it looks while there is a folder to look at."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.reached: list[str] = []
        self.added = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in CALLS:
            self._refuse(f"{event} {arguments[:2]!r}")
        elif event == "open":
            path, mode, flags = arguments
            writes = flags & WRITING if mode is None else set(mode) & set("wax+")
            if writes and not isinstance(path, int):
                self._require_inside(event, path)
        elif event in CHANGES:
            for path in arguments[: 2 if event in ("os.link", "os.rename", "os.symlink") else 1]:
                self._require_inside(event, path)

    def _require_inside(self, event: str, path: Any) -> None:
        found = os.path.realpath(os.fsdecode(path))
        if found not in (os.devnull, self.folder) and not found.startswith(f"{self.folder}{os.sep}"):
            self._refuse(f"{event} {found}")

    def _refuse(self, what: str) -> None:
        self.reached.append(what)
        raise Reached(what)


_hook = _Hook()


@contextmanager
def confined(folder: Path) -> Iterator[None]:
    """Raise Reached, TooSlow or MemoryError where the code inside goes beyond `folder`, MAX_SECONDS or MAX_BYTES.

    What it catches of these is raised at the end.
    """
    if not _hook.added:
        sys.addaudithook(_hook)
        _hook.added = True
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    start = _clock()
    handler = signal.signal(signal.SIGALRM, lambda number, frame: _look(start))
    _hook.folder, _hook.reached = os.path.realpath(folder), []
    try:
        resource.setrlimit(resource.RLIMIT_AS, (size + MAX_BYTES, limits[1]))
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        yield
    finally:
        with suppress(ValueError):
            signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, handler)
        _hook.folder = None
    if _hook.reached:
        raise Reached(_hook.reached[0])
    if _clock() - start > MAX_SECONDS:
        raise TooSlow(f"{_clock() - start:.1f} s")


def _look(start: float) -> None:
    """When the alarm rings: raise TooSlow, or set it again for as long as this process has waited for its turn."""
    left = MAX_SECONDS - (_clock() - start)
    if left <= 0:
        raise TooSlow(f"more than {MAX_SECONDS:g} s")
    signal.setitimer(signal.ITIMER_REAL, left + 0.01)


def _clock() -> float:
    """Seconds that go on while this process computes or sleeps, and stand still while others have the processors."""
    waited = 0
    with suppress(OSError):
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    return time.monotonic() - waited / 1e9
