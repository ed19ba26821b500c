"""Is a difference real, and is a loss small? Intervals, p-values and sample sizes of weighted sums over tasks.

A part (`parts.py`) is what one task's documents say; an `Estimate` is a weighted sum of parts, such as the average over
tasks. Its interval is built from the parts' own by the method of variance estimates recovery (Zou and Donner,
Statistics in Medicine 27, 2008, 1693-1702), so that it keeps what they know of few documents. Draws (few-shot seeds,
random masks) are a second source of variance, which all tasks may share. The p-value is the level at which the interval
reaches 0, so that the two never contradict one another.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from lm_eval_prune.intervals import Changes, Z, root_between, score_limits
from lm_eval_prune.report.parts import Paired, PairedUnits, Part, student_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Estimate"]

STEP = 1.05
"""By which levels are searched for, at first."""
FARTHEST = 37.0
"""Standard errors; p-values beyond are below what a float holds."""


@dataclass(frozen=True)
class Estimate:
    """A weighted sum of parts with its interval."""

    parts: Sequence[tuple[float, Part]]
    """(weight, part)."""

    @property
    def value(self) -> float:
        return math.fsum(weight * part.value for weight, part in self.parts)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.limits(Z)

    def limits(self, z: float) -> tuple[float, float]:
        """Below and above, at the level of `z` normal standard errors."""
        return self.value - self._reach(z, below=True), self.value + self._reach(z, below=False)

    @cached_property
    def p(self) -> float:
        """Two-sided p-value that the value is 0: the level at which the interval reaches it. Never quite 0."""
        value = self.value
        if value == 0:
            return 1.0
        if (
            len(self.parts) == 1
            and isinstance(part := self.parts[0][1], Paired | PairedUnits)
            and not part.draws.values
        ):
            return max(part.p, sys.float_info.min)

        def beyond(z: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.array([self._reach(float(z[0]), below=value > 0) - abs(value)])

        near, far = self._around(beyond, Z * abs(value) / self._reach(Z, below=value > 0))
        if far > FARTHEST:
            return sys.float_info.min
        z = float(root_between(beyond, np.array([far]), np.array([near]), tolerance=1e-13)[0])
        return max(2 * float(ndtr(-z)), sys.float_info.min)

    @cached_property
    def share_of_draws(self) -> float:
        """How much of the squared width of the interval comes from draws; nan where there is one draw."""
        if not self._levels:
            return math.nan
        below = self.value - self.interval[0]
        return self._draws(Z) / below**2 if below else 0.0

    @property
    def changed(self) -> float:
        """Mean share of documents with another outcome; nan where runs are not paired."""
        return math.fsum(abs(weight) * part.changed for weight, part in self.parts)

    @property
    def detectable(self) -> float:
        """The smallest loss that would be shown four times of five, by the documents of these draws."""
        return math.hypot(*(weight * part.detectable for weight, part in self.parts))

    def least(self, times: float = 1.0) -> float:
        """The smallest loss that so many times the documents can exclude, where none of them changes."""
        return math.hypot(*(weight * part.least(times) for weight, part in self.parts))

    def times_needed(self, margin: float) -> float:
        """How many times the documents are the least that can show a loss to be below `margin`; inf if none are."""
        low, high = 1.0, 1e9
        if self.least(low) <= margin:
            return low
        if margin <= 0 or self.least(high) > margin:
            return math.inf
        while high / low > 1 + 1e-9:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.least(middle) <= margin else (middle, high)
        return high

    def _around(
        self, beyond: Callable[[NDArray[np.float64]], NDArray[np.float64]], guess: float
    ) -> tuple[float, float]:
        """Levels below and above the one where `beyond` is 0; the second is over FARTHEST if that is."""
        near = far = min(guess, FARTHEST)
        step = STEP
        while near > 1e-9 and beyond(np.array([near]))[0] > 0:
            near, far, step = near / step, near, step**2
        while near == far or (far <= FARTHEST and beyond(np.array([far]))[0] <= 0):
            near, far, step = far, far * step, step**2
        return near, far

    def _reach(self, z: float, *, below: bool) -> float:
        """From the value to its limit on one side."""
        reach = self._draws(z)
        for (weight, part), limit in zip(self.parts, self._part_limits(z, below=below), strict=True):
            # What documents and draws vary together is in the variance between draws already.
            reach += weight**2 * max((limit - part.value) ** 2 - z**2 * part.draws.residual, 0.0)
        return math.sqrt(reach)

    def _part_limits(self, z: float, *, below: bool) -> list[float]:
        """Of each part, the limit on the side where it takes the sum below or above."""
        sides = [0 if (weight > 0) == below else 1 for weight, _ in self.parts]
        if z == Z:
            return [part.interval[side] for side, (_, part) in zip(sides, self.parts, strict=True)]
        plain = [place for place, (_, part) in enumerate(self.parts) if isinstance(part, Paired)]
        together = np.array([part.changes for _, part in self.parts if isinstance(part, Paired)])
        found = dict(zip(plain, zip(*score_limits(Changes(*together.T), z), strict=True), strict=True)) if plain else {}
        return [
            float(found[place][side]) if place in found else part.limit(z, side)
            for place, (side, (_, part)) in enumerate(zip(sides, self.parts, strict=True))
        ]

    def _draws(self, z: float) -> float:
        """The squared reach that comes from draws, at `z` normal standard errors."""
        return math.fsum((student_quantile(levels - 1, z) ** 2) * variance for levels, variance in self._levels)

    @cached_property
    def _levels(self) -> list[tuple[int, float]]:
        """(number of draws, variance of the mean over them) of random masks and of few-shot examples."""
        return [found for factor in (0, 1) if (found := self._factor(factor))]

    def _factor(self, factor: int) -> tuple[int, float] | None:
        series = []
        for weight, part in self.parts:
            by_level: dict[Hashable, list[float]] = defaultdict(list)
            for draw, value in part.draws.values.items():
                by_level[draw[factor]].append(value)
            if len(by_level) > 1:
                series.append({level: weight * math.fsum(found) / len(found) for level, found in by_level.items()})
        if not series:
            return None
        if all(found.keys() == series[0].keys() for found in series):
            together = [math.fsum(found[level] for found in series) for level in series[0]]
            return len(together), float(np.var(together, ddof=1)) / len(together)
        # Other draws on other tasks: at most as far off as if all were off together.
        errors = [math.sqrt(float(np.var(list(found.values()), ddof=1)) / len(found)) for found in series]
        return min(len(found) for found in series), math.fsum(errors) ** 2
