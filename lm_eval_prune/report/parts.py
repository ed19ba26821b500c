"""What one task's documents say of a mean or of a difference: its value and limits at any level, draws apart.

Paired outcomes in [0, 1] take Tango's score interval, or its like for documents that share passages, means of such
outcomes Wilson's, all else Student's t. Several
draws (few-shot seeds, random masks) are a second source of variance, which `statistics.py` adds, as tasks may share it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from lm_eval_prune.intervals import (
    Changes,
    Z,
    detectable_loss,
    score_limits,
    score_p,
    smallest_margin,
    wilson_limits,
)
from lm_eval_prune.unit_intervals import UnitChanges, lower_limit, unit_changes, unit_limits, unit_p

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Draw",
    "Draws",
    "Mean",
    "Paired",
    "PairedUnits",
    "Part",
    "Proportion",
    "mean_part",
    "paired_part",
    "student_quantile",
]

FEWEST_UNITS = 6
"""Of a metric without bounds: fewer cannot be shown to differ by a sign test at the 5 % level."""
Draw = tuple[Hashable, Hashable]
"""What was drawn once for a run: the seeds of its random mask and of its few-shot examples."""


@dataclass(frozen=True)
class Draws:
    """What several draws say of a value."""

    values: Mapping[Draw, float] = field(default_factory=dict)
    """The value of each; empty where there is one draw."""
    residual: float = 0.0
    """Variance of the value from documents that answer differently in every draw: between documents and draws alike."""


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """What one task's documents say of a value."""

    value: float
    draws: Draws = field(default=Draws())
    changed: float = math.nan
    """Share of the documents with another outcome."""

    @abstractmethod
    def limits(self, z: float) -> tuple[float, float]:
        """Below and above, `z` normal standard errors away; draws apart."""

    def limit(self, z: float, side: int) -> float:
        """The limit below (side 0) or above (side 1)."""
        return self.limits(z)[side]

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The limits at 95 %."""
        return self.limits(Z)

    @abstractmethod
    def least(self, times: float = 1.0) -> float:
        """The smallest loss that so many times the documents can exclude, where none of them changes."""

    @property
    def detectable(self) -> float:
        """The smallest loss that would be shown four times of five."""
        return (self.value - self.interval[0]) * (Z + float(ndtri(0.8))) / Z


@dataclass(frozen=True, kw_only=True)
class Paired(Part):
    """The mean change of outcomes of 0 and 1 on the same documents, by Tango's score interval."""

    changes: Changes

    @property
    def by_unit(self) -> UnitChanges:
        """The same, as of units of one document."""
        documents, gained, lost = self.changes
        counts = np.array([lost, documents - gained - lost, gained], dtype=float)
        return UnitChanges(np.array([-1.0, 0.0, 1.0]), np.ones(3), counts)

    def limits(self, z: float) -> tuple[float, float]:
        low, high = score_limits(self.changes, z)
        return float(low), float(high)

    @property
    def p(self) -> float:
        """That there is no change, by documents alone."""
        return float(score_p(self.changes))

    def least(self, times: float = 1.0) -> float:
        return float(smallest_margin(self.changes.documents * times))

    @property
    def detectable(self) -> float:
        return detectable_loss(self.changes.documents, self.changes.discordance)


@dataclass(frozen=True, kw_only=True)
class PairedUnits(Part):
    """The mean change of outcomes in [0, 1], of documents that share passages, or as means over several draws."""

    changes: UnitChanges

    @property
    def by_unit(self) -> UnitChanges:
        return self.changes

    def limits(self, z: float) -> tuple[float, float]:
        low, high = unit_limits(self.changes, z)
        return float(low), float(high)

    def limit(self, z: float, side: int) -> float:
        return float(-lower_limit(self.changes.mirrored, z) if side else lower_limit(self.changes, z))

    @property
    def p(self) -> float:
        """That there is no change, by documents alone."""
        return float(unit_p(self.changes))

    def least(self, times: float = 1.0) -> float:
        return float(smallest_margin(self.changes.units * times))

    @property
    def detectable(self) -> float:
        return detectable_loss(float(self.changes.units), float(self.changes.discordance))


@dataclass(frozen=True, kw_only=True)
class Proportion(Part):
    """A mean of outcomes in [0, 1], by Wilson's interval of as many documents as tell as much."""

    count: float

    def limits(self, z: float) -> tuple[float, float]:
        low, high = wilson_limits(self.value, self.count, z)
        return float(low), float(high)

    def least(self, times: float = 1.0) -> float:
        low, high = wilson_limits(self.value, self.count * times)
        return max(self.value - float(low), float(high) - self.value)


