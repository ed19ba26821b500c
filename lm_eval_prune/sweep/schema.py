"""What files in a sweep's folder hold: plans, cells and records of failures, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lm_eval_prune.fractions import parse_fraction

__all__ = ["CellFile", "FailureFile", "PlanFile"]

LARGEST = 2**62
"""Of a number: what tables hold, with room."""


def _share(text: str) -> str:
    parse_fraction(text)
    return text


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


Share = Annotated[str, AfterValidator(_share)]
Shots = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
CellId = Annotated[str, Field(pattern="^[0-9A-Za-z_-]{1,64}$")]
"""It becomes a file's name."""


class _Variant(_Part):
    ranking: str
    prune_heads: Share
    prune_ffns: Share
    seed: Seed | None = None
    oracle: bool = False


class _Row(_Part):
    variant: _Variant
    task: str
    num_fewshot: Shots
    fewshot_seed: Seed
    cell: CellId


class PlanFile(_Part):
    format: Literal["lm-eval-prune-sweep"]
    version: Literal[1]
    config: dict[str, Any]
    fixed: dict[str, Any] = Field(default_factory=dict)
    rows: list[_Row]


class FailureFile(_Part):
    format: Literal["lm-eval-prune-failure"]
    version: Literal[1]
    id: CellId
    variant: str
    task: str
    num_fewshot: Shots
    error: str
    message: str


class _Open(BaseModel):
    """A part of the harness's results, which hold more."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class _Samples(_Open):
    file: str
    sha256: str


class _Cell(_Open):
    identity: dict[str, Any]
    samples: _Samples


class _Pruning(_Open):
    heads_pruned: Count
    ffns_pruned: Count
    num_parameters_left: Count


class CellFile(_Open):
    results: dict[str, dict[str, Any]]
    pruning: _Pruning
    cell: _Cell
