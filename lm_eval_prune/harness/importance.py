"""Importance of harness tasks, from names to files: many tasks and numbers of shots with one model load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.ablation import masked
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.file_names import importance_file_name
from lm_eval_prune.harness import packed
from lm_eval_prune.harness.model_record import model_record
from lm_eval_prune.harness.per_task import Outcome, PerTaskConfig, TaskCell, each_computed, finished, task_cells
from lm_eval_prune.harness.requests import (
    TaskObjective,
    build_documents,
    calibration,
    chosen_metric,
    chosen_split,
)
from lm_eval_prune.harness.results import package_versions
from lm_eval_prune.harness.wearing import wearing
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.importance.methods import Inputs, method_for, method_named
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.mask_files import mask_digest
from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["ImportanceConfig", "Outcome", "compute_importance", "finished_scores", "processes_of", "scores_of"]


@dataclass(frozen=True, kw_only=True)
class ImportanceConfig(PerTaskConfig):
    """What to compute; checked when made. Raises ArgumentError. Methods that look at weights alone need no `tasks`."""

    component: str
    """One of `importance.methods.COMPONENTS`."""
    method: str
    """A name of `importance.methods.METHODS`."""
    metric: str | None = None
    """For knockout: a metric of the task, `"loss"`, or None for `acc` or else `em`."""
    checkpointing: bool | None = None
    """Gradients with one layer's activations at a time; None: where weights are offloaded."""
    means: str | None = None
    """Hash of the means that knocked out components give, where `model` does not say it; None: nothing."""
    under: PruningMask | None = None
    """What is pruned while scores are computed, in the place of the model's own mask; None: that."""

    def __post_init__(self) -> None:
        if method_for(self.component, self.method).uses != "weights" and not self.tasks:
            raise ArgumentError(f"method {self.method} needs tasks, such as --tasks piqa")
        if self.metric is not None and self.method != "knockout":
            raise ArgumentError(f"metric={self.metric} is for knockout, not for {self.method}")
        super().__post_init__()


def compute_importance(config: ImportanceConfig, load_model: Callable[[], PrunedModel]) -> Iterator[Outcome]:
    """Write `<output_path>/<task>-<k>shot-<component>-<method>.json` for every task and number of shots.

    Finished files are reported and left alone, unless `overwrite`; the model is loaded once, when a first file is to be
    computed. Without tasks the file is `<component>-<method>.json`. Of several processes the first writes and reports.
    Raises PruneError; a file appears whole or not at all.
    """
    yield from each_computed(
        config,
        lambda: _cells(config),
        load_model,
        lambda cell, hint: _require_same(config, cell, hint),
        lambda cell, lm: _computed(config, cell, lm),
    )


def scores_of(config: ImportanceConfig, lm: PrunedModel) -> ImportanceScores | None:
    """The scores of one task at one number of shots, as a value; None in all processes but the first."""
    (cell,) = _cells(config)
    return _computed(config, cell, lm)


def finished_scores(config: ImportanceConfig, hint: str) -> ImportanceScores:
    """The same from the file that is there. Raises PruneError, which ends in `hint`, where it is another's."""
    (cell,) = _cells(config)
    return _require_same(config, cell, hint)


def processes_of(lm: PrunedModel) -> Processes:
    """The processes that share the work: those of `accelerate launch`, unless they share one model between them."""
    spread = getattr(lm.model, "tp_size", None) or 1
    return Processes() if spread > 1 else Processes.current()


def _cells(config: ImportanceConfig) -> list[TaskCell]:
    if not config.tasks:
        return [TaskCell(None, 0, config.output_path / f"{config.component}-{config.method}.json")]
    names = partial(importance_file_name, component=config.component, method=config.method, under=_under(config) or "")
    return task_cells(config, lambda task, shots: names(task, shots))


def _under(config: ImportanceConfig) -> str | None:
    return None if config.under is None else mask_digest(config.under)


