"""How many documents a margin needs, by task: before a study is run."""

from __future__ import annotations

import math
from typing import Any

from lm_eval_prune.costs.study import Grid
from lm_eval_prune.costs.workload import ALIASES, known_tasks
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.intervals import documents_needed, margin_shown, smallest_margin

__all__ = ["CHANGED", "MARGINS", "margins_of"]

MARGINS = (0.005, 0.01, 0.02)
CHANGED = 0.04
"""Share of the answers that pruning changes, where nothing is said: as many gained as lost."""
UNITS = {"boolq": 2525, "icl14_multirc": 74}
"""Task -> passages of equal size that tell as much, if all documents of a passage change together: counted on the
validation splits of BoolQ (2,939 passages) and MultiRC (83)."""
UNKNOWN_UNITS = {"icl14_record"}
"""Tasks whose documents share passages too, how many is not known: documents are counted, and more are needed."""


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
            whole = UNITS.get(task, work.documents)
            rows.append(_row(task, documents, documents * whole / work.documents, task in UNITS, changed))
    if len(rows) > 1:
        rows.append(
            {
                "task": "average",
                "documents": sum(row["documents"] for row in rows),
                "units": None,
                "units_unknown": False,
                # As the leaderboard builds its interval from those of the tasks.
                "unchanged": math.hypot(*(row["unchanged"] for row in rows)) / len(rows),
                "shown": math.hypot(*(row["shown"] for row in rows)) / len(rows),
                "needed": {},
            }
        )
    return {"changed": changed, "rows": rows}


def _row(task: str, documents: int, units: float, shared: bool, changed: float) -> dict[str, Any]:
    return {
        "task": task,
        "documents": documents,
        "units": round(units) if shared else None,
        "units_unknown": task in UNKNOWN_UNITS,
        "unchanged": float(smallest_margin(units)),
        "shown": margin_shown(units, changed),
        "needed": {
            f"{margin:g}": math.ceil(documents_needed(margin, changed) * documents / units) for margin in MARGINS
        },
    }
