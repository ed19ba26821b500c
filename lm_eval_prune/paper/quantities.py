"""What a run says to a claim: a number with its 95 % interval, from documents, over tasks, or over sequences.

Of accuracies the interval is the leaderboard's own, paired by document. Of scores the tasks are what was drawn: the
interval is Student's t over them, of means over pairs of tasks by the jackknife that leaves out one task at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_eval_prune.analysis import kept_components, overlap, rank_agreement, retained_capacity
from lm_eval_prune.errors import ScoreError
from lm_eval_prune.paper.evidence import Evidence
from lm_eval_prune.report.averages import too_few
from lm_eval_prune.report.board import Board, Difference, Entry
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.parts import Mean
from lm_eval_prune.report.reading import Collection

__all__ = ["QUANTITIES", "Measured", "Quantity", "middle_layers", "over_pairs", "over_tasks"]

PRUNED = "0.7"
"""What it leaves are called the most important heads."""
DRAWS = 2000
"""Of the scores' means over sequences."""
SEED = 1234


@dataclass(frozen=True)
class Measured:
    """A quantity with its 95 % interval."""

    value: float
    low: float
    high: float
    """nan where there is no interval."""
    basis: str
    """What the interval is over: `documents`, `tasks` or `sequences`."""
    count: int
    """How many of them."""
    note: str = ""
    """The numbers behind it."""
    obstacle: str = ""
    """Why it cannot be shown to hold, whatever the interval says."""


@dataclass(frozen=True)
class Quantity:
    """How a quantity is measured; None is no data."""

    name: str
    """As a table calls it."""
    measure: Callable[..., Measured | None]


def over_tasks(values: Sequence[float], note: str = "") -> Measured | None:
    """The mean over tasks, with Student's t; None without any."""
    if not len(values):
        return None
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Measured(mean, math.nan, math.nan, "tasks", count, note)
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    return Measured(mean, *Mean(value=mean, error=error, freedom=count - 1).interval, "tasks", count, note)


def over_pairs(names: Sequence[str], of_pair: Callable[[str, str], float], note: str = "") -> Measured | None:
    """The mean over pairs of tasks, by the jackknife over tasks; None with fewer than two, no interval with two."""
    table = {frozenset(pair): of_pair(*pair) for pair in itertools.combinations(names, 2)}
    table = {pair: value for pair, value in table.items() if not math.isnan(value)}
    if not table:
        return None
    without = [[value for pair, value in table.items() if name not in pair] for name in names]
    left = [float(np.mean(values)) for values in without if values]
    return _jackknife(float(np.mean(list(table.values()))), left, len(names), note)


def _jackknife(value: float, left: Sequence[float], count: int, note: str) -> Measured:
    """A value over `count` tasks by those that it has without each; no interval where one cannot be left out."""
    if count < 3 or len(left) < count:
        return Measured(value, math.nan, math.nan, "tasks", count, note)
    error = math.sqrt((count - 1) / count * float(((np.array(left) - np.mean(left)) ** 2).sum()))
    return Measured(value, *Mean(value=value, error=error, freedom=count - 1).interval, "tasks", count, note)


def loss(
    evidence: Evidence, part: str, ranking: str, heads: str, ffns: str, num_fewshot: int, threshold: float
) -> Measured | None:
    """How much lower the average is than the dense model's."""
    entry = evidence.entry(part, ranking, heads, ffns, num_fewshot)
    return _loss_of(evidence, part, entry, threshold)


def loss_of_unseen(evidence: Evidence, heads: str, num_fewshot: int, threshold: float) -> Measured | None:
    """The same of tasks outside the study."""
    board = evidence.boards.get("unseen")
    rankings = {entry.ranking for entry in board.entries if not entry.is_dense} if board else set()
    found = [evidence.entry("unseen", ranking, heads, "0", num_fewshot) for ranking in sorted(rankings)]
    return _loss_of(evidence, "unseen", next((entry for entry in found if entry), None), threshold)


def _loss_of(evidence: Evidence, part: str, entry: Entry | None, threshold: float) -> Measured | None:
    if entry is None or entry.average is None or entry.average.difference is None:
        return None
    dense = evidence.dense(part, entry.num_fewshot)
    at_chance = dense is not None and _at_chance(evidence.boards[part], dense)
    obstacle = "the dense model is not shown to be above chance: there is nothing to lose" if at_chance else ""
    if not obstacle and too_few(entry.average.difference, threshold):
        obstacle = "too few documents for such a threshold, even if no answer had changed"
    value = entry.average.value
    note = f"average {value - entry.average.difference.value:.3f} to {value:.3f}, {len(entry.cells)} tasks"
    return _of_difference(entry.average.difference, -1, note, obstacle)


