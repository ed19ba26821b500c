"""The grid's tasks: loaded once to learn their real names and shots, and what of them decides a result."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.files import digest
from lm_eval_prune.harness.quiet import quiet_harness
from lm_eval_prune.harness.task_identity import task_identity
from lm_eval_prune.harness.tasks import Member, Seeds, members_of, require_known, task_metadata
from lm_eval_prune.progress import Bar
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.jobs import Failure

__all__ = ["PlannedTask", "planned_tasks"]


@dataclass(frozen=True)
class PlannedTask:
    """A task at a number of shots, or why it cannot be loaded."""

    member: Member
    """The task, and what it is loaded out of."""
    num_fewshot: int
    """That are used."""
    requested: int | None
    """Shots that were asked for; None is the task's own number."""
    identity: dict[str, Any] = field(default_factory=dict)
    error: PruneError | None = None
    metrics: tuple[str, ...] = ()
    num_documents: int = 0
    """All that it has."""

    @property
    def name(self) -> str:
        return self.member.task


def planned_tasks(config: SweepConfig, *, shown: bool = False) -> list[PlannedTask]:
    """Every task at every number of shots; a task that cannot be loaded is listed with its error. `shown`: under a bar.

    Raises ArgumentError for a name that the harness does not know, for a file, for a task that two groups define
    differently at the same number of shots, and for a knockout metric that none of the tasks has.
    """
    for asked in config.tasks:
        if Path(asked).is_file():
            raise ArgumentError(f"task {asked}: a file; give its folder as include_path, and the task's name")
    require_known(config.tasks, config.include_path, config.include_defaults)
    asked_for = list(itertools.product(config.tasks, config.num_fewshot))
    members = {asked: _members_of(asked, config) for asked in config.tasks}
    found: dict[tuple[str, int], PlannedTask] = {}
    with Bar(total=sum(len(members[asked]) for asked, _ in asked_for), leave=False, disable=not shown) as bar:
        for asked, shots in asked_for:
            for member in members[asked]:
                bar.set_description(f"Reading {member.task}" + ("" if shots is None else f", {shots}-shot"))
                _include(found, _planned(member, shots, config))
                bar.update()
    _require_metric(config, [task.metrics for task in found.values() if task.error is None])
    return list(found.values())


def _require_metric(config: SweepConfig, metrics: Sequence[tuple[str, ...]]) -> None:
    """Whether or not anything is knocked out."""
    known = ", ".join(dict.fromkeys(name for of_task in metrics for name in of_task))
    asked = config.knockout_metric
    if metrics and asked not in (None, "loss") and not any(asked in of_task for of_task in metrics):
        raise ArgumentError(f"knockout_metric={asked}: no task has it; they have {known}, and loss")


def _include(found: dict[tuple[str, int], PlannedTask], planned: PlannedTask) -> None:
    """Raises ArgumentError where another group has defined it differently."""
    before = found.setdefault((planned.name, planned.num_fewshot), planned)
    if planned.error is None is before.error and planned.identity != before.identity:
        raise ArgumentError(
            f"task {planned.name}: {before.member.of} and {planned.member.of} define it differently, both at "
            f"{planned.num_fewshot} shots; give each an --output_path of its own"
        )


def _members_of(asked: str, config: SweepConfig) -> list[Member]:
    """The tasks that `asked` stands for; where that cannot be told, itself, which cannot be loaded either."""
    metadata = task_metadata(config.model_args, config.metadata)
    try:
        with quiet_harness():
            return members_of(asked, config.include_path, config.include_defaults, metadata)
    except PruneError:
        return [Member(asked, asked)]


def _planned(member: Member, shots: int | None, config: SweepConfig) -> PlannedTask:
    metadata = task_metadata(config.model_args, config.metadata)
    seeds = Seeds(numpy=config.seed, torch=config.seed)
    place = (config.include_path, config.include_defaults)
    try:
        real, used, identity = task_identity(member, shots, *place, metadata, seeds)
    except PruneError as error:
        return PlannedTask(member, shots or 0, shots, error=error)
    except Exception as error:  # whatever reading a stranger's documents raises
        failure = Failure.of(error)
        problem = PruneError(f"task {member.task!r}: {failure.kind}: {failure.message}")
        return PlannedTask(member, shots or 0, shots, error=problem)
    hashed = {
        "task_version": identity["task_version"],
        "task_config_hash": digest(identity["task_config"]),
        "documents_hash": digest(identity["documents"]),
    }
    metrics = tuple(identity["metrics"])
    documents = len(identity["documents"]["docs"])
    member = member._replace(task=real)
    return PlannedTask(member, used, shots, hashed, metrics=metrics, num_documents=documents)
