"""What a deciding sweep has to compute next: each row's documents grow look by look, until its question is answered.

A decision depends on outcomes alone, of the documents of one look: whoever makes it, and however far cells have grown
meanwhile, it is the same. Imports neither torch nor lm_eval.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.intervals import Z
from lm_eval_prune.sequential import LEVEL, Look, chance_of_reaching, looks, path_length
from lm_eval_prune.sum_intervals import SumOfChanges, least_sum, stacked, sum_lower_limit, sum_p
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.results import Headline, headline
from lm_eval_prune.sweep.schema import DecideSettings, Row
from lm_eval_prune.unit_intervals import UnitChanges, unit_changes
from lm_eval_prune.variants import DENSE, Variant

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Decisions", "Outcomes", "outcomes_of", "paired", "planned_looks", "verdict_of"]

GIVE_UP = 0.05
"""A row whose chance of an answer, with all documents, is below this stops: the chance is predictive power."""
WITHIN, WORSE, BETTER, OPEN = "within the margin", "worse", "better", "not shown"


class Outcomes(NamedTuple):
    """A cell's headline metric by document."""

    doc_ids: NDArray[np.int64]
    values: NDArray[np.float64]
    looks: NDArray[np.int64]
    """The look that each document came with."""
    units: list[str] | None
    """What each was drawn with; None: each by itself."""

    def until(self, look: int) -> Outcomes:
        kept = self.looks <= look
        units = None if self.units is None else [unit for unit, keep in zip(self.units, kept, strict=True) if keep]
        return Outcomes(self.doc_ids[kept], self.values[kept], self.looks[kept], units)


RowKey = tuple[Variant, int, int]
"""(variant, shots, few-shot seed)."""


