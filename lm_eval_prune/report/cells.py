"""One cell of the table: a variant on a task, its value as the files have it and its difference to the dense model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lm_eval_prune.report.board import Cell, Column, Difference, Flip
from lm_eval_prune.report.checks import listed
from lm_eval_prune.report.outcomes import Document, OutcomeReader, Outcomes, Pairs, pair
from lm_eval_prune.report.parts import Draw, Draws, Mean, Part, Proportion, mean_part, paired_part
from lm_eval_prune.report.runs import Problem, Run, Value
from lm_eval_prune.report.statistics import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CellMaker", "Made", "difference_of"]

MEAN_TOLERANCE = 1e-6
"""A value further than this from the mean of its documents is no mean over documents, and no test is made of these."""
PROMPTS_DIFFER = "prompts differ"
NO_OUTCOMES = "no per-document outcomes"
NO_MEAN = "not a mean over documents"


@dataclass(frozen=True)
class Made:
    """A cell, and what the row's average needs of it."""

    cell: Cell
    value: Part | None
    """None where neither outcomes nor a standard error are known."""
    difference: Estimate | None
    has_outcomes: bool
    """Whether the value is a mean over documents that are at hand."""
    flips: list[Flip] = field(default_factory=list)
    dense: Part | None = None
    """What the dense runs that it is compared with say of their own value; None without them, or where unknown."""
    against: Sequence[Run] = ()
    """The dense runs that it is compared with."""


class _Table(NamedTuple):
    """Numbers by document and draw, of the documents that all draws have."""

    values: NDArray[np.float64]
    """(documents, draws)."""
    units: NDArray[np.int64] | None
    """(documents,): the number of what each was drawn with; None: each by itself."""


