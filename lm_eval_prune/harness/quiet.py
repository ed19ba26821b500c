"""The harness without its own logging and bars, where a command of ours shows one bar over many evaluations."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import lm_eval.api.task

__all__ = ["quiet_harness"]


@contextmanager
def quiet_harness() -> Iterator[None]:
    """The harness logs a dozen lines an evaluation and shows a bar a task; here only errors are said."""
    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, lm_eval.api.task.tqdm
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