def _require_same(config: ImportanceConfig, cell: TaskCell, hint: str) -> ImportanceScores:
    asked: dict[str, Any] = {"method": config.method, "seed": config.seed}
    if cell.task is not None:  # where file names ignore case, two tasks may have one
        asked |= {"task": cell.task.task_name, "num_fewshot": cell.num_fewshot}
    if cell.task is not None and method_named(config.method).uses != "weights":
        asked |= {"limit": config.limit, "split": chosen_split(cell.task, config.split)}
        if method_named(config.method).uses == "objective":
            asked["metric"] = chosen_metric(cell.task, config.metric)
    if config.model is None:
        asked |= {"means": config.means, "under": _under(config)}
    return finished(cell.path, lambda path: ImportanceScores.load(path, config.component), asked, config.model, hint)


def _computed(config: ImportanceConfig, cell: TaskCell, lm: PrunedModel) -> ImportanceScores | None:
    with wearing(lm, lm.mask if config.under is None else config.under):
        scores, settings = _scores(config, cell, lm)
    if processes_of(lm).rank > 0:
        return None
    return ImportanceScores.from_tensor(
        scores, num_attention_heads=lm.mask.num_attention_heads, settings=settings, component=config.component
    )


def _scores(config: ImportanceConfig, cell: TaskCell, lm: PrunedModel) -> tuple[torch.Tensor, dict[str, Any]]:
    method, processes = method_named(config.method), processes_of(lm)
    settings, inputs = _settings(config, cell, lm), dict[str, Any]()
    if cell.task is not None and method.uses != "weights":
        inputs, told = _of_documents(config, cell.task, cell.num_fewshot, lm)
        settings |= told
    # Knockouts compute under the model's mask by themselves.
    with (
        masked(lm.model, lm.mask if "scorer" not in inputs else PruningMask.dense(*lm.mask.shape), lm.means),
        packed.autocast_of(lm)(),
    ):
        scores = method.of[config.component](
            Inputs(
                model=lm.model,
                batch_size=config.batch_size,
                seed=config.seed,
                checkpointing=config.checkpointing,
                processes=processes,
                softmax_dtype=lm.softmax_dtype,
                progress=processes.rank == 0,
                means=lm.means,
                **inputs,
            )
        )
    return scores, settings


def _of_documents(
    config: ImportanceConfig, task: Task, num_fewshot: int, lm: PrunedModel
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what the method takes of the task's documents, what the file says of them)."""
    uses, inputs, told = method_named(config.method).uses, dict[str, Any](), dict[str, Any]()
    asked: dict[str, Any] = {"num_fewshot": num_fewshot, "split": config.split}
    asked |= {"limit": config.limit, "seed": config.seed}
    documents = build_documents(task, **asked)
    gold = calibration(lm, documents)
    inputs["examples"] = gold.examples
    if uses == "prompts":
        shuffled = calibration(lm, build_documents(task, **asked, shuffled=True))
        inputs["shuffled"] = shuffled.examples
        told["shuffled_prompts_sha256"] = shuffled.prompts_sha256
    told |= {"num_examples": len(documents.doc_ids), "split": documents.split, "doc_ids": list(documents.doc_ids)}
    told |= {"prompts_sha256": gold.prompts_sha256, "tokens_sha256": gold.tokens_sha256}
    if uses == "objective":
        inputs["scorer"] = packed.knockout_scorer(lm, processes_of(lm))
        told["metric"] = chosen_metric(task, config.metric)
        if config.metric != "loss":
            inputs["objective"] = TaskObjective(lm, documents, config.metric)
    return inputs, told


def _settings(config: ImportanceConfig, cell: TaskCell, lm: PrunedModel) -> dict[str, Any]:
    settings: dict[str, Any] = {"method": config.method, **model_record(lm)}
    if config.under is not None:
        settings["under"] = _under(config)
    if cell.task is not None:
        settings |= {"task": cell.task.task_name, "num_fewshot": cell.num_fewshot}
    settings |= {
        "seed": config.seed,
        "limit": config.limit,
        "num_processes": processes_of(lm).world_size,
        "versions": package_versions(),
    }
    return settings
