"""What was run, at the page's end: models, tasks, versions, and the commands that repeat it. For masks: `masks.py`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lm_eval_prune.model_args import model_args_text
from lm_eval_prune.model_names import OURS
from lm_eval_prune.report.board import Board
from lm_eval_prune.report.comparison import BoardConfig
from lm_eval_prune.report.reading import Collection
from lm_eval_prune.report.runs import Run
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.text import printable

__all__ = ["Command", "Listing", "board_command", "models_listing", "run_commands", "tasks_listing"]


class Command(NamedTuple):
    """How something is repeated."""

    title: str
    text: str
    """For a shell."""


class Listing(NamedTuple):
    """A small table."""

    header: list[str]
    rows: list[list[str]]


def models_listing(board: Board) -> Listing:
    """The models as they were evaluated."""
    by_model: dict[tuple[str, str], list[Run]] = {}
    for run in _runs(board):
        by_model.setdefault((run.model, run.backend), []).append(run)
    header = ["model", "harness model", "weights", "parameters", "dtype", "scorer", "versions", "runs"]
    rows = []
    for (model, backend), runs in by_model.items():
        versions = dict.fromkeys(f"{name} {version}" for run in runs for name, version in run.versions.items())
        total = next((run.cost.parameters_total for run in runs if run.cost.parameters_total), None)
        rows.append(
            [
                model,
                backend,
                _said(run.weights and run.weights[:12] for run in runs),
                "" if total is None else f"{total:,}",
                _said(run.dtype for run in runs),
                _said(run.scorer for run in runs),
                ", ".join(versions),
                f"{len(runs):,}",
            ]
        )
    return Listing(header, rows)


def tasks_listing(board: Board) -> Listing:
    """What each column was computed on."""
    runs = _runs(board)
    rows = []
    for column in board.columns:
        own = [run for run in runs if run.task == column.task]
        shots = ", ".join(map(str, sorted({run.num_fewshot for run in own})))
        counts = _said(f"{run.num_documents:,}" if run.num_documents else None for run in own)
        seeds = _said(None if run.fewshot_seed is None else str(run.fewshot_seed) for run in own)
        rows.append([column.task, column.metric, _said(run.task_version for run in own), counts, shots, seeds])
    return Listing(["task", "metric", "version", "documents", "shots", "few-shot seed"], rows)


def run_commands(board: Board, collection: Collection) -> list[Command]:
    """Commands that compute the results again: one a grid of a sweep, and those of a folder of results files."""
    sources = {run.source for run in _runs(board)}
    commands = [_sweep_command(path, config) for path, config in collection.plans if path.parent.parent in sources]
    folders: dict[Path, dict[Path, list[Run]]] = {}
    for run in _runs(board):
        if run.source == run.path:
            folders.setdefault(run.path.parent, {}).setdefault(run.path, []).append(run)
    for folder, files in folders.items():
        named = ", ".join(path.name for path in files) if len(files) == 1 else f"{len(files):,} results files"
        text = "\n\n".join(
            f"# {' '.join(path.name.split())}\n{_harness_command(path, runs)}" for path, runs in sorted(files.items())
        )
        commands.append(_command(f"{named} in {folder}", text))
    return commands


def board_command(paths: Sequence[object], output_path: object, config: BoardConfig) -> Command:
    """The command that makes the leaderboard."""
    words = ["lm-eval-prune", "leaderboard", *map(str, paths), "--output_path", str(output_path)]
    default = BoardConfig()
    names = {"metrics": "metric"}
    for name in ("tasks", "shots", "metrics", "margin", "baseline", "against", "strict", "flips", "cluster"):
        value = getattr(config, name)
        if value != getattr(default, name):
            words += _option(names.get(name, name), value)
    return _command("This leaderboard", _shell(words))


def _sweep_command(path: Path, config: Mapping[str, Any]) -> Command:
    folder = path.parent.parent
    given = {
        name: value
        for name, value in config.items()
        if name not in SweepConfig.model_fields or not _is_default(name, value)
    }
    settings = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    command = _shell(["lm-eval-prune", "sweep", "--config", "sweep.yaml", "--output_path", str(folder)])
    marker, lines = "END", set(settings.split("\n"))
    while marker in lines:
        marker += "_"
    return _command(f"The sweep in {folder}", f"cat > sweep.yaml <<'{marker}'\n{settings}{marker}\n{command}")


def _command(title: str, text: str) -> Command:
    return Command(printable(title), "\n".join(printable(line) for line in text.split("\n")))


def _is_default(name: str, value: Any) -> bool:
    default = SweepConfig.model_fields[name].get_default(call_default_factory=True)
    return value == (list(default) if isinstance(default, tuple) else default)


def _harness_command(path: Path, runs: Sequence[Run]) -> str:
    settings = runs[0].settings
    ours = runs[0].backend in OURS  # `run` finds the name by itself
    words = ["lm-eval-prune", "run"] if ours else ["lm_eval", "run"]
    if not ours:
        words += ["--model", runs[0].backend]
    if arguments := settings.get("model_args"):
        words += ["--model_args", _model_args(arguments)]
    words += ["--tasks", ",".join(dict.fromkeys(run.task for run in runs))]
    if len(shots := {run.num_fewshot for run in runs}) == 1:  # else the tasks themselves say it
        words += ["--num_fewshot", str(*shots)]
    for name in ("batch_size", "device", "limit", "gen_kwargs"):
        if settings.get(name):
            words += _option(name, settings[name])
    seeds = [settings.get(f"{name}_seed") for name in ("random", "numpy", "torch", "fewshot")]
    if any(seed is not None for seed in seeds):
        words += ["--seed", ",".join(str(seed) for seed in seeds)]
    words += ["--output_path", str(path.parent), "--log_samples"]
    return _shell(words)


def _model_args(arguments: Any) -> str:
    if not isinstance(arguments, Mapping):
        return str(arguments)
    return model_args_text({name: value for name, value in arguments.items() if value is not None})


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    if isinstance(value, tuple | list):
        return [f"--{name}", ",".join(map(str, value))]
    text = f"{value:.12g}" if isinstance(value, float) else str(value)
    return [f"--{name}", text]


def _shell(words: Iterable[str]) -> str:
    """A command line, options on lines of their own where it is long."""
    quoted = [shlex.quote(word) for word in words]
    line = " ".join(quoted)
    if len(line) <= 100:
        return line
    broken = quoted[0]
    for word in quoted[1:]:
        broken += f" \\\n    {word}" if word.startswith("--") else f" {word}"
    return broken


def _runs(board: Board) -> list[Run]:
    tasks = {column.task for column in board.columns}
    return [run for entry in board.entries for run in entry.runs if run.task in tasks]


def _said(values: Iterable[str | None]) -> str:
    """The different values, unknown ones left out."""
    return ", ".join(dict.fromkeys(value for value in values if value))
