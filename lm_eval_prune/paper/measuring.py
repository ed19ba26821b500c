"""A number with its 95 % interval, over tasks or over pairs of tasks.

Of scores the tasks are what was drawn: the interval is Student's t over them, of means over pairs of tasks by the
jackknife that leaves out one task at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_prune.report.parts import Mean

__all__ = ["Measured", "jackknife", "over_pairs", "over_tasks"]


@dataclass(frozen=True)
class Measured:
    """A quantity with its 95 % interval."""

    value: float
    low: float
    high: float
    """nan where there is no interval."""
    basis: str
    """What the interval is over: `documents`, `tasks` or `sequences`."""
    count: int
    """How many of them."""
    note: str = ""
    """The numbers behind it."""
    obstacle: str = ""
    """Why it cannot be shown to hold, whatever the interval says."""


def over_tasks(values: Sequence[float], note: str = "") -> Measured | None:
    """The mean over tasks, with Student's t; None without any."""
    if not len(values):
        return None
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Measured(mean, math.nan, math.nan, "tasks", count, note)
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    return Measured(mean, *Mean(value=mean, error=error, freedom=count - 1).interval, "tasks", count, note)


def over_pairs(names: Sequence[str], of_pair: Callable[[str, str], float], note: str = "") -> Measured | None:
    """The mean over pairs of tasks, by the jackknife over tasks; None with fewer than two, no interval with two."""
    table = {frozenset(pair): of_pair(*pair) for pair in itertools.combinations(names, 2)}
    table = {pair: value for pair, value in table.items() if not math.isnan(value)}
    if not table:
        return None
    without = [[value for pair, value in table.items() if name not in pair] for name in names]
    left = [float(np.mean(values)) for values in without if values]
    return jackknife(float(np.mean(list(table.values()))), left, len(names), note)


def jackknife(value: float, left: Sequence[float], count: int, note: str) -> Measured:
    """A value over `count` tasks by those that it has without each; no interval where one cannot be left out."""
    if count < 3 or len(left) < count:
        return Measured(value, math.nan, math.nan, "tasks", count, note)
    error = math.sqrt((count - 1) / count * float(((np.array(left) - np.mean(left)) ** 2).sum()))
    return Measured(value, *Mean(value=value, error=error, freedom=count - 1).interval, "tasks", count, note)
