"""`importance_scores`: what a program gets of a model's heads or FFNs. The numbers are those of the commands."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.harness.evaluation import listed_tasks
from lm_eval_prune.harness.handed_over import ModelLike, harness_model
from lm_eval_prune.harness.importance import ImportanceConfig, scores_of
from lm_eval_prune.harness.quiet import quiet_harness
from lm_eval_prune.harness.tasks import members_of, task_metadata
from lm_eval_prune.importance.aggregate import aggregate_scores
from lm_eval_prune.importance.files import ImportanceScores

__all__ = ["importance_scores"]


def importance_scores(
    model_or_lm: ModelLike,
    tasks: str | Sequence[str] = (),
    *,
    component: str = "heads",
    method: str = "gradient",
    num_fewshot: int | None = None,
    limit: float | None = None,
    split: str | None = None,
    metric: str | None = None,
    seed: int = 1234,
    tokenizer: Any = None,
    model_args: str | Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    checkpointing: bool | None = None,
    include_path: str | os.PathLike[str] | None = None,
    include_defaults: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> ImportanceScores:
    """What every head (or FFN) is worth to a task: the scores of `lm-eval-prune importance`, as a value.

    Of several tasks, or of a group, it is the mean over the tasks, as `lm-eval-prune aggregate` takes it. The result
    goes into `PruningMask.from_importance(head_scores=...)`, `numpy.asarray` and the functions of `analysis`; its
    `save` writes the commands' file.

    `model_or_lm`, `tokenizer`, `model_args`, `batch_size` (8, if not said) and `device` are those of `harness_model`;
    a mask of the harness model stays on. `component` and `method` are of `importance.methods`: `"magnitude"` and
    `"random"` need no tasks. `num_fewshot` None is the task's own. `limit` is a number
    of documents a task, or a share below 1, of `split`: `"training"` (the default where there is one), `"validation"`
    or `"test"`. `metric` is knockout's: one of the task, or `"loss"`.
    Raises PruneError, ArgumentError also in all but the first of several launched processes, where there are no scores.
    """
    lm = harness_model(model_or_lm, tokenizer=tokenizer, model_args=model_args, batch_size=batch_size, device=device)
    size = lm.batch_size_per_gpu if isinstance(lm.batch_size, int) else None
    settings: dict[str, Any] = {
        "component": component,
        "method": method,
        "num_fewshot": (num_fewshot,),
        "output_path": Path(),
        "split": split,
        "limit": limit,
        "seed": seed,
        "metric": metric,
        "batch_size": batch_size or size or 8,
        "checkpointing": checkpointing,
        "include_path": None if include_path is None else os.fspath(include_path),
        "include_defaults": include_defaults,
        "metadata": task_metadata(model_args or {}, metadata),
    }
    names = listed_tasks(tasks) if tasks else []
    ImportanceConfig(tasks=tuple(names), **settings)  # what is wrong with them is said before anything is computed
    where = {key: settings[key] for key in ("include_path", "include_defaults", "metadata")}
    with quiet_harness():
        members = [member for name in names for member in members_of(name, **where)]
        configs = [ImportanceConfig(tasks=(member,), **settings) for member in members]
        found = [scores_of(config, lm) for config in configs or [ImportanceConfig(**settings)]]
    scores = [each for each in found if each is not None]
    if not scores:
        raise ArgumentError("importance_scores: the first of the launched processes has the scores")
    return scores[0] if len(scores) == 1 else aggregate_scores(scores)
