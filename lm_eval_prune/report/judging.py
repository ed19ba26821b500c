"""Verdicts of a whole board: p-values corrected over its rows, and how many documents would be enough."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lm_eval_prune.intervals import holm
from lm_eval_prune.report.averages import (
    average_estimate,
    average_of,
    averaged_columns,
    is_at_chance,
    too_few,
    verdict_of,
)
from lm_eval_prune.report.board import Average, Column, Difference
from lm_eval_prune.report.cells import Made
from lm_eval_prune.report.chance import chance_of_average
from lm_eval_prune.report.grouping import RowKey
from lm_eval_prune.report.runs import Chance, Run
from lm_eval_prune.report.statistics import Estimate

__all__ = ["judged", "judged_averages"]


def judged(
    made: dict[RowKey, dict[Column, Made]], margin: float, chances: Mapping[Column, Chance]
) -> dict[RowKey, dict[Column, Made]]:
    """The same cells, p-values corrected over the variants of a task at one number of shots, with verdicts.

    chances: of the columns whose chance level is known.
    """
    families: dict[tuple[int, Column], dict[RowKey, float]] = defaultdict(dict)
    for key, row in made.items():
        for column, one in row.items():
            if one.cell.difference is not None:
                families[key.num_fewshot, column][key] = one.cell.difference.p
    found = {key: dict(row) for key, row in made.items()}
    for (_, column), p_values in families.items():
        for key, p_holm in zip(p_values, holm([*p_values.values()]), strict=True):
            one = made[key][column]
            difference = _completed(one.cell.difference, p_holm, one.difference, margin, one.cell.num_documents)
            level = chances[column].level if column in chances else None
            verdict = verdict_of(difference, column.higher_is_better, margin, is_at_chance([one.dense], level))
            found[key][column] = replace(one, cell=replace(one.cell, difference=difference, verdict=verdict))
    return found


def judged_averages(
    rows: Mapping[RowKey, Mapping[str, list[Run]]],
    made: Mapping[RowKey, Mapping[Column, Made]],
    columns: Sequence[Column],
    margin: float,
    chances: Mapping[Column, Chance],
) -> dict[RowKey, Average]:
    """Row -> its average, where it has one; p-values corrected over the rows at one number of shots."""
    averages: dict[RowKey, Average] = {}
    for key, by_task in rows.items():
        runs = [run for column in columns for run in by_task.get(column.task, [])]
        average = average_of(made[key], columns, runs)
        if average is not None:
            averages[key] = average
    families: dict[int, dict[RowKey, float]] = defaultdict(dict)
    for key, average in averages.items():
        if average.difference is not None:
            families[key.num_fewshot][key] = average.difference.p
    averaged = averaged_columns(columns)
    better, level = averaged[0].higher_is_better, chance_of_average(columns, chances)
    for p_values in families.values():
        for key, p_holm in zip(p_values, holm([*p_values.values()]), strict=True):
            estimate = average_estimate(made[key], columns)
            difference = _completed(averages[key].difference, p_holm, estimate, margin)
            at_chance = is_at_chance([made[key][column].dense for column in averaged], level and level.level)
            verdict = verdict_of(difference, better, margin, at_chance)
            averages[key] = replace(averages[key], difference=difference, verdict=verdict)
    return averages


def _completed(
    difference: Difference | None, p_holm: float, estimate: Estimate | None, margin: float, documents: int | None = None
) -> Difference:
    """The difference with its corrected p-value and, where its documents are too few, how many would do."""
    assert difference is not None
    needed = 0
    if estimate is not None and too_few(difference, margin):
        times = estimate.times_needed(margin)
        needed = math.ceil((difference.paired or documents or 0) * times - 1e-6) if math.isfinite(times) else 0
    return difference._replace(p_holm=p_holm, needed=needed)
