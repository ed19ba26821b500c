"""Intervals of means and of paired differences that keep their level with few documents, and sample sizes from them.

Here each document was drawn by itself; `unit_intervals.py` is for those that share a passage. Functions take numbers or
arrays that broadcast; limits are at `z` standard errors of a normal distribution, 1.96 for 95 %.

Sources: Tango, Statistics in Medicine 17 (1998) 891-908, the score interval of a difference of paired proportions, here
with a small correction for continuity (CONTINUITY); Wilson, JASA 22 (1927) 209-212, that of one proportion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri  # scipy.stats takes a second to import

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "CONTINUITY",
    "Changes",
    "Z",
    "detectable_loss",
    "documents_needed",
    "holm",
    "margin_shown",
    "root_between",
    "score_limits",
    "score_p",
    "score_statistic",
    "smallest_margin",
    "wilson_limits",
]

Z = float(ndtri(0.975))
"""Standard errors to each side of a 95 % interval."""
CONTINUITY = 3 / 16
"""Documents by which the distance of a difference is taken to be smaller, as outcomes are whole documents. Yates's half
makes intervals too wide; with this, by enumeration, no size and discordance has more than 5 % false differences, and no
95 % interval covers less than 94 % (with an eighth: 93.8 % where 0.4 % of 1,838 answers change, all of them losses)."""
POWER = 0.8
ROUNDS = 100
"""At most, of the search for a limit; about ten are needed."""
TOLERANCE = 1e-11
"""Of a limit."""
CLOSEST = 1e-10
"""To the mean change, where the search begins: where nothing changed the statistic is 0 there too."""


class Changes(NamedTuple):
    """What changed between two runs on the same documents, each of which was drawn by itself."""

    documents: Any
    """Their number n."""
    gained: Any
    """Documents right in the first run only."""
    lost: Any
    """Documents right in the second run only."""

    @property
    def difference(self) -> Any:
        """The mean change."""
        return (self.gained - self.lost) / self.documents

    @property
    def discordance(self) -> Any:
        """The share of documents that changed."""
        return (self.gained + self.lost) / self.documents


def score_statistic(changes: Changes, difference: ArrayLike) -> Floats:
    """Standard errors between the mean change and `difference`, with the variance that documents would then have.

    Tango's statistic, its variance at the maximum-likelihood estimate under `difference`; at 0 it is McNemar's. Its
    numerator is nearer to 0 by CONTINUITY documents.
    """
    variance = _variance(changes, np.asarray(difference, dtype=float))
    gap = changes.difference - np.asarray(difference, dtype=float)
    corrected = np.sign(gap) * np.maximum(np.abs(gap) - CONTINUITY / changes.documents, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(corrected == 0, 0.0, corrected / np.sqrt(variance))


def score_p(changes: Changes) -> Floats:
    """Two-sided p-value of no change: McNemar's test, corrected for continuity by CONTINUITY."""
    return 2 * ndtr(-np.abs(score_statistic(changes, 0.0)))


def score_limits(changes: Changes, z: ArrayLike = Z) -> tuple[Floats, Floats]:
    """The differences that are `z` standard errors from the mean change, below and above; within [-1, 1]."""
    changes = Changes(*(np.asarray(value, dtype=float)[..., None] for value in changes))
    z, mean = np.asarray(z, dtype=float)[..., None], changes.difference
    side = np.array([-1.0, 1.0])

    def beyond(difference: Floats) -> Floats:
        spread = z * np.sqrt(_variance(changes, difference))
        return (difference - mean) * side - CONTINUITY / changes.documents - spread

    shape = np.broadcast_shapes(side.shape, np.shape(z), *(value.shape for value in changes))
    near = np.broadcast_to(np.clip(mean + side * CLOSEST, -1, 1), shape)
    low, high = np.moveaxis(root_between(beyond, np.broadcast_to(side, shape), near), -1, 0)
    return low, high


def _variance(changes: Changes, difference: Floats) -> Floats:
    """Of the mean change, if it were `difference` in expectation."""
    n, gained, lost = changes.documents, changes.gained, changes.lost
    # The chance of a loss under the constraint: the root of 2n q^2 + linear q - lost * difference * (1 - difference).
    linear = (2 * n - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    chance = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0)) - linear) / (4 * n)
    found: Floats = np.maximum(2 * chance + difference * (1 - difference), 0) / n
    return found


