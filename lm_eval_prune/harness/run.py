"""The harness's `run` command, called with our defaults and our manner of reporting bad input."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import require_writable
from lm_eval_prune.harness import registration

__all__ = ["run_harness"]


def run_harness(arguments: Sequence[str]) -> None:
    """`lm_eval run ARGUMENTS`, with `--model pruned-hf` unless they name a model.

    Raises PruneError for input that this package or the harness's own argument check refuses.
    """
    from lm_eval.__main__ import cli_evaluate

    registration.register()
    arguments = list(arguments)
    if not any(argument in ("--model", "-M", "--config", "-C") or _assigns_model(argument) for argument in arguments):
        arguments = ["--model", registration.MODEL_NAME, *arguments]
    _require_writable(arguments)
    with _argv(["lm-eval-prune", "run", *arguments]), _checks_of_the_harness_as_lines():
        cli_evaluate()


def _assigns_model(argument: str) -> bool:
    return argument.startswith(("--model=", "--config="))


@contextlib.contextmanager
def _argv(argv: list[str]) -> Iterator[None]:
    """The harness reads its command line from `sys.argv` alone."""
    original, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = original


@contextlib.contextmanager
def _checks_of_the_harness_as_lines() -> Iterator[None]:
    """Turn what the harness's argument check raises (an unknown task, say) into our one-line error."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        frames = [
            (frame.filename.replace("\\", "/"), frame.name) for frame in traceback.extract_tb(error.__traceback__)
        ]
        reason = " ".join(str(error).split())
        if frames[-1][0].endswith("lm_eval/config/evaluate_config.py"):
            raise ArgumentError(reason) from error
        if any(file.endswith("lm_eval/api/task.py") and name == "download" for file, name in frames):
            raise ArgumentError(f"a task's data set cannot be loaded: {reason}") from error
        raise


def _require_writable(arguments: Sequence[str]) -> None:
    """Raise FileFormatError for an `--output_path` that cannot be written: the harness only warns, at the end."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--output_path", "-o"):
            given = value if equals else "".join(arguments[place + 1 : place + 2])
            if given:
                path = Path(given)
                require_writable(path.parent if path.suffix == ".json" else path)
