"""What scores have in common: rank agreement, overlap of what is kept, retained capacity.

Scores are arrays of one shape, larger is more important: (num_hidden_layers, num_attention_heads) for heads,
(num_hidden_layers,) for FFNs. Nothing here runs a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lm_eval_prune.agreement import (
    CrossShot,
    PairAgreement,
    SharedTop,
    agreements,
    cross_shot,
    kept_components,
    permutation_p,
    shared_tops,
    spearman_matrix,
)
from lm_eval_prune.errors import ArgumentError, ScoreError
from lm_eval_prune.fractions import parse_fraction

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Share = str | int | float | Decimal | Fraction

__all__ = [
    "Agreement",
    "CrossShot",
    "Overlap",
    "PairAgreement",
    "Retained",
    "SharedTop",
    "agreement_table",
    "agreements",
    "cross_shot",
    "kept_components",
    "overlap",
    "paper_correlation",
    "pareto_front",
    "permutation_p",
    "rank_agreement",
    "retained_capacity",
    "shared_tops",
    "spearman_matrix",
]

TENTHS = tuple(Fraction(tenth, 10) for tenth in range(11))
"""0, 0.1, ... 1: the study's grid."""


class Agreement(NamedTuple):
    """How far two rankings agree; each from -1 to 1, nan where one of the two is constant."""

    first: str
    second: str
    rho: float
    """Spearman's rank correlation over all components."""
    rho_within_layers: float
    """Mean over layers of the correlation within the layer: the depth profile removed. nan for FFNs."""
    paper: float
    """The research code's figure; see `paper_correlation`."""


class Overlap(NamedTuple):
    """How much two kept sets of the same size share."""

    fraction: Fraction
    """Share of components pruned."""
    kept: int
    """Size of each kept set."""
    shared: float
    """Share of the first kept set that the second keeps too; nan where nothing is kept."""
    by_chance: float
    """What two random sets of that size share on average: the share that is kept."""


class Retained(NamedTuple):
    """What is left of a total capacity."""

    fraction: Fraction
    """Share of components pruned."""
    retained: float
    """Share of the summed capacity that the kept components hold, from 0 to 1."""


def rank_agreement(a: ArrayLike, b: ArrayLike, *, names: tuple[str, str] = ("a", "b")) -> Agreement:
    """Agreement of two arrays of scores. Raises ScoreError for different shapes or scores that are not finite."""
    first, second = _pair(a, b, names)
    within = float("nan")
    if first.ndim == 2:
        layers = [_rho(x, y) for x, y in zip(first, second, strict=True)]
        layers = [rho for rho in layers if not math.isnan(rho)]
        within = float(np.mean(layers)) if layers else within
    return Agreement(*names, _rho(first.ravel(), second.ravel()), within, paper_correlation(first, second))


def paper_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's formula over the two argsort orders, as the research code has it: no rank correlation of the scores.

    It correlates which component stands at each place of the order, so that two rankings that differ by one shift come
    out near 0. For comparison with the printed figures only.
    """
    first, second = _pair(a, b, ("a", "b"))
    return _rho(np.argsort(first.ravel(), kind="stable"), np.argsort(second.ravel(), kind="stable"))


def agreement_table(scores: Mapping[str, ArrayLike], *, seed: int = 1234) -> list[Agreement]:
    """Every pair of the named scores, and of each with two rows more: their `aggregate` (mean) and `random` scores."""
    if not scores:
        raise ArgumentError("no scores to compare; expected at least one")
    if taken := {"aggregate", "random"} & scores.keys():
        raise ArgumentError(f"scores named {taken.pop()!r}: the table has a row of that name already")
    rows = {name: np.asarray(values, dtype=float) for name, values in scores.items()}
    names = list(rows)
    for name in names[1:]:
        _pair(rows[names[0]], rows[name], (names[0], name))
    shape = rows[names[0]].shape
    rows["aggregate"] = np.mean([rows[name] for name in names], axis=0)
    rows["random"] = np.random.default_rng(seed).random(shape)
    every = list(rows)
    return [
        rank_agreement(rows[first], rows[second], names=(first, second))
        for place, first in enumerate(every)
        for second in every[place + 1 :]
    ]


def overlap(a: ArrayLike, b: ArrayLike, fractions: Sequence[Share] = TENTHS) -> list[Overlap]:
    """How much the sets kept by two scores share, at each fraction pruned. Raises ScoreError, FractionError."""
    first, second = _pair(a, b, ("a", "b"))
    points = []
    for fraction in map(parse_fraction, fractions):
        kept = kept_components(first, fraction), kept_components(second, fraction)
        size = len(kept[0])
        shared = len(kept[0] & kept[1]) / size if size else float("nan")
        points.append(Overlap(fraction, size, shared, size / first.size))
    return points


def retained_capacity(
    importance: ArrayLike, capacity: ArrayLike, fractions: Sequence[Share] = TENTHS
) -> list[Retained]:
    """The share of the total capacity (prefix-matching or copying scores) left when the least important go.

    importance, capacity: (num_hidden_layers, num_attention_heads). Raises ScoreError for a capacity that is negative
    somewhere or zero in sum.
    """
    first, second = _pair(importance, capacity, ("importance", "capacity"))
    total = math.fsum(second.ravel())
    if (second < 0).any() or not total > 0:
        raise ScoreError("capacity must be 0 or more everywhere, and not 0 in sum")
    flat = second.ravel()
    return [
        Retained(fraction, math.fsum(flat[sorted(kept_components(first, fraction))]) / total)
        for fraction in map(parse_fraction, fractions)
    ]


def pareto_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Places of the (size, quality) points that no other one beats: none is both as small and better, or smaller and
    as good. Of equal points all are on the front."""
    best_of: dict[float, float] = {}
    for size, quality in points:
        best_of[size] = max(quality, best_of.get(size, -math.inf))
    front: set[tuple[float, float]] = set()
    highest = -math.inf
    for size in sorted(best_of):
        if best_of[size] > highest:
            highest = best_of[size]
            front.add((size, highest))
    return {place for place, (size, quality) in enumerate(points) if (size, quality) in front}


def _rho(a: NDArray, b: NDArray) -> float:
    from scipy.stats import spearmanr

    if a.size < 2 or (a == a[0]).all() or (b == b[0]).all():
        return float("nan")
    return float(spearmanr(a, b).statistic)


def _pair(a: ArrayLike, b: ArrayLike, names: tuple[str, str]) -> tuple[NDArray, NDArray]:
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ScoreError(f"{names[0]} has scores of shape {first.shape}, {names[1]} of {second.shape}")
    for name, values in zip(names, (first, second), strict=True):
        if not np.isfinite(values).all():
            raise ScoreError(f"{name}: scores must be finite")
    return first, second
