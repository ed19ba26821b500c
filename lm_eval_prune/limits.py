"""How many documents of a task are taken, and of which split.

`limit` is a number of documents, or a share of all of them below 1.

The harness takes the whole part of what is no whole number: of `--limit 2.5` two documents, of nan a traceback. Here
such a limit is an error, wherever it comes from.
"""

from __future__ import annotations

import math
from fractions import Fraction
from numbers import Real
from typing import Any

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.fractions import DECIMAL

__all__ = ["MOST_DOCUMENTS", "SPLITS", "checked_limit", "number_limited"]

MOST_DOCUMENTS = 10**12
"""More than any task has."""
SPLITS = ("training", "validation", "test")
"""A task's splits by what it uses them for, whatever its data set calls them."""


def checked_limit(value: Any, name: str = "limit") -> int | float | None:
    """A limit from text or a number: an int from 1 on, a float below, or None for all. Raises ArgumentError."""
    if value is None:
        return None
    # Blanks alone: `strip` takes characters for blanks that `float` does not.
    number: Any = float(value) if isinstance(value, str) and DECIMAL.fullmatch(value.strip(" ")) else value
    known = isinstance(number, Real) and not isinstance(number, bool)
    if known and 0 < number <= MOST_DOCUMENTS:
        if number < 1:
            return float(number)
        if number == int(number):
            return int(number)
    # Beyond, it may have more digits than Python writes.
    beyond = isinstance(number, int | Fraction) and not -MOST_DOCUMENTS <= number <= MOST_DOCUMENTS
    shown = "a number beyond 10^12" if beyond else str(value)[:60]
    raise ArgumentError(f"{name}={shown}: expected a whole number of documents, at least 1, or a share below 1")


def number_limited(total: int, limit: float | None) -> int:
    """How many of `total` documents a checked limit takes; of a share the harness takes the next whole number."""
    if limit is None:
        return total
    return min(total, math.ceil(total * limit) if limit < 1 else int(limit))
