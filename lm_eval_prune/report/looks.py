"""Rows of deciding sweeps at one look: cells that grew further for another row are cut to what their own row had.

A row's difference is then one of those that were planned: all of its tasks after the same look.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lm_eval_prune.errors import PruneError
from lm_eval_prune.metric_names import metric_name
from lm_eval_prune.report.runs import Problem, Run, Sequential
from lm_eval_prune.report.sample_files import read_columns

__all__ = ["at_common_looks", "margin_of"]

RowOfRuns = tuple[object, ...]


def at_common_looks(runs: Sequence[Run]) -> list[Run]:
    """The runs of one folder, those of deciding sweeps at the least look of their row (all seeds and draws of it).

    Dense runs are as they are: each row is paired with those of their documents that it has.
    """
    rows: dict[RowOfRuns, list[Sequential]] = defaultdict(list)
    for run in runs:
        if run.sequential is not None and not run.is_dense:
            rows[_row(run)].append(run.sequential)
    least = {row: min(found) for row, found in rows.items()}
    cut = []
    for run in runs:
        own = None if run.is_dense else run.sequential
        cut.append(run if own is None or least[_row(run)].look == own.look else _cut(run, least[_row(run)]))
    return cut


def margin_of(runs: Sequence[Run], given: float | None, otherwise: float) -> tuple[float, list[Problem]]:
    """The margin of a board, and what is to be said where rows were decided with another one.

    It is the one `given`; else that which all rows were decided with, or `otherwise`. Any is allowed: the intervals of
    all looks hold together. But documents ended where the question of the sweep was answered, not that of the board.
    """
    asked = [None if run.sequential is None else run.sequential.margin for run in runs if not run.is_dense]
    decided = sorted({margin for margin in asked if margin is not None})
    margin = given
    if margin is None:
        margin = decided[0] if len(decided) == 1 and None not in asked else otherwise
    others = " and ".join(f"{one:g}" for one in decided if one != margin)
    if not others:
        return margin, []
    told = f"rows whose documents were decided with margin {others} are judged with {margin:g}"
    return margin, [Problem("another margin", f"{told}; margin={decided[0]:g} asks what they were decided for")]


def _row(run: Run) -> RowOfRuns:
    return run.model, run.variant._replace(seed=None, oracle=False), run.num_fewshot


def _cut(run: Run, look: Sequential) -> Run:
    """The run after an earlier look; metrics that are no means over its documents are gone."""
    assert run.samples is not None
    assert run.sequential is not None
    try:
        columns = read_columns(run.samples)
    except PruneError:  # told where its outcomes are read
        return run
    assert columns is not None
    columns = columns.until(look.look)
    values = {}
    for filter_name in dict.fromkeys(columns.filter):
        places = [place for place, own in enumerate(columns.filter) if own == filter_name]
        for metric, found in columns.metrics.items():
            numbers = [found[place] for place in places]
            name = metric_name(metric, filter_name)
            if name in run.values and None not in numbers:
                mean = float(np.mean(np.array(numbers, dtype=float)))
                values[name] = run.values[name]._replace(value=mean, stderr=None)
    documents = len(set(columns.doc_id))
    return replace(
        run,
        values=values,
        num_documents=documents,
        sequential=look._replace(documents=documents, planned=run.sequential.planned),
        until_look=look.look,
    )
