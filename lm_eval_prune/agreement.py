"""Whether rankings agree: Spearman's rho with p-values by permutation, and what the tops of two rankings share.

Scores are arrays of one shape, larger is more important: (num_hidden_layers, num_attention_heads) for heads,
(num_hidden_layers,) for FFNs. Each p-value is one-sided: how often chance agrees as much. Shuffled over the whole
model, chance knows nothing; shuffled within layers, it knows the depth profile, which all tasks may share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lm_eval_prune.errors import ArgumentError, ScoreError
from lm_eval_prune.fractions import number_pruned, parse_fraction
from lm_eval_prune.intervals import holm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Share = str | int | float | Decimal | Fraction

__all__ = [
    "CrossShot",
    "PairAgreement",
    "SharedTop",
    "agreements",
    "cross_shot",
    "kept_components",
    "permutation_p",
    "shared_tops",
    "spearman_matrix",
]

PERMUTATIONS = 10_000
TOPS = ("0.1", "0.2", "0.3", "0.5")
"""Shares of components whose overlap is counted."""
CHUNK = 2_000_000
"""Components that are shuffled at once, over all permutations of a chunk."""


class SharedTop(NamedTuple):
    """How many of the most important components by one ranking are so by another."""

    share: Fraction
    """Of all components, at the top."""
    kept: int
    """Components at the top of each ranking."""
    shared: int
    """Of them, those at the top of both."""
    expected: float
    """What two random rankings share on average: kept x kept / all."""
    p: float
    """That two random rankings share as many or more (hypergeometric)."""


class PairAgreement(NamedTuple):
    """How far two rankings agree, and how often chance would; nan where one is constant, and within layers for FFNs."""

    first: str
    second: str
    rho: float
    """Spearman's, over all components."""
    p: float
    """Share of shuffles over the whole model whose rho is as large, this one counted among them."""
    p_holm: float
    """Corrected over the pairs that were asked for together."""
    rho_within_layers: float
    """Mean over layers of the correlation within the layer."""
    p_within_layers: float
    """As `p`, but shuffled within layers: what layers have in common by their depth alone does not count."""
    p_within_layers_holm: float
    tops: tuple[SharedTop, ...]


class CrossShot(NamedTuple):
    """How far one task's rankings at two numbers of shots agree, over tasks (Bansal et al. 2023, Table 1)."""

    first: int
    second: int
    num_tasks: int
    mean: float
    """Of Spearman's rho over tasks."""
    variance: float
    """Of the same, divided by the number of tasks."""
    least: float
    most: float


def spearman_matrix(scores: Sequence[ArrayLike]) -> tuple[NDArray, NDArray]:
    """(over all components, within layers): Spearman's rho of every pair, each (len(scores), len(scores)).

    Within layers it is the mean over layers where neither is constant; nan for FFNs, and wherever there is no rho.
    """
    arrays = np.array([np.asarray(values, dtype=float) for values in scores])
    overall = _rank_correlations(arrays.reshape(len(arrays), -1))
    if arrays.ndim == 2:
        return overall, np.full_like(overall, np.nan)
    layers = np.array([_rank_correlations(arrays[:, layer]) for layer in range(arrays.shape[1])])
    counted = (~np.isnan(layers)).sum(0)
    return overall, np.where(counted, np.nansum(layers, axis=0) / np.maximum(counted, 1), np.nan)


def kept_components(scores: ArrayLike, fraction: Share) -> set[int]:
    """Flat indices that stay when the floor(fraction * n) lowest scores go, ties to the lower index, as in a mask."""
    flat = np.asarray(scores, dtype=float).ravel()
    order = np.argsort(flat, kind="stable")
    return set(order[number_pruned(parse_fraction(fraction), flat.size) :].tolist())


