"""Shares of components as exact decimals.

`int(0.29 * 100)` is 28: in binary 0.29 is a little less. A fraction here is the decimal that was written, so that 0.29
of 100 components is 29.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction

from lm_eval_prune.errors import FractionError

__all__ = ["DECIMAL", "number_pruned", "parse_fraction"]

DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
"""What is read as a number. An exponent of more digits would be a number of gigabytes."""


def parse_fraction(value: str | int | float | Decimal | Fraction, name: str = "fraction") -> Fraction:
    """The exact value of a share from 0 to 1; a float stands for its shortest decimal. Raises FractionError.

    Text is a decimal, such as `0.3`, `.3` or `3e-1`: files and tables name shares by their decimals, which 1/3 has not.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal | Fraction):
        raise FractionError(f"{name}={value!r}: expected a number from 0 to 1")
    text = str(value).strip()
    if not isinstance(value, Fraction) and not DECIMAL.fullmatch(text):
        raise FractionError(f"{name}={value!r}: expected a number from 0 to 1, a decimal such as 0.3")
    fraction = value if isinstance(value, Fraction) else Fraction(text)
    if not 0 <= fraction <= 1:
        raise FractionError(f"{name}={value}: expected a number from 0 to 1")
    return fraction


def number_pruned(fraction: Fraction, total: int) -> int:
    """floor(fraction * total), exactly."""
    return math.floor(fraction * total)
