"""What each row prunes, for the pictures of its masks; those of a large model's whole grid are megabytes of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lm_eval_prune.report.board import Board, Entry
from lm_eval_prune.report.page.rows import row_id
from lm_eval_prune.report.runs import Run

__all__ = ["mask_data"]

SEPARATOR = "; "
"""Between the heads and the FFNs of a mask's text."""


def mask_data(board: Board) -> dict[str, Any]:
    """The masks of every row, as JSON values.

    `parts` are the texts of heads and of FFNs, each once: masks that differ in one only are most of a grid. `rows` are
    lists by row of: where the mask was used, the numbers of its parts, layers and heads of a layer (None where the
    files do not say them).
    """
    parts: dict[str, int] = {}
    rows: dict[str, list[Any]] = {}
    for entry in board.entries:
        own = [
            [where, [parts.setdefault(part, len(parts)) for part in run.mask.split(SEPARATOR)], *_shape(run)]
            for run, where in _masks(entry)
        ]
        if own:
            rows[row_id(entry)] = own
    return {"parts": list(parts), "rows": rows}


def _masks(entry: Entry) -> Iterable[tuple[Run, str]]:
    """A run of each mask of a row, and what the mask was used for: with a ranking of its own there is one a task."""
    all_tasks = {run.task for run in entry.runs}
    found: dict[tuple[str, int | None], list[Run]] = {}
    for run in entry.runs:
        if run.mask:
            found.setdefault((run.mask, run.variant.seed), []).append(run)
    for (_, seed), runs in found.items():
        tasks = dict.fromkeys(run.task for run in runs)
        where = "all tasks" if len(tasks) > 1 and tasks.keys() == all_tasks else ", ".join(tasks)
        yield runs[0], where if seed is None else f"{where}, seed {seed}"


def _shape(run: Run) -> tuple[int | None, int | None]:
    layers, heads = run.cost.ffns_total, run.cost.heads_total
    return (layers, heads // layers) if layers and heads and heads % layers == 0 else (None, None)
