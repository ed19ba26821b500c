"""Which command makes what a folder lacks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_prune.paper.evidence import Evidence
from lm_eval_prune.paper.study import COMBINED, DONOR_SHARES, FFNS, HEADS, INDUCTION, SWEEP, TASKS, TRANSFER
from lm_eval_prune.text import printable

__all__ = ["command_for"]

OF_GRIDS = {"figure-5": HEADS, "figure-6": FFNS, "figure-7": COMBINED, "figure-9": TRANSFER}
OF_INDUCTION = ("figure-10",)
OF_BOTH = ("figure-11", "figure-18", "figure-19")
"""Sections that take importance and induction scores."""
OUTSIDE = ("mathqa", "lambada_openai")
"""The paper's tasks outside the study."""


def command_for(section: str, evidence: Evidence, shots: Sequence[int] = ()) -> str:
    """The command for a section: a sweep's, `importance`'s or `induction`'s, into the same folder.

    shots: where the section has data, the numbers of shots that it lacks. Induction scores are of no number of shots.
    """
    settings, folder = evidence.settings, evidence.sweep or evidence.folder / SWEEP
    if shots:
        settings = {**settings, "num_fewshot": list(shots)}
    elif section in OF_INDUCTION or (section in OF_BOTH and evidence.score_shots("heads")):
        return _command("induction", _model(settings), {}, evidence.folder / INDUCTION)
    if section in OF_GRIDS:
        return _command("sweep", _of_sweep(settings), OF_GRIDS[section], folder)
    if section == "figure-9d":
        mean = "aggregate:" + "+".join(_listed(settings.get("tasks") or TASKS))
        lacks_own = "unseen" in evidence.boards
        ranking = (mean, "own") if lacks_own else (mean,)
        tasks = OUTSIDE[:1] if lacks_own else OUTSIDE  # LAMBADA has no documents for importance of its own
        grid = {"ranking": ranking, "prune_heads": DONOR_SHARES}
        return _command("sweep", {**_of_sweep(settings), "tasks": tasks}, grid, folder)
    own = {**_model(settings), "tasks": settings.get("tasks") or TASKS, "num_fewshot": settings.get("num_fewshot")}
    if settings.get("importance_limit"):
        own["limit"] = f"{settings['importance_limit']:g}"
    what = {"component": ("ffns",), "method": ("knockout",)} if section == "figure-4" else {"component": ("heads",)}
    return _command("importance", own, what, folder / "importance")


def _model(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"model_args": settings.get("model_args")}


def _of_sweep(settings: Mapping[str, Any]) -> dict[str, Any]:
    limits = {name: settings.get(name) for name in ("limit", "importance_limit")}
    default = {"importance_limit": 200}
    given = {name: f"{value:g}" for name, value in limits.items() if value and value != default.get(name)}
    tasks = settings.get("tasks") or TASKS
    return {**_model(settings), "tasks": tasks, "num_fewshot": settings.get("num_fewshot"), **given}


def _command(name: str, settings: Mapping[str, Any], grid: Mapping[str, Sequence[str]], folder: Path) -> str:
    words = ["lm-eval-prune", name]
    for option, value in settings.items():
        if value:
            words += [f"--{option}", ",".join(_listed(value))]
    for option, values in grid.items():
        for value in values if option == "ranking" else [",".join(values)]:
            words += [f"--{option}", value]
    return printable(shlex.join([*words, "--output_path", str(folder)]))


def _listed(value: Any) -> list[str]:
    return [str(part) for part in value] if isinstance(value, list | tuple) else [str(value)]
