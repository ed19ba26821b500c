"""The harness without its own logging and bars, where a command of ours shows one bar over many evaluations."""

from __future__ import annotations

import functools
import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval.api.task
import lm_eval.evaluator
from lm_eval.loggers.utils import get_commit_from_path

__all__ = ["git_commit", "git_without_errors", "quiet_harness"]


@contextmanager
def quiet_harness() -> Iterator[None]:
    """The harness logs a dozen lines an evaluation and shows a bar a task; here only errors are said."""
    logger = logging.getLogger("lm_eval")
    module: Any = getattr(lm_eval.api.task, "_task", lm_eval.api.task)  # 0.5 has a package
    level, bar = logger.level, module.tqdm
    logger.setLevel(logging.ERROR)
    module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        module.tqdm = bar


def git_commit() -> str | None:
    """What the harness writes into results as `git_hash`: of the repository around the current folder, if there is one.

    Its own function lets git say "fatal: not a git repository" where there is none, in the middle of our bars.
    """
    try:
        found = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return get_commit_from_path(str(Path.cwd()))
    return found.stdout.strip()


@contextmanager
def git_without_errors() -> Iterator[None]:
    """Inside, the harness's own evaluation takes the commit from `git_commit`."""
    before = lm_eval.evaluator.get_git_commit_hash
    lm_eval.evaluator.get_git_commit_hash = git_commit
    try:
        yield
    finally:
        lm_eval.evaluator.get_git_commit_hash = before
