"""Mean outputs over harness tasks, from names to files: what `ablation=mean` puts in the place of what is pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lm_eval_prune.ablation import masked
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.file_names import means_file_name
from lm_eval_prune.harness.importance import processes_of
from lm_eval_prune.harness.model_record import model_record
from lm_eval_prune.harness.packed import autocast_of
from lm_eval_prune.harness.per_task import Outcome, PerTaskConfig, TaskCell, each_computed, finished, task_cells
from lm_eval_prune.harness.requests import build_documents, calibration, chosen_split
from lm_eval_prune.harness.results import package_versions
from lm_eval_prune.importance.mean_outputs import mean_outputs
from lm_eval_prune.means import Means

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["MeansConfig", "compute_means", "finished_means", "means_of"]


@dataclass(frozen=True, kw_only=True)
class MeansConfig(PerTaskConfig):
    """What to compute; checked when made. Raises ArgumentError."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ArgumentError("means are over the documents of tasks: give some, such as --tasks piqa")
        super().__post_init__()


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
    return finished(cell.path, Means.load, _asked(config, cell), config.model, hint)


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
    gold, processes = calibration(lm, documents), processes_of(lm)
    with masked(lm.model, lm.mask, lm.means), autocast_of(lm)():
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
