"""Is a difference real? Exact and resampling tests on paired outcomes, corrected for how many were made.

Resampling is over documents. A mean over n documents with few different values has a bootstrap distribution that
depends only on how often each value occurs, so that resamples are drawn as multinomial counts: the same distribution as
drawing documents one by one, at a cost that does not grow with n.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr, ndtr, ndtri, stdtr  # scipy.stats takes a second to import

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "bootstrap_means",
    "bootstrap_p",
    "difference_of_errors",
    "holm",
    "interval",
    "mcnemar",
]

RESAMPLES = 2000
CONFIDENCE = 0.95


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """McNemar's exact two-sided p-value of paired outcomes 0 or 1: a binomial test of the pairs that differ."""
    first, second = np.asarray(first), np.asarray(second)
    gained, lost = int((first < second).sum()), int((first > second).sum())
    if gained + lost == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def bootstrap_means(values: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """(resamples,): means of `values` drawn with replacement, as many as there are."""
    values = np.asarray(values, dtype=float)
    found, counts = np.unique(values, return_counts=True)
    if found.size == 1:
        return np.full(resamples, found[0])
    if found.size <= 32:
        return rng.multinomial(values.size, counts / values.size, size=resamples) @ found / values.size
    # In pieces of at most 4 million draws, so that memory stays small whatever the number of documents.
    step = max(1, 4_000_000 // values.size)
    pieces = [
        values[rng.integers(values.size, size=(min(step, resamples - start), values.size))].mean(1)
        for start in range(0, resamples, step)
    ]
    return np.concatenate(pieces)


def interval(means: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentile interval of bootstrap means."""
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_p(means: NDArray[np.float64], values: ArrayLike) -> float:
    """Two-sided p-value that the mean of the differences `values` is 0, from their bootstrap `means`; never quite 0.

    Twice the share of means on or beyond 0, the observed one counted among them. Where none is, that share only says
    how many means were drawn (2 / 2001 of 2000, too coarse to be corrected for many comparisons), and p is the paired
    t-test's instead, if that is smaller. Both can be absurdly small for a few nearly equal differences; so p is then
    no smaller than an exact sign test's can be, 2 * 0.5**n of n differences other than 0.
    """
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (means.size + 1))
    if beyond:
        return p
    values = np.asarray(values, dtype=float)
    sign_test = min(1.0, 2 * 0.5 ** int(np.count_nonzero(values)))
    return max(min(p, _t_test(values)), sign_test, sys.float_info.min)


def _t_test(values: NDArray[np.float64]) -> float:
    """Two-sided p-value of Student's t-test that the mean of `values` is 0; 0 where all are equal, and not 0."""
    error = float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else 0.0
    return 0.0 if error == 0 else 2 * float(stdtr(values.size - 1, -abs(float(values.mean())) / error))


def difference_of_errors(difference: float, first: float, second: float) -> tuple[float, float, float]:
    """(low, high, p) of a difference of two means from their standard errors alone, as if they were independent."""
    error = float(np.hypot(first, second))
    if error == 0:
        return difference, difference, 1.0 if difference == 0 else 0.0
    reach = float(ndtri((1 + CONFIDENCE) / 2)) * error
    return difference - reach, difference + reach, 2 * float(ndtr(-abs(difference) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that may be compared with one level whatever their number."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted
