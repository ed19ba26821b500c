"""From a ranking to masks: which importance it needs, and what that importance prunes."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.file_names import importance_file_name, safe_name
from lm_eval_prune.harness.tasks import Member, load_tasks, num_fewshot_of, task_metadata
from lm_eval_prune.importance.aggregate import aggregate_files
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.selection import random_mask, ranked_mask
from lm_eval_prune.sweep.config import Ranking, SweepConfig, parse_ranking
from lm_eval_prune.sweep.jobs import ImportanceJob
from lm_eval_prune.sweep.tasks import PlannedTask
from lm_eval_prune.variants import Variant

__all__ = ["Masks", "aggregate_path", "given_importance", "importance_path", "importance_settings", "needed_importance"]


def importance_path(config: SweepConfig, job: ImportanceJob) -> Path:
    """Where the sweep keeps these scores, under the name that the importance command gives them."""
    name = importance_file_name(safe_name(job.task), job.num_fewshot, job.component, _method(config, job.component))
    return config.output_path / "importance" / name


def importance_settings(config: SweepConfig) -> dict[str, Any]:
    """What importance of a task depends on, beside model, task, shots and method, which the file's name says."""
    return {
        "limit": config.importance_limit,
        "split": config.importance_split,
        "seed": config.seed,
        "metric": config.knockout_metric,
    }


def aggregate_path(config: SweepConfig, component: str, num_fewshot: int) -> Path:
    name = importance_file_name("aggregate", num_fewshot, component, _method(config, component))
    return config.output_path / "importance" / name


def needed_importance(config: SweepConfig, tasks: Sequence[PlannedTask]) -> list[ImportanceJob]:
    """All importance that the grid's rankings need, each once. Raises ArgumentError for a ranking by a group's name."""
    jobs: dict[ImportanceJob, None] = {}
    for ranking in map(parse_ranking, config.ranking):
        for component in _components(config):
            for task in tasks:
                if task.error is None:
                    jobs |= dict.fromkeys(_sources(config, ranking, component, task, tasks))
    return list(jobs)


def given_importance(config: SweepConfig, shape: tuple[int, int]) -> dict[str, ImportanceScores]:
    """The importance files of the user's that the grid's rankings name.

    Raises PruneError for those that cannot be read, or are for a model of another `shape`.
    """
    names = dict.fromkeys(file for text in config.ranking for file in parse_ranking(text).files)
    files = {name: ImportanceScores.load(name) for name in names}
    for name, scores in files.items():
        _require_shape(scores, shape, f"ranking {name}")
    return files


class Masks:
    """The mask of each variant. `importance` holds the scores that were computed, or why they could not be."""

    def __init__(
        self,
        config: SweepConfig,
        tasks: Sequence[PlannedTask],
        importance: Mapping[ImportanceJob, ImportanceScores | PruneError],
        shape: tuple[int, int],
        num_key_value_heads: int | None = None,
    ) -> None:
        """Raises PruneError for importance files of the user's that cannot be read, or are for another model."""
        self.config, self.tasks, self.importance, self.shape = config, tasks, importance, shape
        self.num_key_value_heads = num_key_value_heads
        self.files = given_importance(config, shape)
        self.aggregates: dict[tuple[str, int], ImportanceScores] = {}

    def of(self, ranking: Ranking, variant: Variant, task: PlannedTask) -> tuple[PruningMask, bool]:
        """(the mask of `variant` for `task`, whether its scores saw the documents that are then evaluated).

        Raises PruneError where scores are missing.
        """
        unit: Any = {"unit": ranking.unit, "num_key_value_heads": self.num_key_value_heads}
        if ranking.kind == "random":
            unit |= {"prune_heads": variant.prune_heads, "prune_ffns": variant.prune_ffns}
            return random_mask(*self.shape, seed=variant.seed or 0, **unit), False
        arguments: dict[str, Any] = {}
        used = []
        for component, share in (("heads", variant.prune_heads), ("ffns", variant.prune_ffns)):
            if share != "0":
                scores = self._scores(ranking, component, task)
                _require_shape(scores, self.shape, f"ranking {ranking.text}")
                kind = component.removesuffix("s")
                arguments |= {f"{kind}_scores": scores.tensor(), f"{kind}_fraction": share}
                used.append(scores)
        mask = ranked_mask(num_attention_heads=self.shape[1], order=ranking.order, **unit, **arguments)
        return mask, any(task.name in scores.oracle_on for scores in used)

    def _scores(self, ranking: Ranking, component: str, task: PlannedTask) -> ImportanceScores:
        if ranking.kind == "files":
            for file in ranking.files:
                if self.files[file].component == component:
                    return self.files[file]
            raise ArgumentError(f"ranking {ranking.text}: no scores of {component} in it, but the grid prunes them")
        if ranking.kind == "aggregate":
            return self._aggregate(component, _shots(ranking, task))
        (job,) = _sources(self.config, ranking, component, task, self.tasks)
        return self._computed(job)

    def _computed(self, job: ImportanceJob) -> ImportanceScores:
        found = self.importance.get(job, PruneError(f"{job.name}: not computed"))
        if isinstance(found, PruneError):
            raise found
        return found

    def _aggregate(self, component: str, num_fewshot: int) -> ImportanceScores:
        if (component, num_fewshot) in self.aggregates:
            return self.aggregates[component, num_fewshot]
        for task in self.tasks:
            if task.error is not None:
                raise task.error
        jobs = _of_all_tasks(component, num_fewshot, self.tasks)
        for job in jobs:
            self._computed(job)
        scores = aggregate_files([importance_path(self.config, job) for job in jobs])
        self.aggregates[component, num_fewshot] = scores
        return scores


