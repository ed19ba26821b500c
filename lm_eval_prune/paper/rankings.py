"""Which heads and FFNs are important, and whether tasks and numbers of shots agree on it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np

from lm_eval_prune.analysis import rank_agreement
from lm_eval_prune.paper.evidence import Evidence
from lm_eval_prune.paper.measuring import Measured, over_pairs, over_tasks
from lm_eval_prune.paper.tops import above_chance, by_chance, most_important, overlap_above_chance

__all__ = [
    "agreement_of_shots",
    "agreement_of_shots_over",
    "agreement_of_tasks",
    "agreement_with_mean",
    "early_ffns",
    "important_in_middle",
    "later_ffns",
    "middle_layers",
    "overlap_of_tasks",
]


def middle_layers(num_layers: int) -> range:
    """The middle half of the layers."""
    return range(num_layers // 4, num_layers // 4 + -(-num_layers // 2))


def important_in_middle(evidence: Evidence, num_fewshot: int, threshold: float) -> Measured | None:
    """The share of a task's most important heads that lie in the middle half of the layers, above that by chance."""
    scores = evidence.by_task("heads", num_fewshot)
    if not scores:
        return None
    layers, heads = next(iter(scores.values())).shape
    middle = middle_layers(layers)
    chance = len(middle) / layers
    shares = []
    for found in scores.values():
        top = most_important(found)
        shares.append(sum(place // heads in middle for place in top) / len(top))
    note = f"{np.mean(shares):.3f} of them; by chance {chance:.3f}"
    return over_tasks([share - chance for share in shares], note)


def later_ffns(evidence: Evidence, num_fewshot: int, threshold: float) -> Measured | None:
    """Mean importance of the later half of the FFNs, above that of the first half."""
    scores = evidence.by_task("ffns", num_fewshot)
    halves = [(found[: len(found) // 2].mean(), found[len(found) // 2 :].mean()) for found in scores.values()]
    note = "{1:.4f} and {0:.4f}".format(*np.mean(halves, axis=0)) if halves else ""
    return over_tasks([float(late - early) for early, late in halves], note)


def early_ffns(evidence: Evidence, num_fewshot: int, threshold: float) -> Measured | None:
    """Accuracy that a task loses with one FFN of the first half of the layers, the mean over these FFNs."""
    scores = evidence.by_task("ffns", num_fewshot)
    halves = [found[: len(found) // 2] for found in scores.values()]
    note = f"{min(map(np.min, halves)):.3f} to {max(map(np.max, halves)):.3f}" if halves else ""
    return over_tasks([float(half.mean()) for half in halves], note)


def agreement_of_tasks(evidence: Evidence, num_fewshot: int, threshold: float) -> Measured | None:
    """Spearman's rho between the importance of two tasks, the mean over pairs."""
    scores = evidence.by_task("heads", num_fewshot)
    rhos = {pair: _rho(scores[pair[0]], scores[pair[1]]) for pair in itertools.combinations(scores, 2)}
    return over_pairs(list(scores), lambda one, other: rhos[one, other], _range(rhos.values(), "pairs"))


def agreement_with_mean(evidence: Evidence, num_fewshot: int, threshold: float) -> Measured | None:
    """Spearman's rho between a task's importance and the mean over all tasks, itself among them."""
    scores = evidence.by_task("heads", num_fewshot)
    if len(scores) < 2:
        return None
    total = np.sum(list(scores.values()), axis=0)
    rhos = [rho for own in scores.values() if not math.isnan(rho := _rho(own, total))]
    return over_tasks(rhos, _range(rhos, "tasks"))


def overlap_of_tasks(evidence: Evidence, num_fewshot: int, threshold: float) -> Measured | None:
    """The share of two tasks' most important heads that is in both, above that by chance; the mean over pairs."""
    scores = evidence.by_task("heads", num_fewshot)
    found = over_pairs(list(scores), lambda one, other: overlap_above_chance(scores[one], scores[other]))
    return found and above_chance(found, by_chance(scores))


def agreement_of_shots(evidence: Evidence, first: int, second: int, threshold: float) -> Measured | None:
    """Spearman's rho between a task's importance at two numbers of shots, the mean over tasks."""
    one, other = evidence.by_task("heads", first), evidence.by_task("heads", second)
    rhos = [rho for task in one if task in other if not math.isnan(rho := _rho(one[task], other[task]))]
    return over_tasks(rhos, f"variance {np.var(rhos):.5f}" if rhos else "")


def agreement_of_shots_over(
    evidence: Evidence, pair: tuple[int, int], over: tuple[int, int], threshold: float
) -> Measured | None:
    """How much more a task's rankings agree at one pair of numbers of shots than at another, the mean over tasks."""
    by_shots = {shots: evidence.by_task("heads", shots) for shots in {*pair, *over}}
    tasks = [task for task in by_shots[pair[0]] if all(task in found for found in by_shots.values())]
    rhos = [[_rho(by_shots[one][task], by_shots[other][task]) for task in tasks] for one, other in (pair, over)]
    both = [(one, other) for one, other in zip(*rhos, strict=True) if not math.isnan(one + other)]
    note = "{:.3f} and {:.3f}".format(*np.mean(both, axis=0)) if both else ""
    return over_tasks([one - other for one, other in both], note)


def _range(values: Iterable[float], of: str) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{min(known):.3f} to {max(known):.3f} in {len(known)} {of}" if known else ""


def _rho(one: np.ndarray, other: np.ndarray) -> float:
    return rank_agreement(one, other).rho
