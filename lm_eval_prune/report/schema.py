"""What is read of a results file of the harness: each field with its type and its bounds, checked before anything else.

`ResultsFile` is the file without its tasks, `TaskResult` what it says of one task; what a sweep's cell says beside is
in `sweep/schema.py`. Keys that nobody here reads may hold anything. A file that breaks the schema is not shown, and
named; so is a task, beside the other tasks of its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from lm_eval_prune.files import json_line
from lm_eval_prune.variants import LARGEST, Seed

__all__ = ["TASK_NAMES", "ChanceLevel", "Config", "Mask", "PruningBlock", "ResultsFile", "TaskResult", "fault_of"]

LONGEST_VALUE = 40
"""Characters of a wrong value in a message."""

LATEST_DATE = 1e11
"""Seconds since 1970: some thousand years from now."""


def _whole(value: Any) -> Any:
    """10.0 is 10: the harness counts documents with --limit as it was given."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _unless_not_said(value: Any) -> Any:
    """None for what the harness writes where it knows nothing."""
    return None if value in ("N/A", "") else value


def _text_or_none(value: Any) -> Any:
    """For what is only shown: anything but a text is left out."""
    return value if isinstance(value, str) else None


Count = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=LARGEST)]
Positive = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=LARGEST)]
Shots = Annotated[Count | None, BeforeValidator(_unless_not_said)]
Shown = Annotated[str | None, BeforeValidator(_text_or_none)]
Version = str | int | float | None