class CellMaker:
    """Makes cells; reads each file of outcomes once."""

    def __init__(self, *, list_flips: bool = False, unit_fields: Mapping[str, str] | None = None) -> None:
        self._reader = OutcomeReader(unit_fields)
        self._list_flips = list_flips
        self._refused: list[str] = []
        self._dense: dict[tuple[Column, tuple[int, ...]], Part | None] = {}

    @property
    def problems(self) -> list[Problem]:
        """So far: damaged files of outcomes, and what was not compared, as its prompts differ from the dense run's."""
        refused = f"{PROMPTS_DIFFER} from the dense run's, not compared: {listed(self._refused)}"
        return [*self._reader.problems, *([Problem("different prompts", refused)] if self._refused else [])]

    def __call__(self, label: str, runs: Sequence[Run], column: Column, dense: Sequence[Run]) -> Made | None:
        """The cell of `runs` (several for random seeds and few-shot draws) against the `dense` ones.

        None where no run has the column's metric.
        """
        runs = [run for run in runs if column.metric in run.values]
        if not runs:
            return None
        dense = [run for run in dense if column.metric in run.values]
        values = [run.values[column.metric].value for run in runs]
        table = self._values(runs, column.metric)
        part = _part_of(table, runs, column)
        difference: Difference | None = None
        compared: Estimate | None = None
        flips: list[Flip] = []
        if dense and not all(any(run is other for other in dense) for run in runs):
            made = self._difference(label, runs, column, dense, part)
            if made is None:
                self._refused.append(f"{label} on {column}, {runs[0].num_fewshot}-shot")
            else:
                difference, compared, flips = made
        cell = Cell(
            value=fmean(values),
            stderr=_standard_error(runs[0].values[column.metric], table) if len(runs) == 1 else None,
            spread=stdev(values) if len(runs) > 1 else None,
            num_documents=runs[0].num_documents,
            sequential=min((run.sequential for run in runs if run.sequential is not None), default=None),
            num_units=None if table is None or table.units is None else int(table.units.max()) + 1,
            difference=difference,
            donor=runs[0].donor,
        )
        return Made(
            cell, part, compared, table is not None, flips, self._dense_part(dense, column), dense if compared else ()
        )

    def _dense_part(self, dense: Sequence[Run], column: Column) -> Part | None:
        key = column, tuple(map(id, dense))
        if key not in self._dense:
            self._dense[key] = _part_of(self._values(dense, column.metric), dense, column) if dense else None
        return self._dense[key]

    def unit_field(self, run: Run) -> str:
        """The field that names the units of a run's documents; empty where each is its own."""
        return self._reader.unit_field(run)

    def _values(self, runs: Sequence[Run], metric: str) -> _Table | None:
        """The runs' outcomes; None where one of them has none."""
        found = [self.usable(run, metric) for run in runs]
        outcomes = [one for one in found if one is not None]
        if len(outcomes) < len(runs):
            return None
        return _table([(one.documents, one.values[metric], one.units) for one in outcomes])

    def usable(self, run: Run, metric: str) -> Outcomes | None:
        """The run's outcomes; None where there are none, or the metric is not their mean."""
        found = self._reader(run)
        if found is None or metric not in found.values:
            return None
        return found if abs(found.values[metric].mean() - run.values[metric].value) <= MEAN_TOLERANCE else None

    def _difference(
        self, label: str, runs: Sequence[Run], column: Column, dense: Sequence[Run], own: Part | None
    ) -> tuple[Difference, Estimate | None, list[Flip]] | None:
        """The difference, with what the average needs of it, and the flips; None where the prompts are other ones."""
        runs, matched = _matched(runs, dense)
        gap = fmean(run.values[column.metric].value for run in runs) - fmean(
            run.values[column.metric].value for run in matched
        )
        pairs, note = self._pairs(runs, matched, column.metric)
        table = _table([(one.documents, one.first - one.second, one.units) for one in pairs]) if pairs else None
        if note == PROMPTS_DIFFER or (pairs and table is None):
            return None
        if table is None:
            other = _part_of_files(matched[:1], column)
            estimate = Estimate(((1.0, own), (-1.0, other))) if own is not None and other is not None else None
            return difference_of(estimate, "standard errors", 0, note, gap), estimate, []
        bounded = column.higher_is_better and all(
            side.min() >= 0 and side.max() <= 1 for one in pairs for side in (one.first, one.second)
        )
        draws = [max(_draw(run), _draw(other), key=_says_more) for run, other in zip(runs, matched, strict=True)]
        part = paired_part(table.values, draws=draws, units=table.units, bounded=bounded)
        looks = [run.sequential for run in (*runs, *matched) if run.sequential is not None]
        first = min(looks, default=None)  # the fewest documents, and the widest interval
        estimate = Estimate(((1.0, part),), *((first.z, first.factor) if first is not None else ()))
        if note:  # only some documents are in both runs: the difference is theirs
            gap = estimate.value
        method = "paired score" if bounded else "paired t"
        flips = []
        if self._list_flips:
            for run, one in zip(runs, pairs, strict=True):
                flips += _flips(label, run, column, one)
        return difference_of(estimate, method, len(table.values), note, gap), estimate, flips

    def _pairs(self, runs: Sequence[Run], matched: Sequence[Run], metric: str) -> tuple[list[Pairs], str]:
        """One pairing a run, and a remark; without pairs the remark says why there are none."""
        pairs, documents = [], 0
        for run, other in zip(runs, matched, strict=True):
            first, second = self._reader(run), self._reader(other)
            if first is None or second is None or metric not in first.values or metric not in second.values:
                return [], NO_OUTCOMES
            if self.usable(run, metric) is None or self.usable(other, metric) is None:
                return [], NO_MEAN
            found = pair(first, second, metric)
            if found is None:
                return [], PROMPTS_DIFFER
            pairs.append(found)
            # Of a deciding sweep the dense model has as many documents as the row that took most.
            beside = 0 if run.sequential is not None else len(second.documents)
            documents = max(documents, len(first.documents), beside)
        least = min(len(found.documents) for found in pairs)
        return pairs, "" if least == documents else f"paired on {least} of {documents} documents"


def difference_of(
    estimate: Estimate | None, method: str, paired: int, note: str, value: float | None = None
) -> Difference:
    """What an estimate says of a difference; `value` is the files' own, where it is known better than its interval."""
    nan = float("nan")
    if estimate is None:
        return Difference(nan if value is None else value, nan, nan, nan, nan, "none", 0, note)
    return Difference(
        estimate.value if value is None else value,
        *estimate.interval,
        estimate.p,
        nan,
        method,
        paired,
        note,
        least=estimate.least(),
        changed=estimate.changed,
        draws=estimate.share_of_draws,
        detectable=estimate.detectable,
    )


