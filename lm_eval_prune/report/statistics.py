"""Is a difference real, and is a loss small? Intervals, p-values and sample sizes of weighted sums over tasks.

A part (`parts.py`) is what one task's documents say; an `Estimate` is a weighted sum of parts, such as the average over
tasks. Paired outcomes of several tasks have one interval together (`sum_intervals.py`). Parts of other kinds are added
by the method of variance estimates recovery (Zou and Donner, Statistics in Medicine 27, 2008, 1693-1702), so that what
they know of few documents is kept.

Draws (few-shot seeds, random masks) are a second source of variance, which all tasks may share and of which there are
few. The interval takes the mean of the normal quantile and Student's, weighted by the variances that documents and
draws have in it (Cochran and Cox, Experimental Designs, 1950, as SAS's PROC TTEST has it): with three draws and more it
covers 95 to 97.1 %. With two, which often happen to agree, that would be 93.9 %; there it is the root of the weighted
mean of their squares (Banerjee, Approximate confidence interval for linear functions of means of k populations when the
population variances are not equal, Sankhya 22, 1960, 357-358): that covers less than its level at no level, and up to
98.7 %.
Welch's and Satterthwaite's degrees of freedom would cover as little as 87 % with two draws and 92 % with three. The
p-value is the level at which the interval reaches 0, so that the two never contradict one another.
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

from lm_eval_prune.intervals import Z, detectable_loss, root_between
from lm_eval_prune.report.parts import Paired, PairedUnits, Part, student_quantile
from lm_eval_prune.sum_intervals import SumOfChanges, least_sum, stacked, sum_limits, sum_lower_limit, sum_p

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
    z: float = Z
    """Normal standard errors of its interval: more, where it is one of several looks."""
    factor: float = 1.0
    """By which its p-value is multiplied, for the same reason."""

    @property
    def value(self) -> float:
        return math.fsum(weight * part.value for weight, part in self.parts)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval; of several looks, one of the intervals that all together are one of 95 %."""
        return self.limits(self.z)

    def limits(self, z: float) -> tuple[float, float]:
        """Below and above, at the level of `z` normal standard errors."""
        return self.value - self._reach(z, below=True), self.value + self._reach(z, below=False)

    @property
    def p(self) -> float:
        """Two-sided p-value that the value is 0: the level at which the interval reaches it. Never quite 0.

        Of several looks, that of all together (Bonferroni's, each look with its share of the level).
        """
        return min(1.0, self.factor * self._p)

    @cached_property
    def _p(self) -> float:
        """Of this look alone."""
        value = self.value
        if value == 0:
            return 1.0
        if not self._others and not self._levels:
            return max(self._paired[0][1].p if len(self._paired) == 1 else float(sum_p(self._sum)), sys.float_info.min)

        def beyond(z: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.array([self._reach(float(z[0]), below=value > 0) - abs(value)])

        near, far = self._around(beyond, Z * abs(value) / self._reach(Z, below=value > 0))
        if far > FARTHEST:
            return sys.float_info.min
        z = float(root_between(beyond, np.array([far]), np.array([near]), tolerance=1e-13)[0])
        return max(2 * float(ndtr(-z)), sys.float_info.min)

    @cached_property
    def share_of_draws(self) -> float:
        """How much of the width of the interval comes from draws; nan where there is one draw."""
        if not self._levels:
            return math.nan
        power, documents = self._power, self._variance(Z, below=True)
        draws = math.fsum(quantile**power * variance for quantile, variance in self._draws(Z))
        return draws / (Z**power * documents + draws) if draws else 0.0

    @property
    def changed(self) -> float:
        """Mean share of documents with another outcome; nan where runs are not paired."""
        return math.fsum(abs(weight) * part.changed for weight, part in self.parts)

    @property
    def detectable(self) -> float:
        """The smallest loss that would be shown four times of five, by the documents of these draws.

        Of paired outcomes of several tasks: one that is the same in each.
        """
        together = 0.0
        if self._paired:
            changes = [part.by_unit for _, part in self._paired]
            units, discordance = [one.units for one in changes], [one.discordance for one in changes]
            together = detectable_loss(units, discordance, weights=[weight for weight, _ in self._paired])
        return math.hypot(together, *(weight * part.detectable for weight, part in self._others))

    def least(self, times: float = 1.0) -> float:
        """The smallest loss that so many times the documents can exclude, where none of them changes."""
        together = 0.0
        if self._paired:
            weights, units = tuple(abs(weight) for weight, _ in self._paired), self._units
            together = least_sum(weights, tuple(count * times for count in units), self.z)
        return math.hypot(together, *(weight * part.least(times) for weight, part in self._others))

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

    @cached_property
    def _paired(self) -> list[tuple[float, Paired | PairedUnits]]:
        return [(weight, part) for weight, part in self.parts if isinstance(part, Paired | PairedUnits)]

    @cached_property
    def _others(self) -> list[tuple[float, Part]]:
        return [(weight, part) for weight, part in self.parts if not isinstance(part, Paired | PairedUnits)]

    @cached_property
    def _sum(self) -> SumOfChanges:
        return stacked([(weight, part.by_unit) for weight, part in self._paired])

    @cached_property
    def _units(self) -> tuple[float, ...]:
        return tuple(float(part.by_unit.units) for _, part in self._paired)

    def _reach(self, z: float, *, below: bool) -> float:
        """From the value to its limit on one side."""
        power, sources = self._power, [(z, self._variance(z, below=below)), *self._draws(z)]
        together = math.fsum(variance for _, variance in sources)
        if not together:
            return 0.0
        mean = math.fsum(quantile**power * (variance / together) for quantile, variance in sources) ** (1 / power)
        return mean * math.sqrt(together)

    @property
    def _power(self) -> int:
        """Of the mean of the quantiles."""
        return 2 if any(levels == 2 for levels, _ in self._levels) else 1

    def _variance(self, z: float, *, below: bool) -> float:
        """Of the value by its documents, if it were at its limit on that side."""
        alone = self.parts if len(self._paired) == 1 else self._others
        reaches = [weight * (_limit(part, z, 0 if (weight > 0) == below else 1) - part.value) for weight, part in alone]
        if len(self._paired) > 1:
            reaches.append(self._reach_together(z, below))
        # What documents and draws vary together is in the variance between draws already.
        residual = math.fsum(weight**2 * part.draws.residual for weight, part in self.parts)
        return max(math.fsum(reach**2 for reach in reaches) / z**2 - residual, 0.0)

    def _reach_together(self, z: float, below: bool) -> float:
        """From the sum of the paired parts to its limit on one side, draws apart."""
        if z == Z:
            return float(self._together[0 if below else 1]) - float(self._sum.value)
        tasks = self._sum if below else self._sum.mirrored
        return float(sum_lower_limit(tasks, z) - tasks.value)

    @cached_property
    def _together(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The 95 % interval of the paired parts' sum, draws apart."""
        return sum_limits(self._sum)

    def _draws(self, z: float) -> list[tuple[float, float]]:
        """(quantile at `z` normal standard errors, variance of the value) of random masks and few-shot examples."""
        return [(student_quantile(levels - 1, z), variance) for levels, variance in self._levels]

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


def _limit(part: Part, z: float, side: int) -> float:
    return part.interval[side] if z == Z else part.limit(z, side)