class _Part(BaseModel):
    """Strict: a text is no number, and true is not 1."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Config(_Part):
    """How the harness was called. What identifies the model is looked up in the file itself (identities.py)."""

    model: str | None = None
    model_args: str | dict[str, Any] | list[str] | None = None
    model_num_parameters: Annotated[int, BeforeValidator(_whole), Field(ge=-1, le=LARGEST)] | None = None
    """-1 where the harness cannot count them."""
    model_dtype: str | None = None
    model_sha: str | None = None
    num_fewshot: Shots = None
    """Of all tasks, in files of harness 0.3."""
    limit: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    fewshot_seed: Seed | None = None


class Mask(_Part):
    """What was pruned, and why."""

    pruned_heads: dict[str, list[Count]] | None = None
    """Layer -> heads."""
    pruned_ffns: list[Count] | None = None
    provenance: dict[str, Any] | None = None


class ChanceLevel(_Part):
    """What a metric comes to by chance on the documents that were evaluated (harness/chance.py)."""

    level: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    by: Literal["choices", "majority class"]
    choices: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    """The smallest and the largest number of choices."""
    majority: Annotated[str | None, Field(validation_alias="class")] = None


class PruningBlock(_Part):
    """The `pruning` block that this package adds; another tool's block of that name may mean anything: refused."""

    heads_pruned: Count | None = None
    heads_total: Count | None = None
    ffns_pruned: Count | None = None
    ffns_total: Count | None = None
    num_parameters_left: Count | None = None
    num_parameters_removed: Count | None = None
    flops_per_token: Count | None = None
    flops_per_token_left: Count | None = None
    mask: Mask | None = None
    scorer: str | None = None
    dtype: str | None = None
    versions: dict[str, str | None] | None = None
    chance: dict[str, dict[str, ChanceLevel]] | None = None
    """Task -> metric without its filter -> level."""

    @model_validator(mode="before")
    @classmethod
    def _ours(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and content and not content.keys() & {"heads_pruned", "ffns_pruned"}:
            raise ValueError("heads_pruned and ffns_pruned are missing: not a block of lm-eval-prune")
        return content

    @model_validator(mode="after")
    def _parts_of_wholes(self) -> PruningBlock:
        for part, whole in (
            ("heads_pruned", "heads_total"), ("ffns_pruned", "ffns_total"), ("flops_per_token_left", "flops_per_token"),
        ):  # fmt: skip
            found, total = getattr(self, part), getattr(self, whole)
            if found is not None and total is not None and found > total:
                raise ValueError(f"{part} is {found:,} of {total:,}")
        for name in ("heads", "ffns"):
            listed, counted = self._listed(name), getattr(self, f"{name}_pruned")
            if listed is not None and counted is not None and listed != counted:
                raise ValueError(f"{name}_pruned is {counted:,}, and the mask prunes {listed:,}")
        return self

    def _listed(self, name: str) -> int | None:
        """How many the mask lists; None where it lists none of either kind."""
        if self.mask is None or (self.mask.pruned_heads is None and self.mask.pruned_ffns is None):
            return None
        if name == "heads":
            return sum(len(set(heads)) for heads in (self.mask.pruned_heads or {}).values())
        return len(set(self.mask.pruned_ffns or ()))


class ResultsFile(_Part):
    """A results file; what it says of its tasks is looked at task by task."""

    results: dict[str, Any]
    configs: dict[str, Any] = Field(default_factory=dict)
    groups: dict[str, Any] | None = None
    """Averages of tasks, which stand among the results too."""
    versions: dict[str, Any] | None = None
    shots: dict[str, Any] | None = Field(None, validation_alias="n-shot")
    counts: dict[str, Any] | None = Field(None, validation_alias="n-samples")
    higher_is_better: dict[str, Any] | None = None
    config: Config | None = None
    pruning: PruningBlock | None = None
    date: Annotated[float, Field(ge=0, le=LATEST_DATE)] | None = None
    lm_eval_version: str | None = None
    transformers_version: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _block_below_config(cls, content: Any) -> Any:
        """Where a harness does not let the `pruning` block move up, it stays in `config`."""
        config = content.get("config")
        if not content.get("pruning") and isinstance(config, Mapping) and config.get("pruning"):
            return {**content, "pruning": config["pruning"]}
        return content

    def task(self, name: str) -> dict[str, Any]:
        """What the file says of a task, for `TaskResult`."""
        held = {
            "definition": self.configs, "shots": self.shots, "counts": self.counts, "version": self.versions,
            "higher_is_better": self.higher_is_better,
        }  # fmt: skip
        said = {key: (found or {}).get(name) for key, found in held.items()}
        if said["shots"] is None and not self.configs and self.config is not None:
            said["shots"] = self.config.num_fewshot
        return {"metrics": self.results[name], **said}


class _Definition(_Part):
    """Of a task, as the harness's `configs` has it."""

    num_fewshot: Shots = None
    dataset_path: Shown = None
    dataset_name: Shown = None
    test_split: Shown = None
    validation_split: Shown = None
    metric_list: list[Any] | None = None
    metadata: Any = None


class _Counts(_Part):
    """Of documents: those of the data set, and those that were evaluated."""

    effective: Positive | None = None


class _Sizes(_Part):
    """Of documents, among the metrics of newer releases."""

    documents: Positive | None = Field(None, validation_alias=AliasChoices("sample_len", "samples"))


class TaskResult(_Part):
    """What a results file says of one task."""

    metrics: dict[str, Any]
    sizes: _Sizes
    definition: _Definition | None
    shots: Shots
    counts: _Counts | None
    version: Version
    higher_is_better: dict[str, bool | None] | None

    @model_validator(mode="before")
    @classmethod
    def _sizes_among_metrics(cls, content: Any) -> Any:
        metrics = content["metrics"]
        return {**content, "sizes": metrics if isinstance(metrics, Mapping) else {}}

    @property
    def num_fewshot(self) -> int:
        """The harness leaves out 0."""
        own = self.definition.num_fewshot if self.definition else None
        return self.shots if self.shots is not None else own or 0

    @property
    def num_documents(self) -> int | None:
        return (self.counts.effective if self.counts else None) or self.sizes.documents

    def direction(self, name: str) -> bool | None:
        """Whether higher is better, as the file says of a metric without its filter."""
        said = (self.higher_is_better or {}).get(name)
        if said is not None:
            return said
        for entry in (self.definition.metric_list if self.definition else None) or ():
            if isinstance(entry, Mapping) and entry.get("metric") == name:
                found = entry.get("higher_is_better")
                return found if isinstance(found, bool) else None
        return None


TASK_NAMES = {
    "definition": "configs",
    "counts": "n-samples",
    "shots": "n-shot",
    "sizes": "results",
    "metrics": "results",
}
"""Fields of `TaskResult` -> where a results file has them."""
KINDS = {"constrained-int", "str", "float", "int", "bool", "dict", "list", "nullable"}
"""What pydantic puts into a place for the member of a union that it tried."""


def fault_of(error: ValidationError, named: Mapping[str, str] = MappingProxyType({})) -> str:
    """The first thing that is wrong, in a line: where (by `named`), what stands there, and what is expected."""
    fault = error.errors(include_url=False)[0]
    parts = [str(part) for part in fault["loc"] if not KINDS & {str(part).split("[")[0]}]
    place = ".".join([named.get(parts[0], parts[0]), *parts[1:]]) if parts else ""
    message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "value_error" and isinstance(fault["input"], Mapping):
        return f"{place}: {message}" if place else message
    if fault["type"] == "json_invalid":
        return message
    if message.startswith("a valid dictionary"):
        message = "an object"
    expected = message if message.startswith("expected") else f"expected {message}"
    return f"{place + ' ' if place else ''}is {json_line(fault['input'], width=LONGEST_VALUE)}; {expected}"