def _require_shape(scores: ImportanceScores, shape: tuple[int, int], where: str) -> None:
    if scores.shape != shape:
        raise ArgumentError(
            "{}: scores of {} layers of {} heads; the model has {} of {}".format(where, *scores.shape, *shape)
        )


def _method(config: SweepConfig, component: str) -> str:
    return config.head_method if component == "heads" else config.ffn_method


def _components(config: SweepConfig) -> list[str]:
    shares = {"heads": config.prune_heads, "ffns": config.prune_ffns}
    return [component for component, values in shares.items() if any(share != "0" for share in values)]


def _sources(
    config: SweepConfig, ranking: Ranking, component: str, task: PlannedTask, tasks: Sequence[PlannedTask]
) -> list[ImportanceJob]:
    """The scores that `ranking` takes for `task`."""
    if ranking.kind == "own":
        return [ImportanceJob(task.member, component, task.num_fewshot)]
    if ranking.kind == "aggregate":
        return _of_all_tasks(component, _shots(ranking, task), tasks)
    if ranking.kind == "task":
        return [ImportanceJob(*_other_task(config, ranking.task or "", component, task.num_fewshot, tasks))]
    return []


def _shots(ranking: Ranking, task: PlannedTask) -> int:
    """Of the importance that an aggregate is the mean of."""
    return task.num_fewshot if ranking.num_fewshot is None else ranking.num_fewshot


def _of_all_tasks(component: str, num_fewshot: int, tasks: Sequence[PlannedTask]) -> list[ImportanceJob]:
    """Each task as the grid has it at this number of shots, or else as it has it at another."""
    members: dict[str, Member] = {}
    for task in tasks:
        if task.error is None and (task.num_fewshot == num_fewshot or task.name not in members):
            members[task.name] = task.member
    return [ImportanceJob(member, component, num_fewshot) for member in members.values()]


def _other_task(
    config: SweepConfig, name: str, component: str, num_fewshot: int, tasks: Sequence[PlannedTask]
) -> tuple[Member, str, int]:
    """The task of this name: as the grid has it, where it does."""
    for task in tasks:
        if task.error is None and (task.name, task.num_fewshot) == (name, num_fewshot):
            return task.member, component, num_fewshot
    metadata = json.dumps(task_metadata(config.model_args, config.metadata), default=str)
    member, shots = _single_task(name, config.include_path, config.include_defaults, metadata, num_fewshot)
    return member, component, shots


@functools.cache
def _single_task(
    name: str, include_path: str | None, include_defaults: bool, metadata: str, num_fewshot: int
) -> tuple[Member, int]:
    tasks = load_tasks([name], include_path, include_defaults, json.loads(metadata))
    if len(tasks) != 1:
        raise ArgumentError(
            f"ranking task:{name}: {len(tasks)} tasks; expected one (aggregate takes the mean over the grid's tasks)"
        )
    (task,) = tasks.values()
    return Member(name, task.task_name), num_fewshot_of(task, num_fewshot)
