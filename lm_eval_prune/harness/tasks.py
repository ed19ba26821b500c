"""Tasks as the harness loads them: what a group says of its members, and what it hands to their functions, included.

A member of a group is loaded out of that group, never again by its bare name: the group may fix its number of shots,
its few-shot examples, its description, and may define it in the first place.
"""

from __future__ import annotations

import difflib
import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry, Kind

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.harness import registration
from lm_eval_prune.harness.task_files import read_regular_files_alone, require_include_path
from lm_eval_prune.harness.task_index import quick
from lm_eval_prune.harness.templates import compile_once
from lm_eval_prune.model_args import parse_model_args
from lm_eval_prune.text import described, message_of

__all__ = [
    "Member",
    "Seeds",
    "has_examples",
    "load_tasks",
    "members_of",
    "num_fewshot_of",
    "random_state",
    "require_known",
    "seeded",
    "set_random_state",
    "task_metadata",
]


class Seeds(NamedTuple):
    """As `lm_eval --seed` takes them, in its order."""

    python: int = 0
    numpy: int = 1234
    torch: int = 1234
    fewshot: int = 1234


class Member(NamedTuple):
    """One task of a group, tag or pattern, as that has it; a task that was named itself is its own only member."""

    of: str
    """What was asked for."""
    task: str
    """The task's own name."""


def task_metadata(model_args: str | Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `lm_eval` hands to tasks' functions: the model's arguments, and `--metadata` over them."""
    return {**parse_model_args(model_args), **(metadata or {})}


def load_tasks(
    names: Sequence[str | Member],
    include_path: str | None = None,
    include_defaults: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Task]:
    """The harness's tasks of these names, in order; groups, tags, patterns and YAML files too.

    Without `include_defaults` names are looked for in `include_path` alone, which is quick. `metadata` is what
    `task_metadata` makes. Tasks that draw at random while they load do so with the harness's default seeds, unless
    that happens within `seeded`. Raises ArgumentError.
    """
    tasks: dict[str, Task] = {}
    for name in names:
        asked, wanted = (name.of, name.task) if isinstance(name, Member) else (name, None)
        found = _loaded(asked, include_path, include_defaults, metadata, wanted)
        if wanted is not None and wanted not in found:
            raise ArgumentError(f"task {asked!r}: has no task {wanted!r} any more")
        tasks |= {wanted: found[wanted]} if wanted is not None else found
    return tasks


def members_of(
    name: str,
    include_path: str | None = None,
    include_defaults: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> list[Member]:
    """The tasks that `name` stands for, as a rule without loading their data sets. Raises ArgumentError."""
    return [Member(name, task) for task in _loaded(name, include_path, include_defaults, metadata, "")]


def require_known(names: Sequence[str], include_path: str | None = None, include_defaults: bool = True) -> None:
    """Raise ArgumentError for a name that `load_tasks` would not find; nothing is loaded."""
    for name in names:
        _known(_task_manager(include_path, include_defaults), name)


def has_examples(name: str, include_path: str | None = None, include_defaults: bool = True) -> bool:
    """Whether the name is of one task, whose settings say that it has a training or a validation split.

    Nothing is loaded. Raises ArgumentError for an unknown name.
    """
    manager = _task_manager(include_path, include_defaults)
    entries = [manager.task_index.get(found) for found in _known(manager, name)]
    if len(entries) != 1 or entries[0] is None or entries[0].kind is not Kind.TASK:
        return False
    settings = entries[0].cfg or {}
    return bool(settings.get("training_split") or settings.get("validation_split"))


def num_fewshot_of(task: Task, requested: int | None) -> int:
    """The number of shots the harness would use: 0 where the task fixes 0, else as requested, else the task's own."""
    own = task.get_config("num_fewshot")
    if requested is None or own == 0:
        return own or 0
    return requested


_seeds_are_set = False


@contextmanager
def seeded(seeds: Seeds) -> Iterator[None]:
    """Inside, Python, NumPy and torch draw as after `lm_eval --seed`; outside, as if nothing had been drawn."""
    global _seeds_are_set
    before, state = _seeds_are_set, random_state()
    random.seed(seeds.python)
    np.random.seed(seeds.numpy)
    torch.manual_seed(seeds.torch)
    _seeds_are_set = True
    try:
        yield
    finally:
        _seeds_are_set = before
        set_random_state(state)


def random_state() -> tuple[Any, ...]:
    """Where the global generators of Python, NumPy and torch are."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus


def set_random_state(state: tuple[Any, ...]) -> None:
    """Put them where they were."""
    of_python, of_numpy, of_torch, gpus = state
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    if gpus is not None:
        torch.cuda.set_rng_state_all(gpus)


# -- the harness --------------------------------------------------------------------------------------------------


class _LeftOut(ConfigurableTask):
    """Stands for a task that nobody wants now: its data set is not loaded."""

    def __init__(self, name: str) -> None:
        self._left_out = name

    @property
    def task_name(self) -> str:
        return self._left_out

    @property
    def _qualified_name(self) -> str:  # 0.5 asks for it
        return self._left_out


class _Factory(TaskFactory):
    """The harness's, but of a group only the task that is wanted is made (all, if `wanted` is None).

    Tasks that are Python classes, and those that are defined within a group, are made in any case: only the harness
    knows their names.
    """

    def __init__(self, metadata: Mapping[str, Any] | None, wanted: str | None) -> None:
        super().__init__(meta=dict(metadata or {}))
        self.wanted = wanted

    def _build_task(self, entry: Entry, overrides: dict[str, Any] | None) -> Task:
        name = str({"task": entry.name, **(entry.cfg or {}), **(overrides or {})}["task"])
        if self.wanted is not None and name != self.wanted and entry.kind is Kind.TASK:
            return _LeftOut(name)
        return super()._build_task(entry, overrides)


def _loaded(
    asked: str, include_path: str | None, include_defaults: bool, metadata: Mapping[str, Any] | None, wanted: str | None
) -> dict[str, Task]:
    """What the harness makes of the name `asked`; only the task `wanted` is sure to be whole, unless it is None."""
    manager = _task_manager(include_path, include_defaults)
    found = _known(manager, asked)
    manager.metadata = dict(metadata or {})
    manager._factory = _Factory(metadata, wanted)
    try:
        if _seeds_are_set:
            tasks: dict[str, Task] = manager.load(found)["tasks"]
        else:
            with seeded(Seeds()):
                tasks = manager.load(found)["tasks"]
    except Exception as error:  # whatever a stranger's task raises
        raise ArgumentError(f"task {wanted or asked!r} cannot be loaded: {message_of(error)}") from error
    return tasks


def _known(manager: TaskManager, name: str) -> list[str]:
    """The names that `name` stands for. Raises ArgumentError."""
    if found := [name] if Path(name).is_file() else manager.match_tasks([name]):
        return found
    near = difflib.get_close_matches(name, manager.all_tasks, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else "; `lm_eval ls tasks` lists them"
    raise ArgumentError(f"task {name!r}: unknown to the harness{hint}")


@functools.lru_cache(maxsize=1)
def _task_manager(include_path: str | None, include_defaults: bool) -> TaskManager:
    """Building one reads thousands of task files."""
    require_include_path(include_path)
    registration.register()
    compile_once()
    read_regular_files_alone()
    try:
        with quick():
            return TaskManager(include_path=include_path, include_defaults=include_defaults)
    except Exception as error:  # whatever lies in a stranger's folder
        if include_path is None:
            raise
        why = described(error)
        raise ArgumentError(f"include_path={include_path}: its tasks cannot be read: {why}") from error