def loss_over(
    evidence: Evidence, part: str, ranking: str, over: str, heads: str, num_fewshot: int, threshold: float
) -> Measured | None:
    """How much lower the average is under one ranking than under another, at the same share of heads."""
    return _between(evidence, part, (ranking, over), heads, num_fewshot, -1)


def gain_over(
    evidence: Evidence, part: str, ranking: str, over: str, heads: str, num_fewshot: int, threshold: float
) -> Measured | None:
    """How much higher it is."""
    return _between(evidence, part, (ranking, over), heads, num_fewshot, 1)


def _between(
    evidence: Evidence, part: str, rankings: tuple[str, str], heads: str, num_fewshot: int, sign: int
) -> Measured | None:
    entries = [evidence.entry(part, ranking, heads, "0", num_fewshot) for ranking in rankings]
    first, second = entries
    if first is None or second is None or first.average is None or second.average is None:
        return None
    tasks = tuple(column.task for column in evidence.boards[part].columns)
    runs = [*first.runs, *second.runs]
    board = compare(Collection(runs=runs), BoardConfig(tasks=tasks, against=second.label))
    average = next((entry.average for entry in board.entries if entry.ranking == first.ranking), None)
    if average is None or average.difference is None:
        return None
    both = all(_at_chance(evidence.boards[part], entry) for entry in (first, second))
    obstacle = "neither is shown to be above chance" if both else ""
    note = f"averages {first.average.value:.3f} and {second.average.value:.3f}"
    return _of_difference(average.difference, sign, note, obstacle)


def _at_chance(board: Board, entry: Entry) -> bool:
    about = board.about.get(None)
    if about is None or about.chance is None or entry.average is None:
        return False
    return entry.average.low <= about.chance.level