def _matched(runs: Sequence[Run], others: Sequence[Run]) -> tuple[Sequence[Run], Sequence[Run]]:
    """The runs, and with each the one that it is compared with: of the same draw.

    Where the others are random masks and more than the runs, each of theirs is compared with one of the runs.
    """
    if len({other.variant.seed for other in others}) > 1 and len(others) > len(runs):
        return [_same_draw(other, runs) for other in others], others
    return runs, [_same_draw(run, others) for run in runs]


def _same_draw(run: Run, others: Sequence[Run]) -> Run:
    """Of the same mask's and few-shot seeds, else of the same few-shot seed, else the first."""
    same = [other for other in others if other.fewshot_seed == run.fewshot_seed]
    return next((other for other in same if other.variant.seed == run.variant.seed), (same or others)[0])


def _draw(run: Run) -> Draw:
    return run.variant.seed, run.fewshot_seed


def _says_more(draw: Draw) -> bool:
    """Whether the mask was drawn, too."""
    return draw[0] is not None


def _part_of(table: _Table | None, runs: Sequence[Run], column: Column) -> Part | None:
    """What the runs say of their value: by their outcomes, else by the files' standard errors."""
    if table is None:
        return _part_of_files(runs, column)
    return mean_part(table.values, draws=[_draw(run) for run in runs], units=table.units)


def _part_of_files(runs: Sequence[Run], column: Column) -> Part | None:
    """The mean value from the files' standard errors; None where one has none."""
    values = [run.values[column.metric] for run in runs]
    errors = [value.stderr for value in values if value.stderr is not None]
    if len(errors) < len(values):
        return None
    mean, error, documents = fmean(value.value for value in values), fmean(errors), runs[0].num_documents
    by_draw = {_draw(run): value.value for run, value in zip(runs, values, strict=True)}
    draws = Draws(by_draw) if len(runs) > 1 else Draws()
    if column.higher_is_better and 0 <= mean <= 1:
        count = mean * (1 - mean) / error**2 if error and 0 < mean < 1 else documents
        return Proportion(value=mean, draws=draws, count=count) if count else None
    return Mean(value=mean, draws=draws, error=error) if error else None


def _standard_error(value: Value, table: _Table | None) -> float | None:
    """As the file has it; from the outcomes where it has none, and where documents share a passage."""
    if table is None or len(table.values) < 2 or (table.units is None and value.stderr is not None):
        return value.stderr
    return _error(table.values.mean(1), table.units)


def _error(values: NDArray[np.float64], units: NDArray[np.int64] | None) -> float | None:
    """Of the mean; over units where there are some (Miller 2024, arXiv 2411.00640, with a correction for few)."""
    gaps = values - values.mean()
    sums = gaps if units is None else np.bincount(units, gaps)
    if sums.size < 2:
        return None
    return float(np.sqrt((sums**2).sum() * sums.size / (sums.size - 1)) / values.size)


def _table(
    found: Sequence[tuple[Sequence[Document], NDArray[np.float64], Sequence[str] | None]],
) -> _Table | None:
    """The numbers of all draws side by side; None where no document is in all of them."""
    documents, _, units = found[0]
    if all(other is documents or other == documents for other, _, _ in found):
        columns = [column for _, column, _ in found]
    else:
        by_name = [
            {(one.document, one.number): float(value) for one, value in zip(names, column, strict=True)}
            for names, column, _ in found
        ]
        shared = [place for place, one in enumerate(documents) if all((one.document, one.number) in d for d in by_name)]
        names = [(documents[place].document, documents[place].number) for place in shared]
        columns = [np.array([by[name] for name in names]) for by in by_name]
        units = None if units is None else [units[place] for place in shared]
    if not len(columns[0]):
        return None
    if units is None or len(set(units)) == len(units):
        return _Table(np.column_stack(columns), None)
    return _Table(np.column_stack(columns), np.unique(np.array(units), return_inverse=True)[1])


def _flips(label: str, run: Run, column: Column, found: Pairs) -> list[Flip]:
    return [
        Flip(
            label=label,
            task=column.task,
            metric=column.metric,
            num_fewshot=run.num_fewshot,
            seed=run.variant.seed,
            doc_id=int(found.doc_ids[place]),
            doc_hash=found.documents[place].document,
            dense=float(found.second[place]),
            variant=float(found.first[place]),
        )
        for place in np.flatnonzero(found.first != found.second)
    ]
