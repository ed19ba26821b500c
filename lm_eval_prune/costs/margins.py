"""How many documents a margin needs, by task: before a study is run."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from lm_eval_prune.costs.study import Grid
from lm_eval_prune.costs.workload import ALIASES, known_tasks
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.intervals import detectable_loss, documents_needed, margin_shown, smallest_margin
from lm_eval_prune.sum_intervals import average_margin, least_sum

__all__ = ["CHANGED", "MARGINS", "PASSAGES", "Passages", "margins_of"]

MARGINS = (0.005, 0.01, 0.02)
CHANGED = 0.04
"""Share of the answers that pruning changes, where nothing is said: as many gained as lost."""


class Passages(NamedTuple):
    """How many texts the documents of a task's evaluation split share."""

    number: int
    as_many: float
    """Of equal size that tell as much, if a text's documents change together: n^2 / sum of (a text's documents)^2."""
    counted: bool = True
    """Counted on the split itself; otherwise only quoted, and `as_many` is at most."""


PASSAGES = {
    "boolq": Passages(2939, 2525.48),
    "icl14_multirc": Passages(83, 65.66),
    "wsc": Passages(41, 29.23),
    "icl14_record": Passages(7133, 7133, counted=False),
}
"""By the fields of `units.py`, on SuperGLUE's validation splits: BoolQ's 3,270 passages, of which 2,939 differ,
MultiRC's 4,848 answers on 83 paragraphs, WSC's 104 spans in 41 texts. ReCoRD's 10,000 queries are on 7,133 passages
by memory of its paper (Zhang et al. 2018, arXiv 1810.12885), neither counted nor looked up; how many queries each has
is not known, so fewer may tell as much."""


def margins_of(grid: Grid, changed: float = CHANGED) -> dict[str, Any]:
    """Of each of the 14 tasks in the grid, and of their average, what margin its documents can show.

    Raises ArgumentError where `changed` is no share.
    """
    if not 0 <= changed < 1:
        raise ArgumentError(f"changed={changed:g}: expected a share of the answers, from 0 to below 1, such as 0.04")
    works = {ALIASES.get(work.task, work.task): work for work in grid.workloads}
    rows = []
    for task, work in works.items():
        documents = grid.documents(work)
        if task in known_tasks() and documents:
            rows.append(_row(task, documents, work.documents, changed))
    if len(rows) > 1:
        rows.append(_average(rows, changed))
    for row in rows:
        del row["as_many"]
    return {"changed": changed, "rows": rows}


def _row(task: str, documents: int, of: int, changed: float) -> dict[str, Any]:
    """`documents` of the split's `of`, of which passages are taken in proportion."""
    passages = PASSAGES.get(task, Passages(of, of))
    units = documents * passages.as_many / of
    return {
        "task": task,
        "documents": documents,
        "units": round(units) if task in PASSAGES else None,
        "units_at_most": not passages.counted,
        "unchanged": float(smallest_margin(units)),
        "shown": margin_shown(units, changed),
        "detectable": detectable_loss(units, changed),
        "needed": {
            f"{margin:g}": math.ceil(documents_needed(margin, changed) * documents / units) for margin in MARGINS
        },
        "as_many": units,
    }


def _average(rows: list[dict[str, Any]], changed: float) -> dict[str, Any]:
    weights, units = (1 / len(rows),) * len(rows), tuple(row["as_many"] for row in rows)
    return {
        "task": "average",
        "documents": sum(row["documents"] for row in rows),
        "units": None,
        "units_at_most": False,
        "unchanged": least_sum(weights, units),
        "shown": average_margin(weights, units, changed),
        "detectable": detectable_loss(units, [changed] * len(rows), weights=weights),
        "needed": {},
        "as_many": sum(units),
    }
