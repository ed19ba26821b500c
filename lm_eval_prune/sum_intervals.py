"""Intervals of weighted sums of several tasks' mean changes, such as the average over tasks.

They are `unit_intervals.py`'s, of all tasks together: at every sum of differences, the variance of the sum seen is that
of the most likely distributions whose means add up to it, each task's over what was seen in it and a unit lost whole
(empirical likelihood of a sum over samples: Owen, Empirical Likelihood, 2001, chapter 4; of single documents, the score
interval of a stratified difference). How a loss falls on the tasks is left to the likelihood, so that a task of few
documents says as little as it knows, and an average of many small tasks knows as much as one task of all their
documents. Of one task these are its own interval and test.

What tasks have in common is a multiplier: a task of weight a and n documents has the tilt multiplier * a / n.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from lm_eval_prune.intervals import CONTINUITY, POWER, Z, root_between
from lm_eval_prune.unit_intervals import UnitChanges

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["SumOfChanges", "average_margin", "least_sum", "stacked", "sum_limits", "sum_lower_limit", "sum_p"]

STEPS = 80
"""At most, of the search for a task's difference; about six are needed."""
DOUBLINGS = 30
CLOSE = 1e-13
TOLERANCE = 1e-12
"""Of the multiplier's logarithm."""


class SumOfChanges(NamedTuple):
    """Tasks' changes, each in its own documents, and their weights in the sum."""

    changes: UnitChanges
    """(..., tasks, kinds) each; axes before these are samples of their own."""
    weights: Floats
    """(tasks,), above 0; a task that counts negatively has its changes mirrored."""

    @property
    def value(self) -> Floats:
        """The sum of the tasks' weighted mean changes."""
        found: Floats = (self.weights * self.changes.difference).sum(-1)
        return found

    @property
    def mirrored(self) -> SumOfChanges:
        """Losses as gains."""
        return SumOfChanges(self.changes.mirrored, self.weights)


def stacked(tasks: list[tuple[float, UnitChanges]]) -> SumOfChanges:
    """(weight, its changes, of one axis) of each task, in arrays of one shape."""
    kinds = max(changes.counts.size for _, changes in tasks)
    filled = np.zeros((3, len(tasks), kinds))
    filled[1] = 1.0
    for place, (weight, changes) in enumerate(tasks):
        own = filled[:, place, : changes.counts.size]
        own[:] = changes.mirrored if weight < 0 else changes
    return SumOfChanges(UnitChanges(*filled), np.abs([weight for weight, _ in tasks]))


def sum_limits(tasks: SumOfChanges, z: float = Z) -> tuple[Floats, Floats]:
    """The sums that are `z` standard errors from the one seen, below and above."""
    pairs = zip(tasks.changes, tasks.changes.mirrored, strict=True)
    both = UnitChanges(*(np.stack(pair) for pair in pairs))
    low, high = sum_lower_limit(SumOfChanges(both, tasks.weights), z)
    return low, -high


def sum_lower_limit(tasks: SumOfChanges, z: float = Z, beyond: float = 0.0) -> Floats:
    """The sum that is `z` standard errors, and `beyond`, below the one seen."""
    tilted = _Tilted(tasks)

    def outside(multiplier: Floats) -> Floats:
        at = tilted.at(np.exp(multiplier))
        return at.gap - z * at.error - beyond

    found = _root(outside, np.log(max(z, 1e-6) / tilted.scale))
    return tasks.value - tilted.at(np.exp(found)).distance


def sum_p(tasks: SumOfChanges) -> Floats:
    """Two-sided p-value of a sum of 0: the level at which the interval reaches it."""
    gaining = np.where((tasks.value > 0)[..., None, None], tasks.changes.sums, -tasks.changes.sums)
    tasks = SumOfChanges(tasks.changes._replace(sums=gaining), tasks.weights)
    value, tilted = tasks.value, _Tilted(tasks)
    found = _root(lambda multiplier: tilted.at(np.exp(multiplier)).distance - value, np.log(1 / tilted.scale))
    at = tilted.at(np.exp(found))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(value > 0, 2 * ndtr(-np.where(at.gap > 0, at.gap / at.error, 0.0)), 1.0)


@lru_cache(maxsize=1024)
def least_sum(weights: tuple[float, ...], units: tuple[float, ...], z: float = Z) -> float:
    """The smallest loss of a sum that tasks of so many units can exclude, where none of them changes."""
    shares, counts = np.array(weights), np.array(units)

    def at(multiplier: float) -> tuple[float, float]:
        """The loss at a multiplier, and how far beyond the limit it is."""
        losses = np.maximum(1 - counts / (multiplier * shares), 0.0)
        variances = shares**2 * losses * (1 - losses) / counts
        together = float(variances.sum())
        step = float((variances * shares / counts).sum()) / together if together else float((shares / counts).max())
        loss = float((shares * losses).sum())
        return loss, loss - CONTINUITY * step - z * float(np.sqrt(together))

    low = float((counts / shares).min())
    high = 2 * low
    while at(high)[1] < 0:
        low, high = high, 2 * high
    while high / low > 1 + 1e-14:
        middle = float(np.sqrt(low * high))
        if not low < middle < high:
            break
        low, high = (middle, high) if at(middle)[1] < 0 else (low, middle)
    return at(high)[0]


