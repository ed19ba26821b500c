"""What every run answered, document by document: with it the page compares any two rows, not only with the dense model.

A *group* is a column at a number of shots, with all documents that any of its runs was asked. A run's answers are bits
where they are 0 or 1, of those that differ from its group's first run, so that they deflate well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_prune.report.averages import averaged_columns
from lm_eval_prune.report.board import Board, Column, Entry
from lm_eval_prune.report.page.packing import packed, packed_bytes
from lm_eval_prune.report.parts import Draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lm_eval_prune.report.outcomes import Outcomes

__all__ = ["MOST_CHARACTERS", "packed_answers"]

MOST_CHARACTERS = 2_000_000
"""Of the answers on the page; of larger boards they are left out."""


class _Group:
    """A column at a number of shots."""

    def __init__(self) -> None:
        self.documents: dict[Any, int] = {}
        self.lists: dict[tuple[Any, ...], int] = {}
        """Lists of documents as runs have them -> their numbers."""
        self.places: list[list[int]] = []
        """Of each list, the documents' places in the group."""
        self.units: dict[int, str] = {}
        self.first: dict[int, NDArray[np.uint8]] = {}
        """List -> the bits of the first run that has it."""

    def list_of(self, outcomes: Outcomes) -> int:
        known = self.lists.get(outcomes.documents)
        if known is None:
            known = self.lists[outcomes.documents] = len(self.places)
            own = [self.documents.setdefault(one, len(self.documents)) for one in outcomes.documents]
            self.places.append(own)
            for place, unit in zip(own, outcomes.units or (), strict=False):
                self.units.setdefault(place, unit)
        return known

    def described(self) -> dict[str, Any]:
        lists = [None if own == list(range(len(self.documents))) else own for own in self.places]
        numbers: dict[str, int] = {}
        units = [self.units.get(place) for place in range(len(self.documents))]
        shared = None not in units and len(set(units)) < len(units)
        return {
            "documents": len(self.documents),
            "lists": lists,
            "units": [numbers.setdefault(str(unit), len(numbers)) for unit in units] if shared else None,
        }


def packed_answers(board: Board) -> dict[str, str]:
    """The page's data `answers` and `answer-bytes`; empty where no answers are at hand, or they are too many."""
    groups: dict[tuple[int, int], _Group] = {}
    rows: list[dict[int, list[Any]]] = []
    content = bytearray()
    for entry in board.entries:
        rows.append({})
        for place, column in enumerate(board.columns):
            runs = _answered(board, entry, column)
            if runs:
                group = groups.setdefault((place, entry.num_fewshot), _Group())
                rows[-1][place] = [[*draw, *_written(content, group, outcomes, column)] for draw, outcomes in runs]
    if not content:
        return {}
    averaged = averaged_columns(board.columns)
    described = {
        "margin": board.margin,
        "columns": [
            {"name": str(column), "higher": column.higher_is_better, "averaged": column in averaged}
            for column in board.columns
        ],
        "groups": {f"{place} {shots}": group.described() for (place, shots), group in groups.items()},
        "rows": rows,
    }
    found = {"answers": packed(described), "answer-bytes": packed_bytes(bytes(content))}
    return found if sum(map(len, found.values())) <= MOST_CHARACTERS else {}


def _answered(board: Board, entry: Entry, column: Column) -> list[tuple[Draw, Outcomes]]:
    """(seeds of mask and examples, answers) of each of the row's runs; none where one of them has none."""
    runs = [run for run in entry.runs if run.task == column.task and column.metric in run.values]
    found: list[tuple[Draw, Outcomes]] = []
    for run in runs:
        outcomes = board.outcomes(run, column.metric)
        if outcomes is None:
            return []
        found.append(((run.variant.seed, run.fewshot_seed), outcomes))
    return found


def _written(content: bytearray, group: _Group, outcomes: Outcomes, column: Column) -> list[Any]:
    """Adds the answers to `content`: (list of documents, how they are written, where they begin there)."""
    values, number, start = outcomes.values[column.metric], group.list_of(outcomes), len(content)
    if np.isin(values, (0.0, 1.0)).all():
        bits = values.astype(np.uint8)
        first = group.first.setdefault(number, bits)
        content += np.packbits(bits if first is bits else bits ^ first).tobytes()
        return [number, "first" if first is bits else "bits", start]
    levels = np.unique(values)
    if len(levels) <= 256:
        content += np.searchsorted(levels, values).astype(np.uint8).tobytes()
        return [number, levels.tolist(), start]
    content += values.astype("<f8").tobytes()
    return [number, "numbers", start]
