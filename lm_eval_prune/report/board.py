"""The form of a leaderboard: columns, entries (a variant at a number of shots) and cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lm_eval_prune.report.runs import Cost, Problem, Run

__all__ = ["Average", "Board", "Cell", "Column", "Decline", "Difference", "Entry", "Flip"]


class Column(NamedTuple):
    """A task's metric; metrics are never mixed."""

    task: str
    metric: str
    higher_is_better: bool = True

    def __str__(self) -> str:
        return f"{self.task} {self.metric}"


class Difference(NamedTuple):
    """A value minus the dense model's."""

    value: float
    low: float
    high: float
    """The 95 % interval."""
    p: float
    """That there is none; nan for averages."""
    p_holm: float
    """Corrected for the number of variants compared on this task at this number of shots."""
    method: str
    """`mcnemar`, `bootstrap` or `standard errors`."""
    paired: int
    """Documents in both runs with the same prompt; 0 where the runs are not paired."""
    note: str = ""
    """Why the runs are not paired, or only in part."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An entry on a column."""

    value: float
    stderr: float | None
    """As in the results file, else from the outcomes; None for a mean over seeds, and where neither is known."""
    spread: float | None = None
    """Standard deviation over seeds, where there are several."""
    num_documents: int | None = None
    difference: Difference | None = None
    """None for the dense model itself and where there is no dense run."""
    verdict: str = ""
    """`tied`, `worse`, `better` or `within the margin`."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """The mean over all columns."""

    value: float
    low: float
    high: float
    """The 95 % interval, by bootstrap over documents within tasks."""
    method: str
    spread: float | None = None
    difference: Difference | None = None
    verdict: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A variant at a number of shots: a row of the table."""

    label: str
    model: str
    backend: str
    ranking: str
    prune_heads: str
    prune_ffns: str
    oracle: bool
    num_fewshot: int
    seeds: tuple[int, ...]
    """Of random rankings; empty for others."""
    is_dense: bool
    cost: Cost
    cells: Mapping[Column, Cell]
    """Columns without a result are absent."""
    average: Average | None
    """None where a column is absent."""
    rank: int | None = None
    """By average among entries at the same number of shots, 1 is best; None without an average."""
    runs: Sequence[Run] = ()

    @property
    def parameters_left(self) -> float | None:
        """Share of the dense model's."""
        return _share(self.cost.parameters, self.cost.parameters_total)

    @property
    def flops_left(self) -> float | None:
        """Share of the dense model's."""
        return _share(self.cost.flops, self.cost.flops_total)


class Decline(NamedTuple):
    """How far a ranking can go before the average's decline may exceed the margin."""

    model: str
    ranking: str
    component: str
    """`heads` or `FFNs`."""
    num_fewshot: int
    fraction: str
    """The largest share pruned such that it and all smaller ones stay above the margin; `0` where none does."""
    sentence: str


class Flip(NamedTuple):
    """A document that the dense model and a variant answer differently."""

    label: str
    task: str
    metric: str
    num_fewshot: int
    seed: int | None
    doc_id: int
    doc_hash: str
    dense: float
    variant: float


@dataclass(frozen=True, kw_only=True)
class Board:
    """A leaderboard."""

    columns: Sequence[Column]
    entries: Sequence[Entry]
    """By number of shots, then rank."""
    problems: Sequence[Problem]
    declines: Sequence[Decline]
    margin: float
    seed: int
    """Of the resampling."""
    flips: Sequence[Flip] = field(default=())

    @property
    def shots(self) -> list[int]:
        return sorted({entry.num_fewshot for entry in self.entries})

    @property
    def average_name(self) -> str:
        """Names the metrics that the average is over."""
        metrics = dict.fromkeys(column.metric for column in self.columns if column.higher_is_better)
        return f"average {', '.join(metrics)}"


def _share(part: int | None, total: int | None) -> float | None:
    return part / total if part is not None and total else None
