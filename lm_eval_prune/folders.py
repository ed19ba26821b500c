"""New folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lm_eval_prune.errors import ArgumentError, FileFormatError
from lm_eval_prune.locks import NO_LOCKS, held

__all__ = ["appearing", "require_new"]

UNFINISHED = ".lm-eval-prune.unfinished"
"""How the names of folders end that are being written; the lock beside one is named after it."""


def require_new(output_path: Path) -> None:
    """Raise ArgumentError unless a finished folder could take the place `output_path`."""
    if output_path.exists() and (not output_path.is_dir() or any(output_path.iterdir())):
        raise ArgumentError(f"output_path={output_path}: not empty; give a new folder")
    if output_path.is_mount():  # the finished folder could not take its place
        raise ArgumentError(f"output_path={output_path}: a mount point; give a new folder inside it")


@contextmanager
def appearing(output_path: Path) -> Iterator[Path]:
    """A hidden folder beside `output_path` that takes its place in the end; after an error nothing is left.

    What runs that were killed have left there goes, whatever they were to write: living ones hold the lock beside it.
    Raises ArgumentError for a place that is taken, FileFormatError where it cannot be written.
    """
    folder = output_path.parent / f".{output_path.name}{UNFINISHED}"
    lock = Path(f"{folder}.lock")
    try:
        output_path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(output_path.parent)
        with ExitStack() as locks:
            if not _is_alone(lock, locks):
                raise ArgumentError(f"output_path={output_path}: another run is writing it; give a new folder")
            try:
                require_new(output_path)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                yield folder
                require_new(output_path)
                if output_path.exists():
                    output_path.rmdir()
                folder.replace(output_path)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise FileFormatError(f"output_path={output_path}: cannot be written: {error.strerror or error}") from error


def _is_alone(lock: Path, locks: ExitStack) -> bool:
    """Whether nobody else has `lock`, as far as the file system can tell; it is held, and there, until `locks` end."""
    try:
        return locks.enter_context(held(lock, remove=True))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        locks.callback(lock.unlink, missing_ok=True)
        return True


def _remove_left_behind(parent: Path) -> None:
    """Remove the unfinished folders of processes that are no more."""
    for lock in parent.glob(f".*{UNFINISHED}.lock"):
        if lock.is_symlink() or not lock.is_file():
            continue
        with suppress(OSError), held(lock, remove=True) as alone:
            if alone:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)  # a link is not followed
