"""Which importance a ranking takes its scores from, and where a sweep keeps it."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.file_names import importance_file_name, means_file_name, safe_name
from lm_eval_prune.harness.quiet import quiet_harness
from lm_eval_prune.harness.tasks import Member, load_tasks, members_of, num_fewshot_of, require_known, task_metadata
from lm_eval_prune.importance.methods import method_named
from lm_eval_prune.mask_files import mask_digest
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.jobs import NO_TASK, ImportanceJob
from lm_eval_prune.sweep.ranking import Ranking, parse_ranking
from lm_eval_prune.sweep.tasks import PlannedTask

__all__ = [
    "Aggregate",
    "aggregate_path",
    "importance_path",
    "importance_settings",
    "method_of",
    "needed_importance",
    "needed_means",
    "pruned_components",
    "sources_of",
]

INDUCTION = "induction"
Aggregate = tuple[str, int, tuple[str, ...], PruningMask | None]
"""A mean over tasks: component, shots, the names that its tasks were given by (none are the grid's), and what was
pruned meanwhile."""


def importance_path(config: SweepConfig, job: ImportanceJob) -> Path:
    """Where the sweep keeps these scores, under the name that the command gives them which computes them."""
    task = safe_name(job.task)
    if job.method == INDUCTION:
        name = "prefix-matching.json"
    elif job.component == "means":
        name = means_file_name(task, job.num_fewshot)
    else:
        under = "" if job.under is None else mask_digest(job.under)
        name = importance_file_name(task, job.num_fewshot, job.component, method_of(config, job), under)
    return config.output_path / "importance" / name


def importance_settings(config: SweepConfig, job: ImportanceJob) -> dict[str, Any]:
    """What importance of a task depends on, beside model, task, shots and method, which the file's name says."""
    if job.method == INDUCTION:
        return {"seed": config.seed}
    found = {"limit": config.importance_limit, "split": config.importance_split, "seed": config.seed}
    return found if job.component == "means" else {**found, "metric": config.knockout_metric}


def method_of(config: SweepConfig, job: ImportanceJob) -> str:
    """How the job's components are scored."""
    return job.method or _method(config, job.component)


def aggregate_path(
    config: SweepConfig,
    component: str,
    num_fewshot: int,
    tasks: Sequence[str] = (),
    under: PruningMask | None = None,
) -> Path:
    """Where the sweep keeps the mean over `tasks`, by the names that a ranking gives them; none are the grid's."""
    own = safe_name(f"aggregate:{'+'.join(tasks)}") if tasks else "aggregate"
    digest = "" if under is None else mask_digest(under)
    name = importance_file_name(own, num_fewshot, component, _method(config, component), digest)
    return config.output_path / "importance" / name


def needed_importance(config: SweepConfig, tasks: Sequence[PlannedTask]) -> list[ImportanceJob]:
    """All importance that the grid's rankings begin with, each file once: one task may be named alone and by a group.

    What rankings that are rescored need then is known one step after the other (`steps.py`).
    Raises ArgumentError for a ranking by a task that there is not, by a group's name, or by another task of a grid
    that has but one, and for one that is rescored by scores that a mask does not change.
    """
    jobs: dict[str, ImportanceJob] = {}
    for ranking in map(parse_ranking, config.ranking):
        _require_its_tasks(config, ranking, tasks)
        if ranking.kind == "donor" and len({task.name for task in tasks}) < 2:
            raise ArgumentError(f"ranking {ranking.text}: the grid has one task; expected others to choose from")
        for component in pruned_components(config, ranking):
            _require_changing(config, ranking, component)
            for task in tasks:
                if task.error is None:
                    for job in sources_of(config, ranking, component, task, tasks):
                        jobs.setdefault(job.name, job)
    return list(jobs.values())


def _require_changing(config: SweepConfig, ranking: Ranking, component: str) -> None:
    """Raise ArgumentError where scores are to be computed again that would be the same."""
    method = _method(config, component)
    if ranking.step is not None and method_named(method).uses == "weights":
        raise ArgumentError(
            f"ranking {ranking.text}: {method} scores of {component} are the same under every mask; leave rescored out"
        )


def _require_its_tasks(config: SweepConfig, ranking: Ranking, tasks: Sequence[PlannedTask]) -> None:
    """Raise ArgumentError for a ranking by a task that nobody knows, whether or not anything is pruned by it."""
    named = (ranking.task or "",) if ranking.kind == "task" else ranking.tasks
    others = [name for name in named if all(task.name != name for task in tasks)]
    require_known(others, config.include_path, config.include_defaults)


def needed_means(
    config: SweepConfig, tasks: Sequence[PlannedTask], importance: Sequence[ImportanceJob]
) -> list[ImportanceJob]:
    """The mean outputs that the grid's cells, and knockouts among `importance`, put in; none for zero ablation."""
    if config.ablation == "zero":
        return []
    wanted = [(task.member, task.num_fewshot) for task in tasks if task.error is None]
    wanted += [(job.member, job.num_fewshot) for job in importance if job.method is None]
    jobs = [ImportanceJob(member, "means", shots) for member, shots in wanted]
    return list({job.name: job for job in jobs}.values())


def sources_of(
    config: SweepConfig, ranking: Ranking, component: str, task: PlannedTask, tasks: Sequence[PlannedTask]
) -> list[ImportanceJob]:
    """The scores that `ranking` takes for `task`; those that a donor is chosen among begin with the task's own.

    Of one that leaves out: the scores that it goes by, and those by whose top share it leaves out. Of a ranking that is
    rescored, the first ones: of the dense model.
    """
    own = ImportanceJob(task.member, component, task.num_fewshot)
    shots = task.num_fewshot if ranking.num_fewshot is None else ranking.num_fewshot
    if ranking.kind == "own":
        return [own]
    if ranking.kind == "method":
        names = [ranking.method, ranking.left_out] if ranking.left_out else [ranking.method]
        return [_by_method(config, name, own._replace(num_fewshot=shots)) for name in names]
    if ranking.kind == "donor":
        return [own, *(job for job in _of_all_tasks(component, shots, tasks) if job.task != task.name)]
    if ranking.kind == "aggregate" and ranking.tasks:
        members = dict.fromkeys(member for name in ranking.tasks for member in _members(config, name))
        jobs = [_as_the_grid_has_it(config, member, component, shots, tasks) for member in members]
        return list({job.task: job for job in jobs}.values())
    if ranking.kind == "aggregate":
        return _of_all_tasks(component, shots, tasks)
    if ranking.kind == "task":
        return [_other_task(config, ranking.task or "", component, shots, tasks)]
    return []


def _by_method(config: SweepConfig, method: str, own: ImportanceJob) -> ImportanceJob:
    """Scores by this method; one file where the sweep's own importance is by it too."""
    if method == INDUCTION:
        return ImportanceJob(NO_TASK, "heads", 0, method=INDUCTION)
    component = "attention" if (own.component, method) == ("heads", "block_influence") else own.component
    ours = component in ("heads", "ffns") and method == _method(config, component)
    return own._replace(component=component, method=None if ours else method)


def _method(config: SweepConfig, component: str) -> str:
    return config.head_method if component == "heads" else config.ffn_method


def pruned_components(config: SweepConfig, ranking: Ranking) -> list[str]:
    """`heads`, `ffns` or both, or `layers`: of which the grid prunes any by the ranking."""
    shares = {"heads": config.prune_heads, "ffns": config.prune_ffns}
    if ranking.unit == "layer":
        shares = {"layers": config.prune_layers}
    return [component for component, values in shares.items() if any(share != "0" for share in values)]


def _of_all_tasks(component: str, num_fewshot: int, tasks: Sequence[PlannedTask]) -> list[ImportanceJob]:
    """Each task as the grid has it at this number of shots, or else as it has it at another."""
    members: dict[str, Member] = {}
    for task in tasks:
        if task.error is None and (task.num_fewshot == num_fewshot or task.name not in members):
            members[task.name] = task.member
    return [ImportanceJob(member, component, num_fewshot) for member in members.values()]


def _other_task(
    config: SweepConfig, name: str, component: str, num_fewshot: int, tasks: Sequence[PlannedTask]
) -> ImportanceJob:
    """The task of this name: as the grid has it, where it does."""
    if (found := _in_grid(name, component, num_fewshot, tasks)) is not None:
        return found
    members = _members(config, name)
    if len(members) != 1:
        raise ArgumentError(
            f"ranking task:{name}: {len(members)} tasks; expected one (aggregate:{name} takes the mean over them)"
        )
    return _as_the_grid_has_it(config, members[0], component, num_fewshot, tasks)


def _as_the_grid_has_it(
    config: SweepConfig, member: Member, component: str, num_fewshot: int, tasks: Sequence[PlannedTask]
) -> ImportanceJob:
    """Importance of a task that need not be in the grid; as the grid has it, where it does."""
    if (found := _in_grid(member.task, component, num_fewshot, tasks)) is not None:
        return found
    real, shots = _loaded(member, config.include_path, config.include_defaults, _metadata(config), num_fewshot)
    return ImportanceJob(member._replace(task=real), component, shots)


def _in_grid(name: str, component: str, num_fewshot: int, tasks: Sequence[PlannedTask]) -> ImportanceJob | None:
    for task in tasks:
        if task.error is None and (task.name, task.num_fewshot) == (name, num_fewshot):
            return ImportanceJob(task.member, component, num_fewshot)
    return None


def _metadata(config: SweepConfig) -> str:
    return json.dumps(task_metadata(config.model_args, config.metadata), default=str)


def _members(config: SweepConfig, name: str) -> list[Member]:
    """The tasks that `name` stands for. Raises ArgumentError."""
    return _members_of(name, config.include_path, config.include_defaults, _metadata(config))


@functools.cache
def _members_of(name: str, include_path: str | None, include_defaults: bool, metadata: str) -> list[Member]:
    with quiet_harness():
        return members_of(name, include_path, include_defaults, json.loads(metadata))


@functools.cache
def _loaded(
    member: Member, include_path: str | None, include_defaults: bool, metadata: str, num_fewshot: int
) -> tuple[str, int]:
    """(the task's real name, the shots that it is used at). Raises ArgumentError."""
    with quiet_harness():
        (task,) = load_tasks([member], include_path, include_defaults, json.loads(metadata)).values()
    return task.task_name, num_fewshot_of(task, num_fewshot)
