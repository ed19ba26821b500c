"""Intervals of mean changes where documents share passages: what the passages drawn may have missed is not excluded.

A *unit* is what was drawn independently: all documents of a passage, or one document's mean over several draws. With
few units no variance of what was seen is enough: where one passage in a hundred is lost whole, 83 of them hold none in
43 % of samples, and look like those of a model that loses nothing. Here the variance of the units' mean, if it were a
difference d, is that of the most likely distribution with this mean over what was seen *and a unit lost* (or gained)
*whole* (empirical likelihood: Owen, Biometrika 75 (1988) 237-249), and limits are where the mean seen is `z` such
standard errors away. For documents by themselves that distribution is Tango's, so are the limits, and at 0 the test is
McNemar's; where passages change whole it is that of the passages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtr

from lm_eval_prune.intervals import CONTINUITY, Z, root_between

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["UnitChanges", "lower_limit", "unit_changes", "unit_limits", "unit_p"]

STEPS = 60
"""At most, of the search for a tilt; about six are needed."""
CLOSE = 1e-10
TOLERANCE = 1e-13
"""Of a limit."""


class UnitChanges(NamedTuple):
    """How many units changed in which way; axes before the last are samples of their own."""

    sums: Floats
    """(..., kinds): the sum of a unit's changes, each in [-1, 1]."""
    sizes: Floats
    """(..., kinds): its documents."""
    counts: Floats
    """(..., kinds): units of the kind; 0 where there is none."""

    @property
    def difference(self) -> Floats:
        """The mean change of a document."""
        found: Floats = (self.counts * self.sums).sum(-1) / (self.counts * self.sizes).sum(-1)
        return found

    @property
    def units(self) -> Floats:
        """How many units of equal size tell as much, where all documents of a unit change together."""
        found: Floats = (self.counts * self.sizes).sum(-1) ** 2 / (self.counts * self.sizes**2).sum(-1)
        return found

    @property
    def discordance(self) -> Floats:
        """The mean square of a unit's change, of 1 where it changes whole."""
        found: Floats = (self.counts * self.sums**2).sum(-1) / (self.counts * self.sizes**2).sum(-1)
        return found

    @property
    def mirrored(self) -> UnitChanges:
        """Losses as gains."""
        return self._replace(sums=-self.sums)


def unit_changes(changes: ArrayLike, units: ArrayLike | None = None) -> UnitChanges:
    """The kinds of units in `changes`, (documents,) numbers in [-1, 1].

    units: (documents,) numbers 0, 1, ... of the unit that each document is of; each its own, if None.
    """
    sums = np.asarray(changes, dtype=float)
    sizes = np.ones(sums.size)
    if units is not None:
        numbers = np.asarray(units)
        sums, sizes = np.bincount(numbers, sums), np.bincount(numbers).astype(float)
    kinds, counts = np.unique(np.round(sums, 12) + 1j * sizes, return_counts=True)
    return UnitChanges(kinds.real, kinds.imag, counts.astype(float))


def unit_limits(changes: UnitChanges, z: float = Z) -> tuple[Floats, Floats]:
    """The mean changes that are `z` standard errors from the one seen, below and above; within [-1, 1]."""
    both = UnitChanges(*(np.stack(pair) for pair in zip(changes, changes.mirrored, strict=True)))
    low, high = lower_limit(both, z)
    return low, -high


def lower_limit(changes: UnitChanges, z: float = Z) -> Floats:
    """The mean change that is `z` standard errors below the one seen."""
    mean, tested = changes.difference, _tested(changes)

    def beyond(difference: Floats) -> Floats:
        gap, error = tested(difference)
        return gap - z * error

    # Tango's limit of as many documents, nearly: most searches end near it.
    part = z**2 / changes.units
    reach = (part + np.sqrt(part**2 + 4 * part * np.maximum(changes.discordance - mean**2, 0))) / 2
    least = np.full(mean.shape, CLOSE - 1)
    far, near = np.maximum(mean - 1.4 * reach, least), np.maximum(mean - 0.8 * reach, least)
    far = np.where(beyond(far) > 0, far, least)
    near = np.where(beyond(near) < 0, near, np.maximum(mean - CLOSE, least))
    return np.maximum(root_between(beyond, far, near, tolerance=TOLERANCE), -1.0)


def unit_p(changes: UnitChanges) -> Floats:
    """Two-sided p-value of no change in the mean: the level at which the interval reaches 0."""
    gaining = np.where((changes.difference > 0)[..., None], changes.sums, -changes.sums)
    gap, error = _tested(changes._replace(sums=gaining))(np.zeros(changes.difference.shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * ndtr(-np.where(gap > 0, gap / error, 0.0))


def _tested(changes: UnitChanges) -> Callable[[Floats], tuple[Floats, Floats]]:
    """A difference -> how far above it the mean change is, corrected for continuity, and its standard error there."""
    number, mean = changes.counts.sum(-1), changes.difference
    weights = changes.counts / number[..., None]
    size = (weights * changes.sizes).sum(-1)
    typical = (weights * changes.sizes**2).sum(-1) / size
    correction, scale = CONTINUITY * typical / (number * size), size * np.sqrt(number)
    there = changes.counts > 0
    sums, sizes = np.where(there, changes.sums, 0.0), np.where(there, changes.sizes, 0.0)

    def found(difference: Floats) -> tuple[Floats, Floats]:
        gaps = sums - sizes * difference[..., None]
        lost = np.maximum(np.maximum(typical * (1 + difference), -gaps.min(-1)), CLOSE)
        return mean - difference - correction, np.sqrt(_tilted_variance(gaps, weights, lost)) / scale

    return found


def _tilted_variance(gaps: Floats, weights: Floats, lost: Floats) -> Floats:
    """E[gap**2] under the most likely distribution over `gaps` and -`lost` whose mean is 0; their own is above 0.

    gaps, weights: (..., kinds); lost: (...). A tilt t gives a gap the chance weight / (1 + t * gap). At t = 1 / lost
    the gaps' own mean may still be above 0: then -`lost` has the chance that is left.
    """
    tilt = 1 / lost
    chances = weights / np.maximum(1 + tilt[..., None] * gaps, 1e-300)
    enough = (chances * gaps).sum(-1) >= 0
    if not enough.all():
        tilt = np.where(enough, tilt, _tilt(gaps, weights, tilt))
        chances = weights / np.maximum(1 + tilt[..., None] * gaps, 1e-300)
    missed = np.where(enough, np.maximum(1 - chances.sum(-1), 0), 0.0)
    found: Floats = (chances * gaps**2).sum(-1) + missed * lost**2
    return found


def _tilt(gaps: Floats, weights: Floats, most: Floats) -> Floats:
    """The t between 0 and `most` for which the mean of the tilted gaps is 0, by Newton's steps within bounds."""
    low, high, tilt = np.zeros(most.shape), most, np.zeros(most.shape)
    for _ in range(STEPS):
        scaled = gaps / np.maximum(1 + tilt[..., None] * gaps, 1e-300)
        mean = (weights * scaled).sum(-1)
        low, high = np.where(mean > 0, tilt, low), np.where(mean > 0, high, tilt)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = tilt + mean / (weights * scaled**2).sum(-1)
        following = np.where((step > low) & (step < high), step, (low + high) / 2)
        close = np.abs(following - tilt) <= CLOSE * following
        tilt = following
        if close.all():
            break
    return tilt
