"""Stop signals that are not lost, and always end in the same exit code.

A signal handler raises wherever Python happens to be. Within `__del__` or a callback of C code the exception is printed
and dropped, so `check` raises it again at the next good place. Within `exec`, a plain KeyboardInterrupt leaves a mark
by which Python ends itself with SIGINT later, even where the exception was caught; a subclass does not.

The handler is this process's alone. Forked children (the harness's bootstrap, data loaders, `datasets.map`) get back
what was there before: a pool ends its workers with SIGTERM, and waits for ever for one that raises instead of ending.
Processes that are started anew (spawn, Ray) inherit no handlers.
"""

from __future__ import annotations

import os
import signal
from typing import Any

__all__ = ["STOP_SIGNALS", "Stopped", "check", "forget", "ignore_stop_signals", "raise_on_stop_signals", "was_asked"]

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came."""


_asked = False
_process: int | None = None
"""The process that the handlers are for."""
_before: dict[int, Any] = {}
"""Signal -> what handled it before us."""


def raise_on_stop_signals() -> None:
    """From now on SIGINT and SIGTERM raise Stopped in the main thread of this process."""
    global _asked
    _asked = False
    _handle(_raise)


def ignore_stop_signals() -> None:
    """From now on they do nothing: the process is ending."""
    _handle(signal.SIG_IGN)


def check() -> None:
    """Raise Stopped where one of the signals came; call it between steps of long work, not while cleaning up."""
    if _asked:
        raise Stopped


def was_asked() -> bool:
    """Whether one of the signals came."""
    return _asked


def forget() -> None:
    """As in a process that was never asked to stop, and has no handlers of ours."""
    global _asked
    _asked = False
    for number in STOP_SIGNALS:
        if number in _before or signal.getsignal(number) is _raise:
            signal.signal(number, _before.get(number, signal.SIG_DFL))
    _before.clear()


def _handle(handler: Any) -> None:
    global _process
    _process = os.getpid()
    for number in STOP_SIGNALS:
        before = signal.signal(number, handler)
        # None is a handler that is not Python's: it cannot be put back.
        _before.setdefault(number, signal.SIG_DFL if before is None else before)


def _raise(number: int, frame: Any) -> None:
    global _asked
    if os.getpid() != _process:  # it came to a child before the child had its own handlers back
        forget()
        os.kill(os.getpid(), number)
        return
    _asked = True
    raise Stopped


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)
