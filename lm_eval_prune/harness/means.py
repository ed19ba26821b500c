"""Mean outputs over harness tasks, from names to files: what `ablation=mean` puts in the place of what is pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.ablation import masked
from lm_eval_prune.errors import ArgumentError, FileFormatError
from lm_eval_prune.file_names import means_file_name
from lm_eval_prune.harness.importance import processes_of
from lm_eval_prune.harness.model_record import model_record, require_same_model
from lm_eval_prune.harness.per_task import Outcome, TaskCell, each_computed, require_answers, task_cells
from lm_eval_prune.harness.requests import SPLITS, build_documents, calibration, chosen_split
from lm_eval_prune.harness.results import package_versions
from lm_eval_prune.harness.tasks import Member
from lm_eval_prune.importance.mean_outputs import mean_outputs
from lm_eval_prune.limits import checked_limit
from lm_eval_prune.means import Means

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["MeansConfig", "compute_means", "finished_means", "means_of"]


@dataclass(frozen=True, kw_only=True)
class MeansConfig:
    """What to compute; checked when made. Raises ArgumentError."""

    tasks: tuple[str | Member, ...]
    """Harness tasks, groups or tags."""
    num_fewshot: tuple[int | None, ...] = (None,)
    """Numbers of shots; None is the task's own."""
    output_path: Path
    """Folder of the files."""
    split: str | None = None
    """One of `harness.requests.SPLITS`; None is training, or validation where there is none."""
    limit: float | None = None
    """Documents a task, or a share of them below 1; None is all."""
    seed: int = 1234
    """Of few-shot draws."""
    batch_size: int = 8
    overwrite: bool = False
    """Compute finished files again."""
    include_path: str | None = None
    """Folder with further task definitions."""
    include_defaults: bool = True
    """Whether the harness's own tasks and ours are looked for too; reading them all takes seconds."""
    metadata: Mapping[str, Any] | None = None
    """What tasks' functions are handed, made by `task_metadata`."""
    model: Mapping[str, Any] | None = None
    """`model_record.record_of_arguments` of the model, where it comes from arguments; files of another are refused."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ArgumentError("means are over the documents of tasks: give some, such as --tasks piqa")
        if self.split is not None and self.split not in SPLITS:
            raise ArgumentError(f"split {self.split!r}: unknown; expected one of {', '.join(SPLITS)}")
        if self.batch_size < 1:
            raise ArgumentError(f"batch_size={self.batch_size}; expected at least 1")
        if any(shots is not None and shots < 0 for shots in self.num_fewshot):
            raise ArgumentError(f"num_fewshot={min(filter(None, self.num_fewshot))}; expected 0 or more")
        object.__setattr__(self, "limit", checked_limit(self.limit))


def compute_means(config: MeansConfig, load_model: Callable[[], PrunedModel]) -> Iterator[Outcome]:
    """Write `<output_path>/<task>-<k>shot-means.safetensors` for every task and number of shots.

    Examples are those of importance: documents of the training split in their few-shot contexts, with the gold answer.
    Finished files are reported and left alone, unless `overwrite`; the model is loaded once, when a first file is to be
    computed. Of several processes the first writes and reports. Raises PruneError.
    """
    yield from each_computed(
        config,
        lambda: _cells(config),
        load_model,
        lambda cell, hint: _require_same(config, cell, hint),
        lambda cell, lm: _computed(config, cell, lm),
    )


def means_of(config: MeansConfig, lm: PrunedModel) -> Means | None:
    """The means of one task at one number of shots, as a value; None in all processes but the first."""
    (cell,) = _cells(config)
    return _computed(config, cell, lm)


def finished_means(config: MeansConfig, hint: str) -> Means:
    """The same from the file that is there. Raises PruneError, which ends in `hint`, where it is another's."""
    (cell,) = _cells(config)
    return _require_same(config, cell, hint)


def _cells(config: MeansConfig) -> list[TaskCell]:
    return task_cells(config, means_file_name)


def _require_same(config: MeansConfig, cell: TaskCell, hint: str) -> Means:
    """What the file holds. Raises ArgumentError where it answers another question."""
    try:
        found = Means.load(cell.path)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; {hint}") from None
    require_answers(cell.path, found.settings, _asked(config, cell), hint)
    if config.model is not None:
        require_same_model(cell.path, found.settings, config.model)
    return found


def _asked(config: MeansConfig, cell: TaskCell) -> dict[str, Any]:
    assert cell.task is not None
    return {
        "task": cell.task.task_name,
        "num_fewshot": cell.num_fewshot,
        "seed": config.seed,
        "limit": config.limit,
        "split": chosen_split(cell.task, config.split),
    }


def _computed(config: MeansConfig, cell: TaskCell, lm: PrunedModel) -> Means | None:
    assert cell.task is not None
    documents = build_documents(
        cell.task, num_fewshot=cell.num_fewshot, split=config.split, limit=config.limit, seed=config.seed
    )
    gold, processes, autocast = calibration(lm, documents), processes_of(lm), lm.mixed_precision_dtype
    with (
        masked(lm.model, lm.mask, lm.means),
        torch.autocast(device_type=lm.device.type, dtype=autocast, enabled=autocast is not None),
    ):
        found = mean_outputs(
            lm.model,
            gold.examples,
            batch_size=config.batch_size,
            processes=processes,
            progress=processes.rank == 0,
        )
    if processes.rank > 0:
        return None
    settings = {
        **model_record(lm),
        **_asked(config, cell),
        **found.settings,
        "doc_ids": list(documents.doc_ids),
        "prompts_sha256": gold.prompts_sha256,
        "tokens_sha256": gold.tokens_sha256,
        "versions": package_versions(),
    }
    return replace(found, settings=settings)
