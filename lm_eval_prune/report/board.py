"""The form of a leaderboard: columns, entries (a variant at a number of shots) and cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from lm_eval_prune.report.runs import Chance, Cost, Problem, Run, Sequential, shots_name

if TYPE_CHECKING:
    from lm_eval_prune.report.outcomes import Outcomes

__all__ = ["VERDICTS", "About", "Average", "Board", "Cell", "Column", "Decline", "Difference", "Entry", "Flip"]


VERDICTS = (
    "worse",
    "better",
    "identical",
    "within the margin",
    "not shown",
    "too few documents",
    "dense is at chance",
)
"""What may be said of a difference to dense, in these words everywhere."""


class Column(NamedTuple):
    """A task's metric; metrics are never mixed."""

    task: str
    metric: str
    higher_is_better: bool = True
    num_fewshot: int | None = None
    """Of this task, on a board whose tasks each have a number of their own."""

    def __str__(self) -> str:
        shots = "" if self.num_fewshot is None else f" ({shots_name(self.num_fewshot)})"
        return f"{self.task} {self.metric}{shots}"


class Difference(NamedTuple):
    """A value minus the dense model's."""

    value: float
    low: float
    high: float
    """The 95 % interval."""
    p: float
    """That there is none: the level at which the interval reaches 0."""
    p_holm: float
    """Corrected for the number of variants compared on this task, or in the average, at this number of shots."""
    method: str
    """`paired score`, `paired t`, `standard errors` or `none`; of averages, what the tasks' are."""
    paired: int
    """Documents in both runs with the same prompt; 0 where the runs are not paired."""
    note: str = ""
    """Why the runs are not paired, or only in part."""
    least: float = math.nan
    """The smallest loss that these documents can exclude, where none of them changes."""
    needed: int = 0
    """Documents that would be the least for the margin, where these are too few; 0 elsewhere."""
    changed: float = math.nan
    """Share of the documents with another outcome; nan where the runs are not paired."""
    draws: float = math.nan
    """Share of the interval's width that comes from seeds and draws; nan where there is one."""
    detectable: float = math.nan
    """The smallest loss that would be shown as worse four times of five."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An entry on a column."""

    value: float
    stderr: float | None
    """As in the results file, else from the outcomes; None for a mean over seeds, and where neither is known."""
    spread: float | None = None
    """Standard deviation over seeds, where there are several."""
    num_documents: int | None = None
    num_units: int | None = None
    """Passages that the documents share; None where each was drawn by itself, or it is unknown."""
    difference: Difference | None = None
    """None for the dense model itself and where there is no dense run."""
    verdict: str = ""
    """One of VERDICTS; empty without a difference or its interval."""
    donor: str = ""
    """The task whose importance the ranking chose; empty for rankings that choose none."""
    sequential: Sequential | None = None
    """How far a deciding sweep went; None elsewhere. Of several seeds, the one that went least far."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """The mean over all columns."""

    value: float
    low: float
    high: float
    """The 95 % interval, over documents within tasks."""
    method: str
    """`documents`, `standard errors` or `none`."""
    num_documents: int | None = None
    """Of all its tasks together."""
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
    """OWN_SHOTS where each task has its own."""
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
    against: Mapping[Column, Sequence[Run]] = field(default_factory=dict)
    """The dense runs that its cells are compared with."""

    @property
    def named_ranking(self) -> str:
        """The ranking, with `oracle` where it is one."""
        return self.ranking + (", oracle" if self.oracle else "")

    def share(self, component: str) -> str:
        """Of the `heads`, or else of the FFNs, the share that is pruned."""
        return self.prune_heads if component == "heads" else self.prune_ffns

    @property
    def num_documents(self) -> int | None:
        """Of all its columns together; None where one does not say."""
        numbers = [cell.num_documents for cell in self.cells.values()]
        return None if None in numbers else sum(number or 0 for number in numbers)

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
    enough: bool = True
    """Whether the documents could show it at all."""
    halved: bool = False
    """Whether it was found by halving: then it says nothing of smaller shares."""


class About(NamedTuple):
    """What is to be known of a column, or of the average, before its verdicts are read."""

    detectable: float
    """The smallest loss that would be shown as worse four times of five: the median over rows; nan without any."""
    units: int = 0
    """Passages that its documents share; 0 where each was drawn by itself."""
    unit_field: str = ""
    """The field of the documents that names their passage."""
    documents: int = 0
    chance: Chance | None = None
    """The column's chance level; of the average, the mean over its tasks where all are known."""
    at_chance: tuple[int, ...] = ()
    """Numbers of shots at which the dense model's interval reaches the chance level."""


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
    flips: Sequence[Flip] = field(default=())
    reference: str = "dense"
    """What differences are to: the dense model, or the row of this name at the same number of shots."""
    about: Mapping[Column | None, About] = field(default_factory=dict)
    """Of each column; of the average under None."""
    outcomes: Callable[[Run, str], Outcomes | None] = field(default=lambda run, metric: None, repr=False, compare=False)
    """What a run answered document by document, of a metric that is their mean; None where that is not at hand."""

    @property
    def shots(self) -> list[int]:
        return sorted({entry.num_fewshot for entry in self.entries})

    @property
    def models(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(entry.model for entry in self.entries))

    @property
    def average_name(self) -> str:
        """Names the metrics that the average is over."""
        metrics = dict.fromkeys(column.metric for column in self.columns if column.higher_is_better)
        return f"average {', '.join(metrics)}"


def _share(part: int | None, total: int | None) -> float | None:
    return part / total if part is not None and total else None
