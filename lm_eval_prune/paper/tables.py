"""The numbers behind each section, unrounded: what the page folds away and `paper.json` holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm_eval_prune.agreement import cross_shot
from lm_eval_prune.analysis import paper_correlation, rank_agreement, retained_capacity
from lm_eval_prune.errors import ScoreError
from lm_eval_prune.intervals import holm
from lm_eval_prune.paper.evidence import Evidence
from lm_eval_prune.paper.rankings import agreement_of_shots
from lm_eval_prune.report.agreement import LEVEL, Family
from lm_eval_prune.report.board import Board

__all__ = ["Table", "paper_tables"]

Value = str | float | int | None
MOST_IMPORTANT = 10
"""Heads that are named."""


class Table(NamedTuple):
    """Numbers with their names."""

    title: str
    header: list[str]
    rows: list[list[Value]]


def paper_tables(evidence: Evidence) -> dict[str, list[Table]]:
    """Key of a section -> its tables; sections without data are absent."""
    makers: dict[str, Callable[[Evidence], Iterator[Table]]] = {
        "figure-3": _important_heads,
        "figure-4": _ffns_by_layer,
        "figure-5": lambda found: _rows(found.boards.get("heads")),
        "figure-6": lambda found: _rows(found.boards.get("ffns")),
        "figure-7": lambda found: _rows(found.boards.get("combined")),
        "figure-8": _agreement,
        "section-6-1-2": _overlap,
        "figure-9": lambda found: itertools.chain(_rows(found.boards.get("transfer")), _donors(found)),
        "figure-9d": lambda found: _rows(found.boards.get("unseen")),
        "table-1": _between_shots,
        "figure-10": lambda found: itertools.chain(_induction_heads(found), _overlap_with_induction(found)),
        "figure-11": _retained_by_mean,
        "figure-12": _important_by_task,
        "figure-18": lambda found: _retained(found, "prefix-matching"),
        "figure-19": lambda found: _retained(found, "copying"),
    }
    made = {section: list(make(evidence)) for section, make in makers.items()}
    return {section: tables for section, tables in made.items() if any(table.rows for table in tables)}


def _rows(board: Board | None) -> Iterator[Table]:
    """A board's averages and their differences to dense, then each task's value."""
    if board is None:
        return
    header = ["shots", "ranking", "heads pruned", "FFNs pruned", "average", "low", "high", "difference",
              "difference low", "difference high", "documents", *map(str, board.columns)]  # fmt: skip
    rows: list[list[Value]] = []
    order = sorted(
        board.entries, key=lambda one: (one.num_fewshot, one.ranking, float(one.prune_heads), float(one.prune_ffns))
    )
    for entry in order:
        average = entry.average
        difference = average.difference if average else None
        shown: list[Value] = [average.value, average.low, average.high] if average else [None, None, None]
        shown += [difference.value, difference.low, difference.high] if difference else [None, None, None]
        cells: list[Value] = [entry.cells[column].value if column in entry.cells else None for column in board.columns]
        place: list[Value] = [entry.num_fewshot, entry.ranking, float(entry.prune_heads), float(entry.prune_ffns)]
        rows.append([*place, *shown, entry.num_documents, *cells])
    yield Table("Averages over the tasks, and each task", header, rows)


def _donors(evidence: Evidence) -> Iterator[Table]:
    """Whose importance a task was pruned by, where a ranking chose that."""
    board, rows = evidence.boards.get("transfer"), dict[tuple[Value, ...], float]()
    for entry in board.entries if board else ():
        scores = evidence.by_task("heads", entry.num_fewshot)
        for column, cell in entry.cells.items():
            if cell.donor:
                both = column.task in scores and cell.donor in scores
                rho = rank_agreement(scores[column.task], scores[cell.donor]).rho if both else float("nan")
                rows[entry.num_fewshot, column.task, entry.ranking, cell.donor] = rho
    order = sorted(rows, key=lambda row: tuple(map(str, row)))
    header = ["shots", "task", "ranking", "pruned by the importance to", "rho"]
    yield Table("Which task agrees most and least", header, [[*row, rows[row]] for row in order])


def _aggregate(evidence: Evidence, component: str, num_fewshot: int) -> np.ndarray | None:
    scores = list(evidence.by_task(component, num_fewshot).values())
    return np.mean(scores, axis=0) if scores else None


def _important_heads(evidence: Evidence) -> Iterator[Table]:
    rows: list[list[Value]] = []
    for shots in evidence.score_shots("heads"):
        mean = _aggregate(evidence, "heads", shots)
        if mean is not None:
            rows += [[shots, layer, head, score] for layer, head, score in _highest(mean)]
    yield Table("The most important heads, by the mean over tasks", ["shots", "layer", "head", "importance"], rows)


def _highest(scores: np.ndarray) -> list[tuple[int, int, float]]:
    """(layer, head, score) of the highest scores."""
    order = np.argsort(-scores.ravel(), kind="stable")[:MOST_IMPORTANT]
    return [(int(place) // scores.shape[1], int(place) % scores.shape[1], float(scores.flat[place])) for place in order]


def _ffns_by_layer(evidence: Evidence) -> Iterator[Table]:
    rows: list[list[Value]] = []
    for shots in evidence.score_shots("ffns"):
        mean = _aggregate(evidence, "ffns", shots)
        count = len(evidence.by_task("ffns", shots))
        rows += [[shots, layer, float(score), count] for layer, score in enumerate(mean if mean is not None else ())]
    yield Table("Importance of FFNs, the mean over tasks", ["shots", "layer", "importance", "tasks"], rows)


def _agreement(evidence: Evidence) -> Iterator[Table]:
    rows: list[list[Value]] = []
    for family in _of_kind(evidence, "tasks"):
        shots = int(family.name.partition("-")[0])
        scores = evidence.by_task("heads", shots)
        for pair in family.pairs:
            paper = paper_correlation(scores[pair.first], scores[pair.second])
            numbers = [pair.rho, pair.p_holm, pair.rho_within_layers, pair.p_within_layers_holm, paper]
            rows.append([shots, pair.first, pair.second, *numbers])
        mean = np.sum(list(scores.values()), axis=0)  # ranks as the mean does
        for task, own in scores.items():
            both = rank_agreement(own, mean)
            paper = paper_correlation(own, mean)
            rows.append([shots, task, "mean of all tasks", both.rho, None, both.rho_within_layers, None, paper])
    header = ["shots", "task", "other task", "rho", "Holm p", "within layers", "Holm p within", "as the research code"]
    yield Table("Spearman's rho of every pair of tasks", header, rows)


def _of_kind(evidence: Evidence, kind: str) -> list[Family]:
    """Those of importance at a known number of shots."""
    return [family for family in evidence.families if family.kind == kind and family.name != "any shots"]


def _overlap(evidence: Evidence) -> Iterator[Table]:
    rows: list[list[Value]] = []
    for family in _of_kind(evidence, "tasks"):
        for place, top in enumerate(family.pairs[0].tops):
            shared, by_chance = family.shared(place)
            below = sum(p < LEVEL for p in holm([pair.tops[place].p for pair in family.pairs]))
            rows.append(
                [int(family.name.partition("-")[0]), float(top.share), shared, by_chance, below, len(family.pairs)]
            )
    header = ["shots", "top", "shared by two tasks", "by chance", f"pairs with Holm p below {LEVEL:g}", "pairs"]
    yield Table("The most important heads: what two tasks share", header, rows)


def _between_shots(evidence: Evidence) -> Iterator[Table]:
    by_shots = {shots: evidence.by_task("heads", shots) for shots in evidence.score_shots("heads")}
    rows: list[list[Value]] = []
    for one in cross_shot(by_shots):
        found = agreement_of_shots(evidence, one.first, one.second, 0.0)
        limits: list[Value] = [found.low, found.high] if found else [None, None]
        name = f"{one.first} and {one.second}"
        rows.append([name, one.mean, one.variance, *limits, one.least, one.most, one.num_tasks])
    header = ["shots", "mean rho", "variance", "low", "high", "least", "most", "tasks"]
    yield Table("Spearman's rho between numbers of shots, over tasks", header, rows)


def _induction_heads(evidence: Evidence) -> Iterator[Table]:
    rows: list[list[Value]] = []
    for method, file in sorted(evidence.induction.items(), reverse=True):
        scores = np.array(file.scores, dtype=float)
        variance = np.array(file.settings.get("variance", np.full(scores.shape, np.nan)), dtype=float)
        known = variance.shape == scores.shape
        for layer, head, score in _highest(scores):
            rows.append([method, layer, head, score, float(variance[layer, head]) if known else None])
    yield Table("The highest scores", ["score", "layer", "head", "mean", "variance"], rows)


def _overlap_with_induction(evidence: Evidence) -> Iterator[Table]:
    rows: list[list[Value]] = []
    for family in _of_kind(evidence, "induction"):
        corrected = [holm([pair.tops[place].p for pair in family.pairs]) for place in range(len(family.pairs[0].tops))]
        for number, pair in enumerate(family.pairs):
            for top, ps in zip(pair.tops, corrected, strict=True):
                shown: list[Value] = [family.name, pair.second, pair.rho, float(top.share)]
                rows.append([*shown, top.shared, top.kept, top.expected, top.p, ps[number]])
    header = ["score", "and", "rho", "top", "shared", "of", "by chance", "p", "Holm p"]
    yield Table("The heads that score highest, and those of highest mean importance", header, rows)


def _retained_by_mean(evidence: Evidence) -> Iterator[Table]:
    rows: list[list[Value]] = []
    for kind, shots in itertools.product(("prefix-matching", "copying"), evidence.score_shots("heads")):
        mean, capacity = _aggregate(evidence, "heads", shots), evidence.capacity(kind)
        if mean is not None and capacity is not None:
            rows += [[kind, shots, share, kept] for share, kept in _kept(mean, capacity)]
    yield Table("Capacity retained under the mean ranking", ["score", "shots", "heads pruned", "retained"], rows)


def _kept(importance: np.ndarray, capacity: np.ndarray) -> Sequence[tuple[float, float]]:
    try:
        return [(float(one.fraction), one.retained) for one in retained_capacity(importance, capacity)]
    except ScoreError:  # all zero: there is no capacity to retain
        return []


def _important_by_task(evidence: Evidence) -> Iterator[Table]:
    rows: list[list[Value]] = []
    for shots in evidence.score_shots("heads"):
        for task, scores in evidence.by_task("heads", shots).items():
            rows += [[shots, task, layer, head, score] for layer, head, score in _highest(scores)[:3]]
    header = ["shots", "task", "layer", "head", "importance"]
    yield Table("The three most important heads of each task", header, rows)


def _retained(evidence: Evidence, kind: str) -> Iterator[Table]:
    capacity, rows = evidence.capacity(kind), list[list[Value]]()
    for shots in evidence.score_shots("heads") if capacity is not None else ():
        for task, scores in evidence.by_task("heads", shots).items():
            assert capacity is not None
            rows += [[shots, task, share, kept] for share, kept in _kept(scores, capacity)]
    yield Table("Capacity retained under each task's ranking", ["shots", "task", "heads pruned", "retained"], rows)
