"""The harness's `run` command, called with our defaults and our manner of reporting bad input."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval_prune.decoders import is_original_family
from lm_eval_prune.decoders.configuration import PLACES, read_configuration
from lm_eval_prune.demo import is_bundled
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.files import require_writable
from lm_eval_prune.harness import registration
from lm_eval_prune.harness.arguments import require_device
from lm_eval_prune.harness.precision import with_cpu_precision
from lm_eval_prune.harness.run_options import describe, each_warning_once
from lm_eval_prune.harness.task_files import read_regular_files_alone, require_include_path, require_task_files
from lm_eval_prune.harness.task_index import quick
from lm_eval_prune.harness.templates import compile_once
from lm_eval_prune.harness.trackers import require_packages
from lm_eval_prune.limits import checked_limit
from lm_eval_prune.model_args import model_args_text, parse_model_args
from lm_eval_prune.model_names import ANY_FAMILY, ORIGINAL_FAMILY, OURS
from lm_eval_prune.text import described, message_of

__all__ = ["run_harness"]


def run_harness(arguments: Sequence[str]) -> None:
    """`lm_eval run ARGUMENTS`, with a model of ours unless they, or the file of --config, name another.

    Raises PruneError for input that this package or the harness's own argument check refuses.
    """
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    registration.register()
    compile_once()
    read_regular_files_alone()
    with _argv(["lm-eval-prune", "run", *(arguments or ("--tasks=",))]), _errors_as_lines():
        harness = HarnessCLI()
        describe(harness._subparsers.choices["run"])
        options = harness.parse_args()
        settings = _settings(options)
        _check(settings)
        if not settings.get("model"):
            options.model = _model_name(settings)
        if (settings.get("model") or options.model) in OURS:
            options.model_args = _with_precision(settings)
        setup_logging()
        from lm_eval_prune.harness.metrics import every_evaluation_guarded
        from lm_eval_prune.harness.quiet import git_without_errors

        with every_evaluation_guarded(), each_warning_once(), git_without_errors(), quick():
            harness.execute(options)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options that count: those of the file of --config, and over them those of the command line."""
    from lm_eval.config.evaluate_config import EvaluatorConfig

    settings = EvaluatorConfig.load_yaml_config(options.config) if getattr(options, "config", None) else {}
    return settings | {name: value for name, value in vars(options).items() if value or value == 0}


def _with_precision(settings: dict[str, Any]) -> Any:
    """The model's arguments as they were given, and float32 where a CPU computes and they leave it open."""
    given = settings.get("model_args")
    arguments = parse_model_args(given)
    decided = with_cpu_precision(arguments, settings.get("device"))
    if decided == arguments:
        return given
    dtype = {"dtype": decided["dtype"]}
    return {**given, **dtype} if isinstance(given, dict) else model_args_text(decided)


def _model_name(settings: dict[str, Any]) -> str:
    """Which of its two names the model goes by, by its family. Raises PruneError."""
    arguments = parse_model_args(settings.get("model_args"))
    if settings.get("trust_remote_code"):
        arguments["trust_remote_code"] = True
    if is_bundled(arguments.get("pretrained")):
        return ORIGINAL_FAMILY
    where = {name: arguments.get(name) for name in PLACES}
    config = read_configuration(arguments["pretrained"], **where)
    return ORIGINAL_FAMILY if is_original_family(config) else ANY_FAMILY


def _check(settings: dict[str, Any]) -> None:
    """Raise PruneError for what the harness finds out late, in a traceback or not at all."""
    tasks = settings.get("tasks")
    named = tasks.split(",") if isinstance(tasks, str) else tasks or ()
    if not any(str(task).strip() for task in named):
        raise ArgumentError("no tasks: give --tasks, such as --tasks icl14_1shot; `lm_eval ls tasks` lists them")
    require_packages(settings)
    require_include_path(settings.get("include_path"))
    require_task_files(map(str, named))
    if settings.get("device") is not None:
        require_device(settings["device"])
    shots, limit = settings.get("num_fewshot"), settings.get("limit")
    if shots is not None and not (isinstance(shots, int) and shots >= 0):
        raise ArgumentError(f"num_fewshot={shots}: expected a whole number from 0 on")
    checked_limit(limit)
    if path := settings.get("output_path"):  # where it cannot be written the harness only warns, at the end
        place = Path(str(path))
        require_writable(place.parent if place.suffix == ".json" else place)


@contextlib.contextmanager
def _argv(argv: list[str]) -> Iterator[None]:
    """The harness reads its command line from `sys.argv` alone."""
    original, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = original


@contextlib.contextmanager
def _errors_as_lines() -> Iterator[None]:
    """Turn what the harness raises for bad input (an unknown task, say) into our one-line error."""
    try:
        yield
    except PruneError:
        raise
    except ImportError as error:
        if str(error.name).partition(".")[0] in ("lm_eval", "lm_eval_prune"):
            raise  # a broken installation, whose traceback says more
        raise ArgumentError(f"a package is missing: {message_of(error)}") from error
    except Exception as error:  # told apart by where it was raised, and else raised again
        frames = [
            (frame.filename.replace("\\", "/").rpartition("/lm_eval/")[2], frame.name)
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        if frames[-1][0].startswith(("config/", "_cli/")) or frames[-1] == ("evaluator.py", "simple_evaluate"):
            raise ArgumentError(message_of(error)) from error
        if ("api/task.py", "download") in frames:
            raise ArgumentError(f"a task's data set cannot be loaded: {message_of(error)}") from error
        if ("api/task.py", "build_all_requests") in frames:
            raise ArgumentError(f"a task's prompts cannot be made: {described(error)}") from error
        raise
