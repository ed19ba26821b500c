"""What was evaluated, whatever file it was read from: a run is one variant of one model on one task at some shots.

`harness_files.py` makes runs of the harness's results JSON, `reading.py` finds the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval_prune.variants import DENSE, Variant

__all__ = ["OWN_SHOTS", "Chance", "Cost", "Dataset", "Missing", "Problem", "Run", "Sequential", "Value", "shots_name"]

OWN_SHOTS = -1
"""The number of shots of a row whose tasks each have a number of their own."""


def shots_name(num_fewshot: int) -> str:
    """Such as `5-shot`."""
    return "own shots" if num_fewshot == OWN_SHOTS else f"{num_fewshot}-shot"


class Value(NamedTuple):
    """A metric as the results file has it."""

    value: float
    stderr: float | None
    """None where the file has none (`N/A`)."""
    higher_is_better: bool
    is_said: bool = True
    """Whether the file says the direction, or else the metric's name; True is assumed otherwise."""


class Chance(NamedTuple):
    """What a metric comes to by chance: by a random choice, or the same answer to every document."""

    level: float
    by: str
    """What it is from, such as `4 choices` or `majority class: no`."""


class Problem(NamedTuple):
    """Something that keeps runs from being compared as they are."""

    kind: str
    """Such as `missing cells`; the same for all problems of one kind."""
    message: str
    """What, and where; one line."""


class Missing(NamedTuple):
    """A cell of a plan that has no result."""

    variant: Variant
    task: str
    num_fewshot: int
    fewshot_seed: int
    reason: str


class Dataset(NamedTuple):
    """Where a task's documents come from, as its definition says."""

    path: str = ""
    """Of the Hugging Face hub, or a builder's name such as `json`; empty for data that the task makes itself."""
    name: str = ""
    """The configuration of the dataset."""
    split: str = ""
    """The split that is evaluated."""


class Sequential(NamedTuple):
    """How a run of a deciding sweep is to be judged: its documents grew until a question was answered."""

    look: int
    """How often it had been looked at before."""
    z: float
    """Normal standard errors of the interval at this look: those of all looks together are one of 95 %."""
    factor: float
    """By which a p-value of this look is multiplied."""
    documents: int
    planned: int
    """Documents that it would have had without an answer."""
    mode: str
    margin: float
    """The question: which rows were asked about, and the loss that was acceptable."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What is left of the model; None where the file does not say."""

    parameters: int | None = None
    parameters_total: int | None = None
    flops: int | None = None
    """Per token, of linear maps."""
    flops_total: int | None = None
    heads_pruned: int | None = None
    heads_total: int | None = None
    ffns_pruned: int | None = None
    ffns_total: int | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One variant of one model on one task at one number of shots."""

    source: Path
    """The sweep folder, or the results file."""
    path: Path
    """The file with the numbers."""
    model: str
    """Its name; with what tells it apart, where runs of one name are of several models or questions."""
    backend: str
    """The harness's name of the model class: `hf`, `vllm`, ...; ours is NATIVE."""
    variant: Variant
    task: str
    num_fewshot: int
    fewshot_seed: int | None
    values: Mapping[str, Value]
    """Metric -> value; a filter other than `none` is part of the metric's name."""
    task_version: str
    task_config: str | None
    """Hash of the task's definition, where it is known."""
    limit: float | None
    num_documents: int | None
    dtype: str | None
    scorer: str | None
    lm_eval: str | None
    date: float
    """Seconds since 1970, 0 where unknown."""
    cost: Cost
    samples: Path | None
    """Where its per-document outcomes lie: a cell, or a `samples_*.jsonl`. None where there are none."""
    unit_field: str = ""
    """The field of its documents that names what was drawn independently (`units.py`); empty: each document."""
    weights: str | None = None
    """Fingerprint of the model's files (identity.py); None where nothing is known of them."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """All that decides the result, beside the mask and what has a field here: settings and their values."""
    ways: Mapping[str, str] = field(default_factory=dict)
    """How it was computed, and on how many documents: no hindrance to a comparison."""
    at_own_shots: bool = False
    """Whether its row is that of all tasks, each at its own number of shots."""
    name: str = ""
    """The model's name without what tells it apart."""
    apart: str = ""
    """Those of `ways` by which runs that are alike otherwise are told apart."""
    chance: Mapping[str, Chance] = field(default_factory=dict)
    """Metric without its filter -> its chance level, where the file says it."""
    dataset: Dataset = field(default=Dataset())
    mask: str = ""
    """What was pruned, layer by layer; empty for a dense model."""
    donor: str = ""
    """The task whose importance the ranking chose for this one; empty for rankings that choose none."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The harness's `config`: how it was called."""
    sequential: Sequential | None = None
    """None where all documents were planned to be asked, and were."""
    until_look: int | None = None
    """Only documents of this look and those before count: the row's other cells have no more."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version, where the file says."""

    @property
    def row_shots(self) -> int:
        """The number of shots of its row."""
        return OWN_SHOTS if self.at_own_shots else self.num_fewshot

    @property
    def is_dense(self) -> bool:
        return self.variant == DENSE