def average_margin(weights: tuple[float, ...], units: tuple[float, ...], changed: float, power: float = POWER) -> float:
    """The smallest margin that a sum of tasks is shown to be within, with that power, where nothing is lost.

    changed: the share of each task's units that change, as many gained as lost.
    """
    half = changed / 2
    tasks = [
        (weight, UnitChanges(np.array([-1.0, 0, 1]), np.ones(3), count * np.array([half, 1 - changed, half])))
        for weight, count in zip(weights, units, strict=True)
    ]
    error = float(np.sqrt(sum(weight**2 * changed / count for weight, count in zip(weights, units, strict=True))))
    found = -float(sum_lower_limit(stacked(tasks), beyond=float(ndtri(power)) * error))
    return max(found, least_sum(weights, units))


def _root(function: Callable[[Floats], Floats], start: Floats) -> Floats:
    """Where `function` of a logarithm is 0; it is negative far below."""
    far = near = start
    at_start = function(start)
    rising, falling = at_start <= 0, at_start > 0
    for step in range(DOUBLINGS):
        if not (rising | falling).any():
            break
        width = 0.1 * 2 ** min(step, 6)
        up, down = np.where(rising, far + width, far), np.where(falling, near - width, near)
        near, far = np.where(rising, far, down), np.where(falling, near, up)
        rising, falling = rising & (function(far) <= 0), falling & (function(near) >= 0)
    return root_between(function, far, near, tolerance=TOLERANCE)


class _At(NamedTuple):
    distance: Floats
    """From the sum seen down to the one at this multiplier."""
    gap: Floats
    """The same, corrected for continuity."""
    error: Floats
    """Standard error of the sum there."""


class _Tilted:
    """The most likely distributions by multiplier."""

    def __init__(self, tasks: SumOfChanges) -> None:
        changes = tasks.changes
        number = changes.counts.sum(-1)
        self.weights, self.chances = tasks.weights, changes.counts / number[..., None]
        there = changes.counts > 0
        self.sums, self.sizes = np.where(there, changes.sums, 0.0), np.where(there, changes.sizes, 1.0)
        size = (self.chances * self.sizes).sum(-1)
        self.typical = (self.chances * self.sizes**2).sum(-1) / size
        self.there, self.documents, self.mean = there, number * size, changes.difference
        self.spread = tasks.weights**2 * number / self.documents**2
        spreads = self.spread * (self.chances * (self.sums - self.sizes * self.mean[..., None]) ** 2).sum(-1)
        least = (tasks.weights * self.typical / self.documents).max(-1) ** 2
        self.scale = np.sqrt(spreads.sum(-1) + least)

    @np.errstate(divide="ignore", invalid="ignore", over="ignore")
    def at(self, multiplier: Floats) -> _At:
        tilt = multiplier[..., None] * self.weights / self.documents
        difference, lost = self._differences(tilt)
        gaps = self.sums - self.sizes * difference[..., None]
        chances = self.chances / np.maximum(1 + tilt[..., None] * gaps, 1e-300)
        missed = np.where(lost, np.maximum(1 - chances.sum(-1), 0.0), 0.0)
        variances = self.spread * ((chances * gaps**2).sum(-1) + missed / tilt**2)
        together = variances.sum(-1)
        steps = self.weights * self.typical / self.documents
        step = np.where(together > 0, (variances * steps).sum(-1) / together, steps.max(-1))
        distance = (self.weights * (self.mean - difference)).sum(-1)
        return _At(distance, distance - CONTINUITY * step, np.sqrt(together))

    def _differences(self, tilt: Floats) -> tuple[Floats, Floats]:
        """Of each task, and whether a unit lost whole has a chance in it."""
        # No kind of unit has a chance above 1.
        rooms = (self.sums + (1 - self.chances) / tilt[..., None]) / self.sizes
        room = np.where(self.there, rooms, np.inf).min(-1)
        most = np.minimum(1 / (tilt * self.typical) - 1, room)

        def excess(difference: Floats) -> tuple[Floats, Floats]:
            gaps = self.sums - self.sizes * difference[..., None]
            scaled = 1 / np.maximum(1 + tilt[..., None] * gaps, 1e-300)
            terms = self.chances * scaled
            return (terms * gaps).sum(-1), -(terms * scaled * self.sizes).sum(-1)

        high = np.minimum(self.mean, most)
        lost = (most < self.mean) & (excess(most)[0] >= 0)
        low, difference = np.full(high.shape, -1.0), high
        for _ in range(STEPS):
            value, slope = excess(difference)
            low, high = np.where(value >= 0, difference, low), np.where(value <= 0, difference, high)
            step = difference - value / slope
            following = np.where((step >= low) & (step <= high), step, (low + high) / 2)
            following = np.where(lost, most, following)
            close = np.abs(following - difference) <= CLOSE
            difference = following
            if close.all():
                break
        return difference, lost
