"""One cell of the table: a variant on a task, its value as the files have it and its difference to the dense model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import numpy as np

from lm_eval_prune.report import statistics
from lm_eval_prune.report.board import Cell, Column, Difference, Flip
from lm_eval_prune.report.checks import listed
from lm_eval_prune.report.outcomes import OutcomeReader, Outcomes, Pairs, pair
from lm_eval_prune.report.runs import Problem, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CellMaker", "Made"]

MEAN_TOLERANCE = 1e-6
"""A value further than this from the mean of its documents is no mean over documents, and is not resampled."""
PROMPTS_DIFFER = "prompts differ"
NO_OUTCOMES = "no per-document outcomes"
NO_MEAN = "not a mean over documents"


@dataclass(frozen=True)
class Made:
    """A cell, and what the row's average needs of it."""

    cell: Cell
    value_means: NDArray[np.float64] | None
    """Bootstrap means of the value; None without outcomes."""
    difference_means: NDArray[np.float64] | None
    """Bootstrap means of the paired difference; None where the runs are not paired."""
    error: float | None
    """Standard error of the value, where it is known."""
    flips: list[Flip] = field(default_factory=list)


class CellMaker:
    """Makes cells; reads each file of outcomes once."""

    def __init__(self, *, list_flips: bool = False) -> None:
        self._reader = OutcomeReader()
        self._list_flips = list_flips
        self._refused: list[str] = []

    @property
    def problems(self) -> list[Problem]:
        """So far: damaged files of outcomes, and what was not compared, as its prompts differ from the dense run's."""
        refused = f"{PROMPTS_DIFFER} from the dense run's, not compared: {listed(self._refused)}"
        return [*self._reader.problems, *([Problem("different prompts", refused)] if self._refused else [])]

    def __call__(
        self, label: str, runs: Sequence[Run], column: Column, dense: Sequence[Run], rng: np.random.Generator
    ) -> Made | None:
        """The cell of `runs` (several for random seeds and few-shot draws) against the `dense` ones.

        None where no run has the column's metric.
        """
        runs = [run for run in runs if column.metric in run.values]
        if not runs:
            return None
        dense = [run for run in dense if column.metric in run.values]
        values = [run.values[column.metric].value for run in runs]
        outcomes = [self._usable(run, column.metric) for run in runs]
        by_document = _by_document([found for found in outcomes if found is not None], column.metric)
        if None in outcomes:
            by_document = None
        error = runs[0].values[column.metric].stderr if len(runs) == 1 else None
        if error is None and by_document is not None and by_document.size > 1:
            error = float(by_document.std(ddof=1) / math.sqrt(by_document.size))
        value_means = None if by_document is None else statistics.bootstrap_means(by_document, rng)
        difference, difference_means = None, None
        flips: list[Flip] = []
        if dense and not all(any(run is other for other in dense) for run in runs):
            found = self._difference(label, runs, column, dense, rng, error)
            if found is None:
                self._refused.append(f"{label} on {column}, {runs[0].num_fewshot}-shot")
            else:
                difference, difference_means, flips = found
        cell = Cell(
            value=fmean(values),
            stderr=error if len(runs) == 1 else None,
            spread=stdev(values) if len(runs) > 1 else None,
            num_documents=runs[0].num_documents,
            difference=difference,
        )
        return Made(cell, value_means, difference_means, error, flips)

    def _usable(self, run: Run, metric: str) -> Outcomes | None:
        """The run's outcomes, if the metric is their mean."""
        found = self._reader(run)
        if found is None or metric not in found.values:
            return None
        return found if abs(found.values[metric].mean() - run.values[metric].value) <= MEAN_TOLERANCE else None

    def _difference(
        self,
        label: str,
        runs: Sequence[Run],
        column: Column,
        dense: Sequence[Run],
        rng: np.random.Generator,
        error: float | None,
    ) -> tuple[Difference, NDArray[np.float64] | None, list[Flip]] | None:
        """The difference, its resampled means and the flips; None where the prompts are other ones."""
        matched = [_same_draw(run, dense) for run in runs]
        gap = fmean(run.values[column.metric].value for run in runs) - fmean(
            run.values[column.metric].value for run in matched
        )
        pairs, note = self._pairs(runs, matched, column.metric)
        if note == PROMPTS_DIFFER:
            return None
        if not pairs:
            return _unpaired(gap, error, matched, column.metric, note), None, []
        differences = _mean_differences(pairs)
        means = statistics.bootstrap_means(differences, rng)
        binary = len(pairs) == 1 and all(np.isin(side, (0, 1)).all() for side in (pairs[0].first, pairs[0].second))
        if binary:
            p = statistics.mcnemar(pairs[0].first, pairs[0].second)
        else:
            p = statistics.bootstrap_p(means, differences)
        if note:  # only some documents are in both runs: the difference is theirs
            gap = float(differences.mean())
        method = "mcnemar" if binary else "bootstrap"
        paired = min(len(found.documents) for found in pairs)
        difference = Difference(gap, *statistics.interval(means), p, math.nan, method, paired, note)
        flips = []
        if self._list_flips:
            for run, found in zip(runs, pairs, strict=True):
                flips += _flips(label, run, column, found)
        return difference, means, flips

    def _pairs(self, runs: Sequence[Run], matched: Sequence[Run], metric: str) -> tuple[list[Pairs], str]:
        """One pairing a run, and a remark; without pairs the remark says why there are none."""
        pairs, documents = [], 0
        for run, other in zip(runs, matched, strict=True):
            first, second = self._reader(run), self._reader(other)
            if first is None or second is None or metric not in first.values or metric not in second.values:
                return [], NO_OUTCOMES
            if self._usable(run, metric) is None or self._usable(other, metric) is None:
                return [], NO_MEAN
            found = pair(first, second, metric)
            if found is None:
                return [], PROMPTS_DIFFER
            pairs.append(found)
            documents = max(documents, len(first.documents), len(second.documents))
        least = min(len(found.documents) for found in pairs)
        return pairs, "" if least == documents else f"paired on {least} of {documents} documents"


