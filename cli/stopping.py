"""Ctrl-C, and SIGTERM, during a command that can be started again: one line, exit code 130."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from lm_eval_prune.sweep.stopping import ignore_stop_signals, raise_on_stop_signals, was_asked
from lm_eval_prune.text import printable

__all__ = ["GOES_ON", "is_first_process", "stoppable"]

GOES_ON = "the same command goes on from there"
"""The end of every such line."""


def is_first_process() -> bool:
    """Of those of accelerate launch."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def stoppable(kept: Callable[[], str]) -> Iterator[None]:
    """Inside, stop signals end the command; `kept` says what is there then."""
    raise_on_stop_signals()  # before anything is imported, which takes seconds
    try:
        yield
    except BaseException:
        # Not only Stopped: what is imported may make another error of it.
        if not was_asked():
            raise
        ignore_stop_signals()  # a launcher sends its own behind the terminal's
        if is_first_process():
            click.echo(f"stopped; {printable(kept())}; {GOES_ON}", err=True)
        sys.exit(130)
