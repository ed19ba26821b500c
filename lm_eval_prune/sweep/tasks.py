"""The grid's tasks: loaded once to learn their real names and shots, and what of them decides a result."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from lm_eval_prune.errors import PruneError
from lm_eval_prune.harness.cells import task_identity
from lm_eval_prune.harness.quiet import quiet_harness
from lm_eval_prune.harness.requests import load_tasks
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.folder import digest

__all__ = ["PlannedTask", "planned_tasks"]


@dataclass(frozen=True)
class PlannedTask:
    """A task at a number of shots, or why it cannot be loaded."""

    name: str
    num_fewshot: int
    identity: dict[str, Any] = field(default_factory=dict)
    error: PruneError | None = None


def planned_tasks(config: SweepConfig) -> list[PlannedTask]:
    """Every task at every number of shots; a task that cannot be loaded is listed with its error."""
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
            real, used, identity = task_identity(name, shots, config.include_path, config.include_defaults)
            hashed = {
                "task_version": identity["task_version"],
                "task_config_hash": digest(identity["task_config"]),
                "documents_hash": digest(identity["documents"]),
            }
            found[real, used] = PlannedTask(real, used, hashed)
    return list(found.values())