class Decisions:
    """The rows of a folder, and how far each of their cells has to grow."""

    def __init__(self, folder: Path, rows: Sequence[Row], settings: DecideSettings) -> None:
        self.folder, self.settings = folder, settings
        self._cells: dict[RowKey, dict[str, str]] = defaultdict(dict)
        for row in rows:
            key = row.variant._replace(oracle=False), row.num_fewshot, row.fewshot_seed
            self._cells[key][row.task] = row.cell
        self.looks = planned_looks(settings, [key[0] for key in self._cells])
        self._number = {
            shots: len({key[0]._replace(seed=None) for key in self._cells if key[1] == shots and key[0] != DENSE})
            for shots in {key[1] for key in self._cells}
        }
        self._read: dict[str, tuple[tuple[int, ...], int, Outcomes | None]] = {}
        self._verdicts: dict[tuple[RowKey, int], str] = {}

    def targets(self) -> dict[str, int]:
        """Cell -> the number of the look that it has to have reached, by what is there now."""
        found = {cell: 0 for cells in self._cells.values() for cell in cells.values()}
        wanted = _Wanted(self, found)
        if self.settings.mode == "rows":
            for key in self._cells:
                if key[0] != DENSE:
                    wanted.verdict(key)
            return found
        for family in self.families():
            (_walk if self.settings.mode == "walk" else _halve)(family, wanted.verdict)
        return found

    def families(self) -> list[list[RowKey]]:
        """The rows of each ranking, component, shots and draw, by share: of those that prune one kind of component."""
        found: dict[Hashable, list[tuple[float, RowKey]]] = defaultdict(list)
        for key in self._cells:
            variant, shots, draw = key
            heads, ffns = float(variant.prune_heads), float(variant.prune_ffns)
            if bool(heads) != bool(ffns):
                found[variant.ranking, variant.seed, bool(heads), shots, draw].append((heads or ffns, key))
        return [[key for _, key in sorted(family, key=lambda one: one[0])] for family in found.values()]

    def cells_of(self, key: RowKey) -> dict[str, tuple[str, str | None]]:
        """Task -> the row's cell and the dense model's."""
        dense = self._cells.get((DENSE, *key[1:]), {})
        return {task: (cell, dense.get(task)) for task, cell in self._cells[key].items()}

    def look(self, cell: str) -> int:
        """The look that a cell has reached; -1 where it is not there, or damaged."""
        return self._known(cell)[0]

    def verdict(self, key: RowKey, look: Look) -> str:
        """What the documents of a look say of a row; empty where they leave it open, and more may tell."""
        if (key, look.number) not in self._verdicts:
            parts = [self._changes(*cells, look.number) for cells in self.cells_of(key).values()]
            known = [part for part in parts if part is not None]
            found = ""
            if len(known) == len(parts):
                tasks = stacked([(1 / len(known), part) for part in known])
                last = [one for one in self.looks if one.stage == look.stage][-1]
                alone = self.settings.mode == "rows"
                found = verdict_of(tasks, look, last, self.settings.margin, self._number[key[1]], alone=alone)
            self._verdicts[key, look.number] = found
        return self._verdicts[key, look.number]

    def verdict_of_cell(self, changes: UnitChanges, look: Look, rows: int = 1) -> str:
        """What one cell's documents say at a look; `not shown` where they leave it open."""
        return verdict_of(stacked([(1.0, changes)]), look, look, self.settings.margin, rows, alone=True) or OPEN

    def outcomes(self, cell: str) -> Outcomes | None:
        return self._known(cell)[1]

    def rows_at(self, shots: int) -> int:
        """How many rows are compared with dense at a number of shots: p-values are corrected for them."""
        return self._number[shots]

    def failed(self, key: RowKey) -> bool:
        names = [name for pair in self.cells_of(key).values() for name in pair if name is not None]
        return any(self.look(name) < 0 and disk.failure_path(self.folder, name).exists() for name in names)

    def _changes(self, cell: str, dense: str | None, look: int) -> UnitChanges | None:
        mine, theirs = self.outcomes(cell), self.outcomes(dense) if dense is not None else None
        return None if mine is None or theirs is None else paired(mine.until(look), theirs.until(look))

    def _known(self, cell: str) -> tuple[int, Outcomes | None]:
        path = disk.cell_path(self.folder, cell)
        try:
            seen = path.stat()
        except OSError:
            return -1, None
        mark = seen.st_ino, seen.st_mtime_ns, seen.st_size
        if cell not in self._read or self._read[cell][0] != mark:
            self._read[cell] = (mark, *_read(path))
        return self._read[cell][1:]


class _Wanted:
    """Asks for verdicts, and notes how far cells must grow for them."""

    def __init__(self, decisions: Decisions, targets: dict[str, int]) -> None:
        self.decisions, self.targets = decisions, targets

    def verdict(self, key: RowKey) -> str | None:
        """The row's verdict, `not shown` where documents run out; None while cells have to grow for it."""
        if self.decisions.failed(key):
            return OPEN
        for look in self.decisions.looks:
            names = [name for pair in self.decisions.cells_of(key).values() for name in pair if name is not None]
            for name in names:
                self.targets[name] = max(self.targets[name], look.number)
            if any(self.decisions.look(name) < look.number for name in names):
                return None
            if found := self.decisions.verdict(key, look):
                return found
        return OPEN


def _walk(family: Sequence[RowKey], verdict: Callable[[RowKey], str | None]) -> None:
    """From the smallest share to the first that is not within the margin."""
    for key in family:
        if verdict(key) != WITHIN:
            return


def _halve(family: Sequence[RowKey], verdict: Callable[[RowKey], str | None]) -> None:
    """The share in the middle first, then that in the middle of those that are left."""
    low, high = 0, len(family)
    while low < high:
        middle = (low + high) // 2
        found = verdict(family[middle])
        if found is None:
            return
        low, high = (middle + 1, high) if found == WITHIN else (low, middle)


