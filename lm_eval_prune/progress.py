"""What a terminal shows of long work: bars that tick, and whole lines above them. Elsewhere the lines are all."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lm_eval_prune.text import printable

__all__ = ["Bar", "loading_the_model", "say", "take_over_bars_of_weights", "working"]

TICK_SECONDS = 1.0
"""How often a bar shows the time that has passed, whatever has been done of its work."""
STAGE = "{desc} [{elapsed}]"


class Bar(tqdm):
    """tqdm's bar, on a terminal alone, as wide as that, ticking while a step takes long."""

    def __init__(self, *args: Any, disable: bool = False, **settings: Any) -> None:
        super().__init__(*args, disable=True if disable else None, dynamic_ncols=True, **settings)
        if not self.disable:
            _ticker.follow(self)


def say(line: str) -> None:
    """A whole line on stdout, above the bars; on a terminal that is narrower it goes on below, broken at blanks."""
    line = printable(line)
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        line = textwrap.fill(line, columns, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


@contextmanager
def working(text: str, say: Callable[[str], None] = say, *, shown: bool = True) -> Iterator[None]:
    """Show on a terminal how long work has been at `text`, of which nothing can be counted; elsewhere `say` it."""
    with Bar(desc=text, bar_format=STAGE, leave=False, disable=not shown) as bar:
        if bar.disable and shown:
            say(text)
        yield


_taken_over = threading.Event()


def take_over_bars_of_weights() -> None:
    """For commands of ours: transformers' bar over a model's weights, which leaves a line, is not shown any more, and
    `loading_the_model` says it. The bars of downloads stay.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    of_downloads = not are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the user's environment keeps the bars of downloads
        logging.disable_progress_bar()
    if of_downloads:
        enable_progress_bars()
    _taken_over.set()


@contextmanager
def loading_the_model() -> Iterator[None]:
    """Shows that a model is loaded, where transformers' own bar was taken over; what is logged stands above it."""
    if not _taken_over.is_set():
        yield
        return
    with logging_redirect_tqdm(), working("Loading the model", lambda line: None):
        yield


class _Ticker:
    """A thread that refreshes bars until none is left; it holds no lock of theirs while the process forks."""

    def __init__(self) -> None:
        self.bars: weakref.WeakSet[Bar] = weakref.WeakSet()
        self.at_work = threading.Lock()
        self.thread: threading.Thread | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self.at_work.acquire, after_in_parent=self.at_work.release, after_in_child=self._in_child
            )

    def follow(self, bar: Bar) -> None:
        with self.at_work:
            self.bars.add(bar)
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._tick, name="progress", daemon=True)
                self.thread.start()

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            with self.at_work:
                for bar in list(self.bars):
                    if bar.disable:
                        self.bars.discard(bar)
                    else:
                        bar.refresh()
                if not self.bars:
                    self.thread = None
                    return

    def _in_child(self) -> None:
        self.bars.clear()
        self.thread = None
        self.at_work.release()


_ticker = _Ticker()