def _of_difference(difference: Difference, sign: int, note: str, obstacle: str) -> Measured:
    low, high = sorted((sign * difference.low, sign * difference.high))
    return Measured(sign * difference.value, low, high, "documents", difference.paired, note, obstacle)


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
    by_chance = len(middle) / layers
    shares = []
    for found in scores.values():
        top = _top(found)
        shares.append(sum(place // heads in middle for place in top) / len(top))
    note = f"{np.mean(shares):.3f} of them; by chance {by_chance:.3f}"
    return over_tasks([share - by_chance for share in shares], note)


def later_ffns(evidence: Evidence, num_fewshot: int, threshold: float) -> Measured | None:
    """Mean importance of the later half of the FFNs, above that of the first half."""
    scores = evidence.by_task("ffns", num_fewshot)
    halves = [(found[: len(found) // 2].mean(), found[len(found) // 2 :].mean()) for found in scores.values()]
    note = "{1:.4f} and {0:.4f}".format(*np.mean(halves, axis=0)) if halves else ""
    return over_tasks([float(late - early) for early, late in halves], note)


def agreement_of_tasks(evidence: Evidence, num_fewshot: int, threshold: float) -> Measured | None:
    """Spearman's rho between the importance of two tasks, the mean over pairs."""
    scores = evidence.by_task("heads", num_fewshot)
    rhos = {pair: _rho(scores[pair[0]], scores[pair[1]]) for pair in itertools.combinations(scores, 2)}
    note = f"{min(rhos.values()):.3f} to {max(rhos.values()):.3f} in {len(rhos)} pairs" if rhos else ""
    return over_pairs(list(scores), lambda one, other: rhos[one, other], note)


def overlap_of_tasks(evidence: Evidence, num_fewshot: int, threshold: float) -> Measured | None:
    """The share of two tasks' most important heads that is in both, above that by chance; the mean over pairs."""
    scores = evidence.by_task("heads", num_fewshot)
    found = over_pairs(list(scores), lambda one, other: _overlap(scores[one], scores[other]))
    return found and _noted(found, _by_chance(scores))


def overlap_with_induction(evidence: Evidence, kind: str, num_fewshot: int, threshold: float) -> Measured | None:
    """The same of a task's most important heads and those that score highest on an induction score."""
    scores, capacity = evidence.by_task("heads", num_fewshot), evidence.capacity(kind)
    if not scores or capacity is None:
        return None
    found = over_tasks([_overlap(values, capacity) for values in scores.values()])
    return found and _noted(found, _by_chance(scores))


def retained(evidence: Evidence, kind: str, num_fewshot: int, threshold: float) -> Measured | None:
    """The share of an induction capacity that a task's most important heads hold, above their share of the heads."""
    scores, capacity = evidence.by_task("heads", num_fewshot), evidence.capacity(kind)
    if not scores or capacity is None:
        return None
    try:
        held = [retained_capacity(values, capacity, [PRUNED])[0].retained for values in scores.values()]
    except ScoreError:  # all zero: there is no capacity to retain
        return None
    by_chance = _by_chance(scores)
    found = over_tasks([share - by_chance for share in held])
    return found and _noted(found, by_chance)


def retained_by_mean(evidence: Evidence, kind: str, num_fewshot: int, threshold: float) -> Measured | None:
    """The same of the heads of highest mean importance, by the jackknife over the tasks of the mean."""
    scores, capacity = list(evidence.by_task("heads", num_fewshot).values()), evidence.capacity(kind)
    if not scores or capacity is None:
        return None
    total = np.sum(scores, axis=0)
    rankings = [total, *([total - own for own in scores] if len(scores) > 1 else [])]  # a sum ranks as its mean does
    try:
        value, *left = [retained_capacity(ranking, capacity, [PRUNED])[0].retained for ranking in rankings]
    except ScoreError:  # all zero: there is no capacity to retain
        return None
    by_chance = len(_top(total)) / total.size
    found = _jackknife(value - by_chance, [one - by_chance for one in left], len(scores), "")
    return _noted(found, by_chance)


def agreement_of_shots(evidence: Evidence, first: int, second: int, threshold: float) -> Measured | None:
    """Spearman's rho between a task's importance at two numbers of shots, the mean over tasks."""
    one, other = evidence.by_task("heads", first), evidence.by_task("heads", second)
    rhos = [rho for task in one if task in other if not math.isnan(rho := _rho(one[task], other[task]))]
    return over_tasks(rhos, f"variance {np.var(rhos):.5f}" if rhos else "")


def heads_for_half(evidence: Evidence, kind: str, threshold: float) -> Measured | None:
    """The smallest share of the heads that holds half of a score; its interval is of means over so many sequences."""
    file = evidence.induction_of(kind)
    if file is None or not (mean := np.array(file.scores, dtype=float)).sum() > 0:
        return None
    count = int(file.settings.get("num_sequences") or 0)
    value = _for_half(mean.ravel())
    note = f"{round(value * mean.size)} of {mean.size} heads"
    variance = np.array(file.settings.get("variance", []), dtype=float)
    if variance.shape != mean.shape or count < 2:
        return Measured(value, math.nan, math.nan, "sequences", count, note)
    errors = np.sqrt(variance / count).ravel()
    generator = np.random.default_rng(SEED)
    drawn = np.maximum(mean.ravel() + errors * generator.standard_normal((DRAWS, mean.size)), 0)
    low, high = np.quantile([_for_half(one) for one in drawn], [0.025, 0.975])
    return Measured(value, float(low), float(high), "sequences", count, note)


def _for_half(scores: np.ndarray) -> float:
    held = np.cumsum(np.sort(scores)[::-1])
    return float(np.searchsorted(held, held[-1] / 2) + 1) / scores.size


def _top(scores: np.ndarray) -> list[int]:
    """Flat places of the heads that stay when PRUNED of them go."""
    return sorted(kept_components(scores, PRUNED))


def _rho(one: np.ndarray, other: np.ndarray) -> float:
    return rank_agreement(one, other).rho


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    (found,) = overlap(one, other, [PRUNED])
    return found.shared - found.by_chance


def _by_chance(scores: Mapping[str, np.ndarray]) -> float:
    first = next(iter(scores.values()))
    return len(_top(first)) / first.size


def _noted(found: Measured, by_chance: float) -> Measured:
    note = f"{found.value + by_chance:.3f}; by chance {by_chance:.3f}"
    return Measured(found.value, found.low, found.high, found.basis, found.count, note)


QUANTITIES: dict[str, Quantity] = {
    "loss": Quantity("accuracy lost", loss),
    "loss_of_unseen": Quantity("accuracy lost", loss_of_unseen),
    "loss_over": Quantity("accuracy lost", loss_over),
    "gain_over": Quantity("accuracy gained", gain_over),
    "important_in_middle": Quantity("share above chance", important_in_middle),
    "later_ffns": Quantity("importance above the first half's", later_ffns),
    "agreement_of_tasks": Quantity("Spearman's rho", agreement_of_tasks),
    "overlap_of_tasks": Quantity("share above chance", overlap_of_tasks),
    "overlap_with_induction": Quantity("share above chance", overlap_with_induction),
    "retained_by_mean": Quantity("share above chance", retained_by_mean),
    "retained": Quantity("share above chance", retained),
    "agreement_of_shots": Quantity("Spearman's rho", agreement_of_shots),
    "heads_for_half": Quantity("share of the heads", heads_for_half),
}
"""Name in a claim -> how it is measured: (evidence, **where, threshold) -> Measured, or None without data."""


def measured(evidence: Evidence, quantity: str, where: Mapping[str, Any], threshold: float) -> Measured | None:
    """The quantity in this folder."""
    return QUANTITIES[quantity].measure(evidence, **where, threshold=threshold)