def planned_looks(settings: DecideSettings, variants: Sequence[Variant]) -> list[Look]:
    """The looks of a folder. A halving asks about several shares of a ranking, at a level that these have in common."""
    tests = 1
    if settings.mode == "halving":
        heads = {variant.prune_heads for variant in variants if float(variant.prune_heads)}
        ffns = {variant.prune_ffns for variant in variants if float(variant.prune_ffns)}
        tests = path_length(max(len(heads), len(ffns), 1))
    return looks(settings.looks, len(settings.limits), tests)


def verdict_of(tasks: SumOfChanges, look: Look, last: Look, margin: float, rows: int, *, alone: bool) -> str:
    """What changes say at a look: within the margin, worse, better, not shown (out of reach), or nothing yet.

    last: the look after all documents that are planned. rows: over how many p-values are corrected. alone: the row is
    asked about for itself; else for a minimal decline, to which only "within the margin" matters.
    """
    value, low = float(tasks.value), float(sum_lower_limit(tasks, look.z))
    units = tuple(float(count) for count in tasks.changes.units)
    if low >= -margin and least_sum(tuple(tasks.weights), units, look.z) <= margin:
        return WITHIN
    # A loss that is shown may still be one within the margin: for a minimal decline it is no answer.
    if alone and float(sum_p(tasks)) * look.factor * rows < LEVEL:
        return WORSE if value < 0 else BETTER
    if look.number >= last.number:
        return ""
    below = (value - float(sum_lower_limit(tasks, Z))) / Z
    chances = [chance_of_reaching(value + margin, below, look.share, last.z)]
    if alone:
        above = (float(-sum_lower_limit(tasks.mirrored, Z)) - value) / Z
        corrected = _z_of(last.factor * rows)
        chances += [
            chance_of_reaching(-value, above, look.share, corrected),
            chance_of_reaching(value, below, look.share, corrected),
        ]
    return "" if max(chances) >= GIVE_UP else OPEN


def _z_of(factor: float) -> float:
    from scipy.special import ndtri

    return float(-ndtri(LEVEL / factor / 2))


def paired(mine: Outcomes, dense: Outcomes) -> UnitChanges | None:
    """Changes on the documents of both; None where there are none, or they are no outcomes between 0 and 1."""
    shared, ours, theirs = np.intersect1d(mine.doc_ids, dense.doc_ids, return_indices=True)
    first, second = mine.values[ours], dense.values[theirs]
    if not len(shared) or min(first.min(), second.min()) < 0 or max(first.max(), second.max()) > 1:
        return None
    units = None
    if mine.units is not None:
        units = np.unique([mine.units[place] for place in ours], return_inverse=True)[1]
    return unit_changes(first - second, units)


def outcomes_of(results: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Outcomes | None:
    """By the metric that a cell shows; None where that is no number of each document, or lower is better."""
    (task,) = results["results"]
    shown = headline(dict(results), task)
    better = results.get("higher_is_better", {}).get(task, {})
    return None if shown is None or better.get(shown.name) is False else _outcomes(lines, shown)


def _read(path: Path) -> tuple[int, Outcomes | None]:
    try:
        content = disk.read_cell(path)
        lines = disk.read_samples(path)
        return int(content["cell"]["decide"]["look"]), outcomes_of(content, lines)
    except (FileFormatError, KeyError, TypeError, ValueError):
        return -1, None


def _outcomes(lines: Sequence[Mapping[str, Any]], shown: Headline) -> Outcomes | None:
    metric, _, filter_name = shown.key.partition(",")
    own = [line for line in lines if line["filter"] == filter_name]
    values = np.array([line.get(metric, math.nan) for line in own], dtype=float)
    if not len(own) or not np.isfinite(values).all():
        return None
    units = [line.get("unit") for line in own]
    return Outcomes(
        np.array([line["doc_id"] for line in own]),
        values,
        np.array([line["look"] for line in own]),
        None if None in units else [str(unit) for unit in units],
    )
