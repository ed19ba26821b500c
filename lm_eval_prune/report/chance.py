"""Chance levels of a board: of each column as its files say it, of the average, and where the dense model is no better.

A task on which the dense model is at chance cannot show a loss: its verdicts say so, and so do the figures. It stays in
the average, which is that of the study, and dilutes it; `diluted` puts that into numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from lm_eval_prune.report.averages import averaged_columns, is_at_chance
from lm_eval_prune.report.board import Board, Column
from lm_eval_prune.report.cells import Made
from lm_eval_prune.report.grouping import RowKey
from lm_eval_prune.report.runs import Chance, Run, shots_name

__all__ = ["chance_of_average", "chances_of", "diluted", "shots_at_chance"]


def chances_of(columns: Sequence[Column], runs: Sequence[Run]) -> dict[Column, Chance]:
    """The chance level of each column that one is known of: that of its run with the most documents."""
    found: dict[Column, Chance] = {}
    by_size = sorted(runs, key=lambda run: run.num_documents or 0)
    for column in columns:
        metric = column.metric.partition(" (")[0]  # a filter changes the answer, not its chance
        for run in by_size:
            if run.task == column.task and metric in run.chance:
                found[column] = run.chance[metric]
    return found


def chance_of_average(columns: Sequence[Column], chances: Mapping[Column, Chance]) -> Chance | None:
    """The mean of the levels of the averaged columns; None where one is not known."""
    averaged = averaged_columns(columns)
    if any(column not in chances for column in averaged):
        return None
    return Chance(fmean(chances[column].level for column in averaged), "mean over the tasks")


def shots_at_chance(
    made: Mapping[RowKey, Mapping[Column, Made]], column: Column, chances: Mapping[Column, Chance]
) -> tuple[int, ...]:
    """The numbers of shots at which the dense model of some row is at chance on the column."""
    level = chances[column].level if column in chances else None
    found = {key.num_fewshot for key, row in made.items() if column in row and is_at_chance([row[column].dense], level)}
    return tuple(sorted(found))


def diluted(board: Board) -> list[str]:
    """For each number of shots, which tasks are at chance, and what that makes of the average's margin."""
    averaged, sentences = averaged_columns(board.columns), []
    for shots in board.shots:
        lost = [column for column in averaged if column in board.about and shots in board.about[column].at_chance]
        left = len(averaged) - len(lost)
        if not lost:
            continue
        said = f"dense is at chance, {shots_name(shots)}: {', '.join(column.task for column in lost)}"
        if left:
            worth = board.margin * len(averaged) / left
            said += (
                f"; these cannot show a loss, so that {board.margin:g} of the average is {worth:.3g} of the "
                f"{left} other task{'s' * (left > 1)}"
            )
        sentences.append(said)
    return sentences
