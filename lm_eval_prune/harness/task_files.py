"""Files that tasks are read from: regular ones alone. A pipe says nothing for ever, and a device has no end.

The harness opens whatever in a folder is called `*.yaml`, and whatever such a file includes.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lm_eval.tasks._yaml_loader as harness_yaml

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import files_below, is_folder

__all__ = ["read_regular_files_alone", "require_include_path", "require_task_files"]


def require_include_path(folder: str | Path | None) -> None:
    """Raise ArgumentError where it is given but is no folder, or holds a pipe, socket or device as a task's file."""
    if folder is None:
        return
    if not is_folder(folder):
        raise ArgumentError(f"include_path={folder}: no such folder")
    _require_regular(files_below(folder, ".yaml"), f"include_path={folder}: ")


def require_task_files(tasks: Iterable[str]) -> None:
    """The same of tasks that are named by their files, by a pattern of such, or by their folder."""
    for task in tasks:
        if is_folder(task):
            _require_regular(Path(task).glob("*.yaml"), "tasks: ")
        elif task.endswith(".yaml"):
            _require_regular(map(Path, glob.glob(task)), "tasks: ")  # noqa: PTH207 - Path takes no absolute pattern


def _require_regular(paths: Iterable[Path], where: str) -> None:
    for path in paths:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ArgumentError(f"{where}{path}: a pipe, socket or device; expected a file")


class _Regular(type(Path())):  # type: ignore[misc]
    """A path that opens nothing else."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        if self.exists() and not self.is_file():
            raise ArgumentError(f"{self}: no regular file; expected a file of a task")
        return super().open(*args, **kwargs)


def read_regular_files_alone() -> None:
    """From now on in this process, when the harness reads a task's file or what that includes; twice is once."""
    harness_yaml.Path = _Regular
