"""Stop signals that are not lost, and always end in the same exit code.

A signal handler raises wherever Python happens to be. Within `__del__` or a callback of C code the exception is printed
and dropped, so `check` raises it again at the next good place. Within `exec`, a plain KeyboardInterrupt leaves a mark
by which Python ends itself with SIGINT later, even where the exception was caught; a subclass does not.
"""

from __future__ import annotations

import signal
from typing import Any, NoReturn

__all__ = ["Stopped", "check", "ignore_stop_signals", "raise_on_stop_signals"]


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came."""


_asked = False


def raise_on_stop_signals() -> None:
    """From now on SIGINT and SIGTERM raise Stopped in the main thread."""
    global _asked
    _asked = False
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)


def ignore_stop_signals() -> None:
    """From now on they do nothing: the process is ending."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def check() -> None:
    """Raise Stopped where one of the signals came; call it between steps of long work, not while cleaning up."""
    if _asked:
        raise Stopped


def _raise(*_: Any) -> NoReturn:
    global _asked
    _asked = True
    raise Stopped
