"""Induction scores: in how many heads they lie, in which layers, and what of them is left when heads go.

Of induction scores alone the interval is of means over so many random sequences; under rankings it is over tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lm_eval_prune.analysis import retained_capacity
from lm_eval_prune.errors import ScoreError
from lm_eval_prune.paper.evidence import Evidence
from lm_eval_prune.paper.measuring import Measured, jackknife, over_tasks
from lm_eval_prune.paper.tops import above_chance, by_chance, overlap_above_chance

__all__ = [
    "heads_for_half",
    "heads_for_half_over",
    "in_last_layers",
    "overlap_with_induction",
    "retained",
    "retained_by_mean",
    "retained_by_mean_at",
    "retained_by_mean_over",
    "retained_over",
]

DRAWS = 2000
"""Of the scores' means over sequences."""
SEED = 1234


def overlap_with_induction(evidence: Evidence, kind: str, num_fewshot: int, threshold: float) -> Measured | None:
    """The same of a task's most important heads and those that score highest on an induction score."""
    scores, capacity = evidence.by_task("heads", num_fewshot), evidence.capacity(kind)
    if not scores or capacity is None:
        return None
    found = over_tasks([overlap_above_chance(values, capacity) for values in scores.values()])
    return found and above_chance(found, by_chance(scores))


def retained(evidence: Evidence, kind: str, pruned: str, num_fewshot: int, threshold: float) -> Measured | None:
    """The share of an induction capacity that is left without a task's least important heads, above the heads' own."""
    scores = evidence.by_task("heads", num_fewshot)
    held = _held(evidence, kind, pruned, list(scores.values()))
    if not held:
        return None
    chance = by_chance(scores, pruned)
    found = over_tasks([share - chance for share in held])
    return found and above_chance(found, chance)


def retained_over(evidence: Evidence, pruned: str, num_fewshot: int, threshold: float) -> Measured | None:
    """How much more of the prefix matching is left than of the copying, without a task's least important heads."""
    rankings = list(evidence.by_task("heads", num_fewshot).values())
    held = [_held(evidence, kind, pruned, rankings) for kind in ("prefix-matching", "copying")]
    note = "{:.3f} and {:.3f}".format(*np.mean(held, axis=1)) if all(held) else ""
    return over_tasks([one - other for one, other in zip(*held, strict=True)], note) if all(held) else None


def retained_by_mean(evidence: Evidence, kind: str, pruned: str, num_fewshot: int, threshold: float) -> Measured | None:
    """`retained` under the mean importance, by the jackknife over the tasks of the mean."""
    scores = evidence.by_task("heads", num_fewshot)
    held = _held(evidence, kind, pruned, _means(scores))
    if not held:
        return None
    chance = by_chance(scores, pruned)
    value, *left = [one - chance for one in held]
    return above_chance(jackknife(value, left, len(scores), ""), chance)


def retained_by_mean_over(evidence: Evidence, pruned: str, num_fewshot: int, threshold: float) -> Measured | None:
    """`retained_over` under the mean importance."""
    scores = evidence.by_task("heads", num_fewshot)
    held = [_held(evidence, kind, pruned, _means(scores)) for kind in ("prefix-matching", "copying")]
    return _jackknifed_over(held[0], held[1], len(scores))


def retained_by_mean_at(
    evidence: Evidence, kind: str, pruned: str, shots: int, over: int, threshold: float
) -> Measured | None:
    """How much more is left by the mean importance at one number of shots than at another, over tasks with both."""
    first, second = evidence.by_task("heads", shots), evidence.by_task("heads", over)
    both = [task for task in first if task in second]
    held = [_held(evidence, kind, pruned, _means({task: scores[task] for task in both})) for scores in (first, second)]
    return _jackknifed_over(held[0], held[1], len(both))


def _jackknifed_over(first: Sequence[float], second: Sequence[float], count: int) -> Measured | None:
    if not first or not second:
        return None
    value, *left = [one - other for one, other in zip(first, second, strict=True)]
    return jackknife(value, left, count, f"{first[0]:.3f} and {second[0]:.3f}")


def _means(scores: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What ranks as the mean over tasks, then as those without each; a sum ranks as its mean does."""
    if not scores:
        return []
    total = np.sum(list(scores.values()), axis=0)
    return [total, *([total - own for own in scores.values()] if len(scores) > 1 else [])]


def _held(evidence: Evidence, kind: str, pruned: str, rankings: Sequence[np.ndarray]) -> list[float]:
    """The share of a capacity that is left under each ranking; empty where there is none to be left."""
    capacity = evidence.capacity(kind)
    if capacity is None:
        return []
    try:
        return [retained_capacity(ranking, capacity, [pruned])[0].retained for ranking in rankings]
    except ScoreError:  # all zero: there is no capacity to retain
        return []


def heads_for_half(evidence: Evidence, kind: str, threshold: float) -> Measured | None:
    """The smallest share of the heads that holds half of a score; its interval is of means over so many sequences."""
    return _over_sequences(evidence, [kind], _for_half, _heads)


def heads_for_half_over(evidence: Evidence, threshold: float) -> Measured | None:
    """How much larger that share is of copying than of prefix matching."""
    return _over_sequences(
        evidence,
        ["copying", "prefix-matching"],
        lambda copying, prefix: _for_half(copying) - _for_half(prefix),
        lambda copying, prefix: f"{_heads(copying)}, and {_heads(prefix)}",
    )


def in_last_layers(evidence: Evidence, kind: str, layers: float, threshold: float) -> Measured | None:
    """The share of a score that lies in the last `layers` (a share) of the layers."""

    def held(scores: np.ndarray) -> float:
        first = round((1 - layers) * len(scores))
        return float(scores[first:].sum() / scores.sum())

    return _over_sequences(
        evidence, [kind], held, lambda scores: f"from layer {round((1 - layers) * len(scores))} of {len(scores)} on"
    )


def _over_sequences(
    evidence: Evidence,
    kinds: Sequence[str],
    value_of: Callable[..., float],
    note_of: Callable[..., str],
) -> Measured | None:
    """What these scores come to; its interval is of the same of means over so many random sequences."""
    files = [file for kind in kinds if (file := evidence.induction_of(kind)) is not None]
    means = [np.array(file.scores, dtype=float) for file in files]
    if len(files) < len(kinds) or not all(mean.sum() > 0 for mean in means):
        return None
    count = min(int(file.settings.get("num_sequences") or 0) for file in files)
    variances = [np.array(file.settings.get("variance", []), dtype=float) for file in files]
    value, note = value_of(*means), note_of(*means)
    if count < 2 or any(variance.shape != mean.shape for variance, mean in zip(variances, means, strict=True)):
        return Measured(value, math.nan, math.nan, "sequences", count, note)
    generator = np.random.default_rng(SEED)
    found = []
    for _ in range(DRAWS):
        drawn = [
            np.maximum(mean + np.sqrt(variance / count) * generator.standard_normal(mean.shape), 0)
            for mean, variance in zip(means, variances, strict=True)
        ]
        found.append(value_of(*drawn))
    low, high = np.quantile(found, [0.025, 0.975])
    return Measured(value, float(low), float(high), "sequences", count, note)


def _heads(scores: np.ndarray) -> str:
    return f"{round(_for_half(scores) * scores.size)} of {scores.size} heads"


def _for_half(scores: np.ndarray) -> float:
    held = np.cumsum(np.sort(scores.ravel())[::-1])
    return float(np.searchsorted(held, held[-1] / 2) + 1) / scores.size
