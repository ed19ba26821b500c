"""A task of its own to ask, and what of it decides a result: its version, settings and documents."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from lm_eval.api.task import Task
from lm_eval.utils import handle_non_serializable

from lm_eval_prune.files import plain_json
from lm_eval_prune.harness.quiet import quiet_harness
from lm_eval_prune.harness.tasks import Member, Seeds, load_tasks, num_fewshot_of, seeded

__all__ = ["fresh_task", "task_identity"]

ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")
"""What `repr` adds of where an object lies."""


def task_identity(
    name: str | Member,
    num_fewshot: int | None,
    include_path: str | None = None,
    include_defaults: bool = True,
    metadata: Mapping[str, Any] | None = None,
    seeds: Seeds | None = None,
) -> tuple[str, int, dict[str, Any]]:
    """(the task's name, shots really used, what of the task decides a result: version, settings, documents).

    And its metrics, beside them.
    """
    with seeded(seeds or Seeds()):
        task = fresh_task(name, num_fewshot, 0, include_path, include_defaults, metadata)
    config = _same_everywhere(task.dump_config())
    config.pop("metadata", None)
    config.pop("num_fewshot", None)
    docs = plain_json({"docs": list(task.eval_docs)}, handle_non_serializable)
    identity = {
        "task_version": plain_json({"v": task.VERSION}, handle_non_serializable)["v"],
        "task_config": config,
        "documents": docs,
        "metrics": list(task.aggregation()),
    }
    return task.task_name, task.get_config("num_fewshot"), identity


def _same_everywhere(config: dict[str, Any]) -> dict[str, Any]:
    """A task's settings as JSON values that no process tells differently: functions by their source, no addresses."""

    def told(value: Any) -> Any:
        if isinstance(value, set | frozenset):
            return sorted(map(str, value))
        if is_dataclass(value) and not isinstance(value, type):
            return {part.name: getattr(value, part.name) for part in fields(value)}
        try:
            return inspect.getsource(value) if callable(value) else handle_non_serializable(value)
        except (OSError, TypeError):  # no source: a partial function, or one made by exec
            return repr(value)

    text = json.dumps(plain_json(config, told), ensure_ascii=False)
    result: dict[str, Any] = json.loads(ADDRESS.sub("", text))
    return result


def fresh_task(
    name: str | Member,
    shots: int | None,
    seed: int,
    include_path: str | None,
    include_defaults: bool,
    metadata: Mapping[str, Any] | None,
) -> Task:
    """The task, loaded anew, at a number of shots and with a seed of them."""
    with quiet_harness():
        (task,) = load_tasks([name], include_path, include_defaults, metadata).values()
    task.set_config("num_fewshot", num_fewshot_of(task, shots))
    task.set_fewshot_seed(seed)
    return task