def _same_draw(run: Run, dense: Sequence[Run]) -> Run:
    """The dense run of the same few-shot seed, else the first."""
    return next((other for other in dense if other.fewshot_seed == run.fewshot_seed), dense[0])


def _unpaired(gap: float, error: float | None, matched: Sequence[Run], metric: str, note: str) -> Difference:
    """The difference with an interval from standard errors; without one where these are unknown."""
    other = matched[0].values[metric].stderr
    if error is None or other is None:
        return Difference(gap, math.nan, math.nan, math.nan, math.nan, "none", 0, note)
    return Difference(gap, *statistics.difference_of_errors(gap, error, other), math.nan, "standard errors", 0, note)


def _by_document(found: Sequence[Outcomes], metric: str) -> NDArray[np.float64] | None:
    """One value a document, the mean over runs."""
    if not found:
        return None
    if len(found) == 1:
        return found[0].values[metric]
    if all(outcomes.documents is found[0].documents for outcomes in found):
        return np.mean([outcomes.values[metric] for outcomes in found], axis=0)
    grouped: dict[tuple[str, int], list[float]] = defaultdict(list)
    for outcomes in found:
        for document, value in zip(outcomes.documents, outcomes.values[metric], strict=True):
            grouped[document.document, document.number].append(float(value))
    return np.array([fmean(values) for values in grouped.values()])


def _mean_differences(pairs: Sequence[Pairs]) -> NDArray[np.float64]:
    """One difference a document, the mean over the runs that have it."""
    if len(pairs) == 1:
        return pairs[0].first - pairs[0].second
    grouped: dict[tuple[str, int], list[float]] = defaultdict(list)
    for found in pairs:
        for document, difference in zip(found.documents, found.first - found.second, strict=True):
            grouped[document.document, document.number].append(float(difference))
    return np.array([fmean(values) for values in grouped.values()])


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