@dataclass(frozen=True, kw_only=True)
class Mean(Part):
    """A mean of anything, by its standard error and Student's t; normal, where `freedom` is infinite."""

    error: float
    freedom: float = math.inf

    def limits(self, z: float) -> tuple[float, float]:
        reach = student_quantile(self.freedom, z) * self.error
        return self.value - reach, self.value + reach

    def least(self, times: float = 1.0) -> float:
        if math.isinf(self.freedom):
            return Z * self.error / math.sqrt(times)
        return 0.0 if times * (self.freedom + 1) >= FEWEST_UNITS else math.inf


def paired_part(
    changes: ArrayLike, *, draws: Sequence[Draw] = (), units: ArrayLike | None = None, bounded: bool = True
) -> Part:
    """The mean of `changes`, (documents,) or (documents, draws) differences of outcomes, by document.

    units: (documents,) numbers of what was drawn independently. bounded: outcomes lie between 0 and 1.
    """
    table = np.asarray(changes, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    value, changed, seen = float(table.mean()), float((table != 0).any(1).mean()), _draws_of(table, draws, units)
    if bounded and units is None and table.shape[1] == 1 and bool(np.isin(table, (-1.0, 0.0, 1.0)).all()):
        changes = Changes(table.size, int((table > 0).sum()), int((table < 0).sum()))
        return Paired(value=value, changed=changed, draws=seen, changes=changes)
    if bounded:
        return PairedUnits(value=value, changed=changed, draws=seen, changes=unit_changes(table.mean(1), units))
    error, freedom = _error(table.mean(1), units)
    return Mean(value=value, changed=changed, draws=seen, error=error, freedom=freedom)


def mean_part(values: ArrayLike, *, draws: Sequence[Draw] = (), units: ArrayLike | None = None) -> Part:
    """The mean of `values`, (documents,) or (documents, draws) outcomes."""
    table = np.asarray(values, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    value, by_document, seen = float(table.mean()), table.mean(1), _draws_of(table, draws, units)
    if table.min() < 0 or table.max() > 1:
        error, freedom = _error(by_document, units)
        return Mean(value=value, draws=seen, error=error, freedom=freedom)
    sums, sizes = _by_unit(by_document, units)
    variance = float(((sums - value * sizes) ** 2).sum()) / table.shape[0] ** 2
    alone = table.shape[1] == 1 and bool(np.isin(table, (0.0, 1.0)).all())
    inner = 0 < value < 1 and variance > 0
    count = value * (1 - value) / variance if inner else table.shape[0] ** 2 / float((sizes**2).sum())
    return Proportion(value=value, draws=seen, count=min(count, table.shape[0]) if alone else count)


def student_quantile(freedom: float, z: float) -> float:
    """The quantile of Student's t at the level of `z` normal standard errors."""
    return z if math.isinf(freedom) else min(-float(stdtrit(freedom, ndtr(-z))), 1e100)


def _by_unit(values: NDArray[np.float64], units: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of values, and numbers of documents, by unit."""
    if units is None:
        return values, np.ones(values.size)
    numbers = np.asarray(units, dtype=np.int64)
    return np.bincount(numbers, values).astype(float), np.bincount(numbers).astype(float)


def _error(values: NDArray[np.float64], units: ArrayLike | None) -> tuple[float, float]:
    """Standard error of the mean, clustered by unit, and its degrees of freedom."""
    sums, sizes = _by_unit(values, units)
    if sums.size < 2:
        return math.inf, 1.0
    squares = float(((sums - values.mean() * sizes) ** 2).sum()) * sums.size / (sums.size - 1)
    return math.sqrt(squares) / values.size, sums.size - 1.0


def _draws_of(table: NDArray[np.float64], draws: Sequence[Draw], units: ArrayLike | None) -> Draws:
    if table.shape[1] < 2:
        return Draws()
    by_draw: dict[Draw, list[float]] = defaultdict(list)
    for draw, mean in zip(draws, table.mean(0), strict=True):
        by_draw[draw].append(float(mean))
    sums, sizes = zip(*(_by_unit(column, units) for column in table.T), strict=True)
    rest = np.array(sums) - np.array(sums).mean(0) - (table.mean(0) - table.mean())[:, None] * np.array(sizes)
    count, runs = rest.shape[1], rest.shape[0]
    squares = float((rest**2).sum()) / max((count - 1) * (runs - 1), 1)
    residual = count * squares / runs / table.shape[0] ** 2
    return Draws({draw: math.fsum(found) / len(found) for draw, found in by_draw.items()}, residual)
