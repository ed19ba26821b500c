"""Shares of components as exact decimals.

`int(0.29 * 100)` is 28: in binary 0.29 is a little less. A fraction here is the decimal that was written, so that 0.29
of 100 components is 29.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

from lm_eval_prune.errors import FractionError

__all__ = ["number_pruned", "parse_fraction"]


def parse_fraction(value: str | int | float | Decimal | Fraction, name: str = "fraction") -> Fraction:
    """The exact value of a share from 0 to 1; a float stands for its shortest decimal. Raises FractionError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal | Fraction):
        raise FractionError(f"{name}={value!r}: expected a number from 0 to 1")
    try:
        fraction = Fraction(value) if isinstance(value, Fraction) else Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError):
        raise FractionError(f"{name}={value!r}: expected a number from 0 to 1") from None
    if not 0 <= fraction <= 1:
        raise FractionError(f"{name}={value}: expected a number from 0 to 1")
    return fraction


def number_pruned(fraction: Fraction, total: int) -> int:
    """floor(fraction * total), exactly."""
    return math.floor(fraction * total)