def agreements(
    scores: Mapping[str, ArrayLike],
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> list[PairAgreement]:
    """Agreement of every pair of the named scores, or of these `pairs`, which are one family for Holm's correction.

    Raises ScoreError for different shapes or scores that are not finite.
    """
    arrays = _checked(scores)
    places = {name: place for place, name in enumerate(arrays)}
    pairs = list(itertools.combinations(arrays, 2)) if pairs is None else list(pairs)
    if not pairs:
        return []
    values = list(arrays.values())
    numbered = [(places[first], places[second]) for first, second in pairs]
    overall, within = spearman_matrix(values)
    found = {
        name: _permutation_ps(values, numbered, overall, within_layers=name == "within", number=permutations, seed=seed)
        for name in ("whole", "within")
    }
    corrected = {name: holm(ps) for name, ps in found.items()}
    tops = _shared_tops(values, numbered, TOPS)
    return [
        PairAgreement(
            *names,
            float(overall[pair]),
            found["whole"][at],
            corrected["whole"][at],
            float(within[pair]),
            found["within"][at],
            corrected["within"][at],
            tops[at],
        )
        for at, (names, pair) in enumerate(zip(pairs, numbered, strict=True))
    ]


def permutation_p(
    a: ArrayLike, b: ArrayLike, *, within_layers: bool = False, permutations: int = PERMUTATIONS, seed: int = 0
) -> float:
    """One-sided p of Spearman's rho over all components: the share of shuffles of `b` with a rho as large.

    Components are shuffled over the whole model, or each within its layer. The order that there is counts as one of the
    shuffles, so that p is never 0 (Phipson and Smyth, SAGMB 9, 2010). nan where one is constant, and within layers for
    FFNs. Raises ScoreError.
    """
    values = list(_checked({"a": a, "b": b}).values())
    rho = spearman_matrix(values)[0]
    return _permutation_ps(values, [(0, 1)], rho, within_layers=within_layers, number=permutations, seed=seed)[0]


def shared_tops(a: ArrayLike, b: ArrayLike, shares: Sequence[Share] = TOPS) -> tuple[SharedTop, ...]:
    """What the tops of two rankings share, at each share of the components. Raises ScoreError, FractionError."""
    return _shared_tops(list(_checked({"a": a, "b": b}).values()), [(0, 1)], shares)[0]


def cross_shot(by_shots: Mapping[int, Mapping[str, ArrayLike]]) -> list[CrossShot]:
    """Shots -> task -> scores: for each two numbers of shots, rho of the tasks that have both, over tasks.

    A task whose scores are constant has no rho, and does not count. Raises ScoreError.
    """
    found = []
    for first, second in itertools.combinations(sorted(by_shots), 2):
        one, other = by_shots[first], by_shots[second]
        pairs = [_checked({"a": one[task], "b": other[task]}) for task in one if task in other]
        rhos = [float(spearman_matrix(list(pair.values()))[0][0, 1]) for pair in pairs]
        if rhos := [rho for rho in rhos if not math.isnan(rho)]:
            mean, variance = float(np.mean(rhos)), float(np.var(rhos))
            found.append(CrossShot(first, second, len(rhos), mean, variance, min(rhos), max(rhos)))
    return found


def _permutation_ps(
    values: Sequence[NDArray],
    pairs: Sequence[tuple[int, int]],
    rhos: NDArray,
    *,
    within_layers: bool,
    number: int,
    seed: int,
) -> list[float]:
    """A p for each of `pairs`; all see the same shuffles.

    rho grows with the sum of products of ranks, and twice a rank is a whole number: equal sums are told exactly.
    """
    if number < 1:
        raise ArgumentError(f"permutations={number}: expected at least 1")
    from scipy.stats import rankdata

    shape = values[0].shape
    if within_layers and len(shape) < 2:
        return [math.nan] * len(pairs)
    ranks = np.array([2 * rankdata(one.ravel()) for one in values])
    by_second: dict[int, list[int]] = {}
    for at, (_, second) in enumerate(pairs):
        by_second.setdefault(second, []).append(at)
    firsts = [first for first, _ in pairs]
    observed = np.array([ranks[first] @ ranks[second] for first, second in pairs])
    reached = np.zeros(len(pairs), dtype=int)
    for order in _shuffles(shape, within_layers, number, seed):
        for second, mine in by_second.items():
            sums = ranks[second][order] @ ranks[[firsts[at] for at in mine]].T
            reached[mine] += (sums >= observed[mine]).sum(0)
    return [
        math.nan if math.isnan(rhos[pair]) else (1 + int(count)) / (number + 1)
        for pair, count in zip(pairs, reached, strict=True)
    ]


def _shuffles(shape: tuple[int, ...], within_layers: bool, number: int, seed: int) -> Iterator[NDArray]:
    """(some of `number`, components): flat indices in random order, over the whole model or each within its layer."""
    generator = np.random.default_rng(seed)
    size = math.prod(shape)
    places = np.arange(size).reshape(shape) if within_layers else np.arange(size)
    at_once = max(1, CHUNK // size)
    for start in range(0, number, at_once):
        rows = min(at_once, number - start)
        yield generator.permuted(np.broadcast_to(places, (rows, *places.shape)), axis=-1).reshape(rows, size)


def _shared_tops(
    values: Sequence[NDArray], pairs: Sequence[tuple[int, int]], shares: Sequence[Share]
) -> list[tuple[SharedTop, ...]]:
    from scipy.stats import hypergeom

    found: list[list[SharedTop]] = [[] for _ in pairs]
    for share in map(parse_fraction, shares):
        tops = {place: kept_components(values[place], 1 - share) for pair in pairs for place in pair}
        size = values[0].size
        for tops_of_pair, (first, second) in zip(found, pairs, strict=True):
            kept, shared = len(tops[first]), len(tops[first] & tops[second])
            p = float(hypergeom.sf(shared - 1, size, kept, kept))
            tops_of_pair.append(SharedTop(share, kept, shared, kept * kept / size, p))
    return [tuple(each) for each in found]


def _rank_correlations(rows: NDArray) -> NDArray:
    """(len(rows), len(rows)): Pearson's correlation of the ranks; nan where a row is constant."""
    from scipy.stats import rankdata

    ranks = rankdata(rows, axis=1)
    centred = ranks - ranks.mean(1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(centred @ centred.T / np.outer(lengths, lengths), -1, 1)


def _checked(scores: Mapping[str, ArrayLike]) -> dict[str, NDArray]:
    """The scores as arrays. Raises ScoreError."""
    arrays = {name: np.asarray(values, dtype=float) for name, values in scores.items()}
    for name, values in arrays.items():
        other = next(iter(arrays))
        if values.shape != arrays[other].shape:
            raise ScoreError(f"{other} has scores of shape {arrays[other].shape}, {name} of {values.shape}")
        if not np.isfinite(values).all():
            raise ScoreError(f"{name}: scores must be finite")
    return arrays
