"""Losses of accuracy: the leaderboard's own differences and intervals, paired by document."""

from __future__ import annotations

from lm_eval_prune.paper.evidence import Evidence
from lm_eval_prune.paper.measuring import Measured
from lm_eval_prune.report.averages import too_few
from lm_eval_prune.report.board import Board, Difference, Entry
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import Collection
from lm_eval_prune.report.score_sets import AGGREGATE

__all__ = ["gain_over", "loss", "loss_over"]


def loss(
    evidence: Evidence, part: str, ranking: str, heads: str, ffns: str, num_fewshot: int, threshold: float
) -> Measured | None:
    """How much lower the average is than the dense model's."""
    entry = evidence.entry(part, ranking, heads, ffns, num_fewshot)
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
    evidence: Evidence,
    part: str,
    ranking: str,
    over: str,
    heads: str,
    num_fewshot: int,
    threshold: float,
    task: str | None = None,
) -> Measured | None:
    """How much lower the average is under one ranking than under another, at the same share of heads.

    Over the tasks that have both, or of one `task`. Outside the study, `aggregate` is the mean over its tasks.
    """
    return _between(evidence, part, (ranking, over), heads, num_fewshot, task, -1)


def gain_over(
    evidence: Evidence, part: str, ranking: str, over: str, heads: str, num_fewshot: int, threshold: float
) -> Measured | None:
    """How much higher it is."""
    return _between(evidence, part, (ranking, over), heads, num_fewshot, None, 1)


def _between(
    evidence: Evidence,
    part: str,
    rankings: tuple[str, str],
    heads: str,
    num_fewshot: int,
    task: str | None,
    sign: int,
) -> Measured | None:
    named = [evidence.mean_ranking() if part == "unseen" and one == AGGREGATE else one for one in rankings]
    first, second = (evidence.entry(part, ranking, heads, "0", num_fewshot) for ranking in named)
    if first is None or second is None:
        return None
    columns = [column for column in evidence.boards[part].columns if column in first.cells and column in second.cells]
    tasks = tuple(column.task for column in columns if task in (None, column.task))
    runs = [run for entry in (first, second) for run in entry.runs if run.task in tasks]
    if not runs:
        return None
    board = compare(Collection(runs=runs), BoardConfig(tasks=tasks, against=second.label))
    found = {entry.ranking: entry for entry in board.entries}
    average, other = found[first.ranking].average, found[second.ranking].average
    if average is None or average.difference is None or other is None:
        return None
    both = all(_at_chance(board, entry) for entry in board.entries)
    obstacle = "neither is shown to be above chance" if both else ""
    note = f"averages {average.value:.3f} and {other.value:.3f}, {len(tasks)} task{'s' * (len(tasks) != 1)}"
    return _of_difference(average.difference, sign, note, obstacle)


def _at_chance(board: Board, entry: Entry) -> bool:
    about = board.about.get(None)
    if about is None or about.chance is None or entry.average is None:
        return False
    return entry.average.low <= about.chance.level


def _of_difference(difference: Difference, sign: int, note: str, obstacle: str) -> Measured:
    low, high = sorted((sign * difference.low, sign * difference.high))
    return Measured(sign * difference.value, low, high, "documents", difference.paired, note, obstacle)
