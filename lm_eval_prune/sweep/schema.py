"""What files in a sweep's folder hold: setups, plans, cells and records of failures, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from lm_eval_prune.variants import LARGEST, Seed, Variant

__all__ = ["VERSION", "CellFile", "DecideSettings", "FailureFile", "PlanFile", "Row", "SetupFile"]

VERSION: Final = 1
"""Of all formats; part of a cell's identity."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]
CellId = Annotated[str, Field(pattern="^[0-9A-Za-z_-]{1,64}$")]
"""It becomes a file's name."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class _Open(BaseModel):
    """A part that may hold more, as the harness's results do."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class Row(NamedTuple):
    """A variant on a task at a number of shots, and the cell that answers it. Rows of equal masks share a cell."""

    variant: Variant
    task: str
    num_fewshot: Count
    fewshot_seed: Seed
    cell: CellId
    """The cell's id."""
    donor: str = ""
    """The task whose importance the ranking chose (`task:closest`, `task:farthest`); of heads and FFNs, with `+`."""


class DecideSettings(_Part):
    """How a deciding sweep's cells grow; the same for all of a folder's."""

    mode: Literal["walk", "halving", "rows"]
    margin: Annotated[float, Field(gt=0, lt=1)]
    seed: Count
    """Of the documents' order."""
    looks: Annotated[int, Field(ge=1, le=64)]
    """For each limit."""
    limits: Annotated[list[Annotated[int | float, Field(gt=0, le=LARGEST)] | None], Field(min_length=1, max_length=64)]
    """Documents a task that were planned, one after another; each at least the one before."""


class SetupFile(_Part):
    format: Literal["lm-eval-prune-sweep-setup"] = "lm-eval-prune-sweep-setup"
    version: Literal[1] = VERSION
    setup: dict[str, Any]
    """The model that importance comes from."""
    importance: dict[str, dict[str, Any]] = {}
    """The settings of each file of it."""
    tasks: dict[str, dict[str, Any]] = {}
    """Their identities."""
    decide: DecideSettings | None = None
    """None where all cells have all of their documents."""


class _Fixed(_Open):
    model: dict[str, Any] = {}
    tasks: dict[str, dict[str, Any]] = {}


class PlanFile(_Part):
    format: Literal["lm-eval-prune-sweep"] = "lm-eval-prune-sweep"
    version: Literal[1] = VERSION
    config: dict[str, Any]
    fixed: _Fixed = _Fixed()
    """What all plans of a folder have in common."""
    rows: list[Row]


class FailureFile(_Part):
    format: Literal["lm-eval-prune-failure"] = "lm-eval-prune-failure"
    version: Literal[1] = VERSION
    id: CellId
    variant: str
    task: str
    num_fewshot: Count
    error: str
    message: str


class _Samples(_Open):
    file: str
    sha256: str
    num_documents: Count | None = None


class _Identity(_Open):
    """All that decides a cell's result; what reports show of it."""

    model: dict[str, Any] | None = None
    task_config_hash: str | None = None
    limit: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    dtype: str | None = None
    scorer: str | None = None
    lm_eval: str | None = None


class _Decide(_Open):
    """What a cell that grows says of how far it is, and of what its documents say so far."""

    mode: str
    margin: Annotated[float, Field(gt=0, lt=1)]
    look: Count
    z: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    documents: Count
    planned: Count
    verdict: str = ""


class _Cell(_Open):
    format: Literal["lm-eval-prune-cell"]
    version: Literal[1]
    identity: _Identity
    samples: _Samples
    sha256: str
    decide: _Decide | None = None


class _Pruning(_Open):
    heads_pruned: Count
    ffns_pruned: Count
    num_parameters_left: Count


class CellFile(_Open):
    results: dict[str, dict[str, Any]]
    pruning: _Pruning
    cell: _Cell
