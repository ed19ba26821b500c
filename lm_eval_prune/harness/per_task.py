"""A file for each task and number of shots: which there are, which are there already, and computing the others.

What importance and means have in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from lm_eval.api.task import Task

from lm_eval_prune.errors import ArgumentError, FileFormatError
from lm_eval_prune.file_names import distinct_names
from lm_eval_prune.files import json_line, require_ours, require_writable
from lm_eval_prune.harness.model_record import require_same_model
from lm_eval_prune.harness.tasks import Member, load_tasks, num_fewshot_of
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.limits import SPLITS, checked_limit
from lm_eval_prune.progress import Bar, working

if TYPE_CHECKING:
    import os

    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["Outcome", "PerTaskConfig", "TaskCell", "each_computed", "finished", "task_cells"]


@dataclass(frozen=True, kw_only=True)
class PerTaskConfig:
    """What to compute, and of which documents; checked when made. Raises ArgumentError."""

    tasks: tuple[str | Member, ...] = ()
    """Harness tasks, groups or tags."""
    num_fewshot: tuple[int | None, ...] = (None,)
    """Numbers of shots; None is the task's own."""
    output_path: Path
    """Folder of the files."""
    split: str | None = None
    """One of `limits.SPLITS`; None is training, or validation where there is none."""
    limit: float | None = None
    """Documents a task, or a share of them below 1; None is all."""
    seed: int = 1234
    """Of all that is drawn, few-shot examples first."""
    batch_size: int = 8
    overwrite: bool = False
    """Compute finished files again."""
    include_path: str | None = None
    """Folder with further task definitions."""
    include_defaults: bool = True
    """Whether the harness's own tasks and ours are looked for too; reading them all takes seconds."""
    metadata: Mapping[str, Any] | None = None
    """What tasks' functions are handed, made by `task_metadata`."""
    model: Mapping[str, Any] | None = None
    """`model_record.record_of_arguments` of the model, where it comes from arguments; files of another are refused."""

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in SPLITS:
            raise ArgumentError(f"split {self.split!r}: unknown; expected one of {', '.join(SPLITS)}")
        if self.batch_size < 1:
            raise ArgumentError(f"batch_size={self.batch_size}; expected at least 1")
        if any(shots is not None and shots < 0 for shots in self.num_fewshot):
            raise ArgumentError(f"num_fewshot={min(filter(None, self.num_fewshot))}; expected 0 or more")
        object.__setattr__(self, "limit", checked_limit(self.limit))


class Settings(Protocol):
    """What a file holds beside its numbers."""

    @property
    def settings(self) -> dict[str, Any]: ...


Finished = TypeVar("Finished", bound=Settings)


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


def task_cells(config: PerTaskConfig, file_name: Callable[[str, int], str]) -> list[TaskCell]:
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
    config: PerTaskConfig,
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


def finished(
    path: Path,
    load: Callable[[Path], Finished],
    asked: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    hint: str,
) -> Finished:
    """What the file at `path` holds.

    Raises PruneError, which ends in `hint`, where it cannot be read, answers another question than `asked`, or is of
    another `model`, which None leaves open.
    """
    try:
        found = load(path)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; {hint}") from None
    for key, value in asked.items():
        if found.settings.get(key) != value:
            there = json_line(found.settings.get(key))
            raise ArgumentError(f"{path}: computed with {key}={there}, now {json_line(value)}; {hint}")
    if model is not None:
        require_same_model(path, found.settings, model)
    return found
