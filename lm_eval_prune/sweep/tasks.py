"""The grid's tasks: loaded once to learn their real names and shots, and what of them decides a result."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.harness.cells import task_identity
from lm_eval_prune.harness.quiet import quiet_harness
from lm_eval_prune.harness.requests import load_tasks, require_known
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.folder import digest
from lm_eval_prune.sweep.jobs import Failure

__all__ = ["PlannedTask", "planned_tasks"]


@dataclass(frozen=True)
class PlannedTask:
    """A task at a number of shots, or why it cannot be loaded."""

    name: str
    num_fewshot: int
    identity: dict[str, Any] = field(default_factory=dict)
    error: PruneError | None = None


def planned_tasks(config: SweepConfig) -> list[PlannedTask]:
    """Every task at every number of shots; a task that cannot be loaded is listed with its error.

    Raises ArgumentError for a name that the harness does not know, and for a file.
    """
    for asked in config.tasks:
        if Path(asked).is_file():
            raise ArgumentError(f"task {asked}: a file; give its folder as include_path, and the task's name")
    require_known(config.tasks, config.include_path, config.include_defaults)
    found: dict[tuple[str, int], PlannedTask] = {}
    for asked in config.tasks:
        try:
            with quiet_harness():
                names = list(load_tasks([asked], config.include_path, config.include_defaults))
        except PruneError as error:
            for shots in config.num_fewshot:
                found[asked, shots] = PlannedTask(asked, shots, error=error)
            continue
        for name, shots in itertools.product(names, config.num_fewshot):
            planned = _planned(name, shots, config)
            found[planned.name, planned.num_fewshot] = planned
    return list(found.values())


def _planned(name: str, shots: int, config: SweepConfig) -> PlannedTask:
    try:
        real, used, identity = task_identity(name, shots, config.include_path, config.include_defaults)
    except Exception as error:  # whatever reading a stranger's documents raises
        failure = Failure.of(error)
        return PlannedTask(name, shots, error=PruneError(f"task {name!r}: {failure.kind}: {failure.message}"))
    hashed = {
        "task_version": identity["task_version"],
        "task_config_hash": digest(identity["task_config"]),
        "documents_hash": digest(identity["documents"]),
    }
    return PlannedTask(real, used, hashed)
