"""A file for each task and number of shots: which there are, which are there already, and computing the others.

What importance and means have in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lm_eval.api.task import Task

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.file_names import distinct_names
from lm_eval_prune.files import json_line, require_ours, require_writable
from lm_eval_prune.harness.tasks import Member, load_tasks, num_fewshot_of
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.progress import Bar, working

if TYPE_CHECKING:
    import os

    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["Outcome", "TaskCell", "each_computed", "require_answers", "task_cells"]


class Asked(Protocol):
    """What a configuration of such files says."""

    @property
    def tasks(self) -> tuple[str | Member, ...]: ...
    @property
    def num_fewshot(self) -> tuple[int | None, ...]: ...
    @property
    def output_path(self) -> Path: ...
    @property
    def include_path(self) -> str | None: ...
    @property
    def include_defaults(self) -> bool: ...
    @property
    def metadata(self) -> Mapping[str, Any] | None: ...
    @property
    def overwrite(self) -> bool: ...


class Saved(Protocol):
    """What is computed for a file."""

    def save(self, path: str | os.PathLike[str]) -> None: ...


class Outcome(NamedTuple):
    """One file, when it is there."""

    path: Path
    computed: bool
    """False where it was there before."""


class TaskCell(NamedTuple):
    """One file: the task, None for what looks at no task, and its number of shots."""

    task: Task | None
    num_fewshot: int
    path: Path


def task_cells(config: Asked, file_name: Callable[[str, int], str]) -> list[TaskCell]:
    """A cell for each task and number of shots; `file_name` makes a name of a task's safe name and its shots.

    Raises PruneError for a task that is not there.
    """
    # One by one: two groups may hold the same task at different numbers of shots.
    loaded = [
        load_tasks([asked], config.include_path, config.include_defaults, config.metadata) for asked in config.tasks
    ]
    tasks = [task for found in loaded for task in found.values()]
    names = distinct_names(task.task_name for task in tasks)
    cells: dict[Path, TaskCell] = {}
    for task, requested in itertools.product(tasks, config.num_fewshot):
        shots = num_fewshot_of(task, requested)
        path = config.output_path / file_name(names[task.task_name], shots)
        cells[path] = TaskCell(task, shots, path)
    return list(cells.values())


def each_computed(
    config: Asked,
    cells_of: Callable[[], Sequence[TaskCell]],
    load_model: Callable[[], PrunedModel],
    require_same: Callable[[TaskCell, str], object],
    computed: Callable[[TaskCell, PrunedModel], Saved | None],
) -> Iterator[Outcome]:
    """Write the file of every cell; of several processes the first writes and reports.

    Finished files are held to `require_same`, reported and left alone, unless `overwrite`; the model is loaded once,
    when a first file is to be computed. Raises PruneError; a file appears whole or not at all.
    """
    lm: PrunedModel | None = None
    with working("Looking at the tasks", lambda line: None):
        cells = cells_of()
    # One bar over the files; within each, one of its own.
    for cell in Bar(cells, desc="Files", unit="file", disable=len(cells) < 2 or Processes.current().rank > 0):
        if cell.path.exists() and not config.overwrite:
            require_same(cell, "--overwrite computes it again")
            yield Outcome(cell.path, False)
            continue
        require_ours(cell.path)
        if lm is None:
            require_writable(config.output_path)
            lm = load_model()
        found = computed(cell, lm)
        if found is not None:
            found.save(cell.path)
            yield Outcome(cell.path, True)


def require_answers(path: Path, settings: Mapping[str, Any], asked: Mapping[str, Any], hint: str) -> None:
    """Raise ArgumentError, which ends in `hint`, where the file at `path`, of `settings`, answers another question."""
    for key, value in asked.items():
        if settings.get(key) != value:
            there = json_line(settings.get(key))
            raise ArgumentError(f"{path}: computed with {key}={there}, now {json_line(value)}; {hint}")