def root_between(function: Any, far: Floats, near: Floats, tolerance: float = TOLERANCE) -> Floats:
    """Where `function`, positive at `far` and negative at `near`, is 0 (Chandrupatla, Adv. Eng. Software 28, 1997).

    Where it is not negative at `near`, that is the answer.
    """
    one, two = far, near
    at_one, at_two = function(one), function(two)
    three, at_three, share = one, at_one, np.full(far.shape, 0.5)
    settled = (at_two >= 0) | (at_one <= 0)
    for _ in range(ROUNDS):
        middle = one + share * (two - one)
        value = function(middle)
        same = (value > 0) == (at_one > 0)
        three, at_three = np.where(same, one, two), np.where(same, at_one, at_two)
        two, at_two = np.where(same, two, one), np.where(same, at_two, at_one)
        one, at_one = middle, value
        best = np.where(np.abs(at_two) < np.abs(at_one), two, one)
        width = np.abs(two - one)
        done = settled | (width < tolerance) | (np.abs(at_one) < tolerance)
        if done.all():
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            place, height = (one - two) / (three - two), (at_one - at_two) / (at_three - at_two)
            inverse = (height**2 < place) & ((1 - height) ** 2 < 1 - place)
            step = at_one / (at_two - at_one) * at_three / (at_two - at_three)
            step += (three - one) / (two - one) * at_one / (at_three - at_one) * at_two / (at_three - at_two)
            least = tolerance / 2 / width
        share = np.where(done, 0.0, np.where(inverse, np.clip(step, least, 1 - least), 0.5))
    return np.where(settled, near, best)


def wilson_limits(share: ArrayLike, count: ArrayLike, z: ArrayLike = Z) -> tuple[Floats, Floats]:
    """Wilson's limits of a proportion `share` of `count` documents, or of as many as tell as much."""
    share, count = np.asarray(share, dtype=float), np.asarray(count, dtype=float)
    z2 = np.asarray(z, dtype=float) ** 2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = np.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return np.maximum(middle - reach, 0.0), np.minimum(middle + reach, 1.0)


def smallest_margin(units: ArrayLike, z: float = Z) -> Floats:
    """The smallest loss that `units` can exclude, where none of them changes."""
    count = np.asarray(units, dtype=float)
    linear = z**2 + 2 * CONTINUITY
    found: Floats = (linear + np.sqrt(linear**2 - 4 * (count + z**2) * CONTINUITY**2 / count)) / (2 * (count + z**2))
    return found


def documents_needed(margin: float, changed: float = 0.0, power: float = POWER) -> int:
    """Units for "within the margin" to be said with that power where nothing is lost, so many of them `changed`.

    As many are gained as lost. With `changed=0` the number below which no outcome can show it.
    """
    share = changed / 2
    variance = float(_variance(Changes(1.0, share, share), np.asarray(-margin)))
    reach = Z * math.sqrt(variance) + float(ndtri(power)) * math.sqrt(changed)
    enough = (reach + math.sqrt(reach**2 + 4 * margin * CONTINUITY)) / (2 * margin)
    linear = Z**2 * (1 - margin) + 2 * CONTINUITY
    least = (linear + math.sqrt(linear**2 - 4 * CONTINUITY**2)) / (2 * margin)  # `smallest_margin` is the margin
    return math.ceil(max(enough**2, least) - 1e-9)


def margin_shown(units: float, changed: float = 0.0, power: float = POWER) -> float:
    """The smallest margin for which `units` are those of `documents_needed`."""
    low, high = float(smallest_margin(units)), 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if documents_needed(middle, changed, power) <= units else (middle, high)
    return high


def detectable_loss(
    units: ArrayLike, discordance: ArrayLike, power: float = POWER, weights: ArrayLike | None = None
) -> float:
    """The smallest loss that so many units would show as one, with that power at the 5 % level, two-sided.

    discordance: the mean square of what changed in a unit; that which a loss implies is taken where it is more.
    weights: (tasks,), of a sum over tasks that all lose as much; then `units` and `discordance` are of each.
    """
    counts, seen = np.atleast_1d(np.asarray(units, dtype=float)), np.atleast_1d(np.asarray(discordance, dtype=float))
    shares = np.ones(counts.shape) if weights is None else np.abs(np.asarray(weights, dtype=float))
    scale = float((shares**2 / counts).sum())
    step = float((shares**3 / counts**2).sum()) / scale
    low, high = 0.0, 1.0
    for _ in range(60):
        loss = (low + high) / 2
        spread = np.maximum(seen, loss)
        without, there = ((shares**2 * one / counts).sum() for one in (spread, np.maximum(spread - loss**2, 0.0)))
        reach = Z * math.sqrt(without) + float(ndtri(power)) * math.sqrt(there) + CONTINUITY * step
        low, high = (loss, high) if loss * float(shares.sum()) < reach else (low, loss)
    return high * float(shares.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that may be compared with one level whatever their number.

    nan, where there is no p-value, stays, and counts as none.
    """
    adjusted, highest = [math.nan] * len(p_values), 0.0
    known = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    for place, (p, index) in enumerate(known):
        adjusted[index] = highest = max(highest, min(1.0, (len(known) - place) * p))
    return adjusted
