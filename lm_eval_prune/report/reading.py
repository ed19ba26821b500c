"""Files and folders -> runs, what is missing, and what kept a file from being read as expected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ArgumentError, FileFormatError, PruneError
from lm_eval_prune.files import read_json
from lm_eval_prune.importance.files import FORMAT as IMPORTANCE_FORMAT
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.harness_files import (
    cost_of,
    mask_text,
    runs_of_results,
    task_fields,
    versions_of,
)
from lm_eval_prune.report.identities import identified_cell
from lm_eval_prune.report.runs import Missing, Problem, Run
from lm_eval_prune.sweep.folder import (
    Row,
    cell_path,
    failure_path,
    is_sweep_folder,
    plan_paths,
    read_cell,
    read_failure,
    read_plan,
    read_rows,
)
from lm_eval_prune.text import printable

__all__ = ["Collection", "read_collection"]


@dataclass
class Collection:
    """All that was found below some paths."""

    runs: list[Run] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    importance: list[tuple[Path, ImportanceScores]] = field(default_factory=list)
    """Importance and induction scores, for the figures."""
    plans: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    """The plans of sweep folders, as they are on disk."""


def read_collection(paths: Sequence[str | os.PathLike[str]]) -> Collection:
    """Read sweep folders, folders with results files at any depth, and results files.

    Raises ArgumentError where nothing was evaluated, FileFormatError for a file named outright that is no results file.
    """
    found = Collection()
    for path in map(Path, paths):
        if path.is_dir():
            _read_folder(path, found)
        else:
            content = read_json(path, allow_halves=True)
            if not _is_results(content):
                raise FileFormatError(f'{path}: no results of the harness: "results" and "configs" are missing')
            found.runs += runs_of_results(content, path)
    if not found.runs:
        named = ", ".join(map(str, paths))
        raise ArgumentError(f"{named}: nothing evaluated; expected sweep folders or results files of the harness")
    return found


def _read_folder(folder: Path, found: Collection) -> None:
    sweeps = [folder] if is_sweep_folder(folder) else []
    sweeps += sorted(
        {plan.parent.parent for plan in folder.glob("*/**/plans/*.json") if is_sweep_folder(plan.parents[1])}
    )
    for sweep in sweeps:
        _read_sweep(sweep, found)
    for path in sorted(folder.rglob("*.json")):
        if any(path.is_relative_to(sweep) for sweep in sweeps) or path.name.startswith("."):
            continue
        try:
            content = read_json(path, allow_halves=True)
        except PruneError as error:
            found.problems.append(Problem("unreadable files", str(error)))
            continue
        if _is_results(content):
            found.runs += runs_of_results(content, path)
        elif content.get("format") == IMPORTANCE_FORMAT:
            _add_importance([path], found)


def _read_sweep(folder: Path, found: Collection) -> None:
    found.plans += [(path, read_plan(path)[0]) for path in plan_paths(folder)]
    read: dict[str, Run | str] = {}
    for row in read_rows(folder):
        row = row._replace(variant=row.variant._replace(ranking=printable(row.variant.ranking)))
        if row.cell not in read:
            read[row.cell] = _cell(folder, row, found)
        cell = read[row.cell]
        if isinstance(cell, str):
            found.missing.append(Missing(row.variant, printable(row.task), row.num_fewshot, row.fewshot_seed, cell))
        else:
            found.runs.append(_as_row(cell, row))
    _add_importance(sorted((folder / "importance").rglob("*.json")), found)


def _cell(folder: Path, row: Row, found: Collection) -> Run | str:
    """The cell that answers `row`, or why there is none."""
    path = cell_path(folder, row.cell)
    if not path.exists():
        return _why_absent(folder, row.cell, found)
    try:
        content = read_cell(path, samples=False)
        return _run_of_cell(content, folder, path, row)
    except (PruneError, KeyError, TypeError, AttributeError) as error:
        message = str(error) if isinstance(error, PruneError) else f"{path}: not as expected: {error!r}"
        found.problems.append(Problem("damaged cells", message))
        return "damaged"


def _why_absent(folder: Path, cell: str, found: Collection) -> str:
    if not failure_path(folder, cell).exists():
        return "not computed"
    try:
        failure = read_failure(folder, cell)
    except PruneError as error:
        found.problems.append(Problem("damaged cells", str(error)))
        return "failed: the record of why is damaged"
    return f"failed: {failure['error']}: {failure['message']}"


def _run_of_cell(content: dict[str, Any], folder: Path, path: Path, row: Row) -> Run:
    identity, pruning = content["cell"]["identity"], content.get("pruning") or {}
    config = content.get("config") or {}
    model = identity.get("model") or {}
    fields = task_fields(content, row.task)
    fields["task_config"] = identity.get("task_config_hash")
    fields["num_documents"] = fields["num_documents"] or content["cell"]["samples"].get("num_documents")
    return Run(
        **fields,
        source=folder,
        path=path,
        **identified_cell(content, model, identity, pruning),
        variant=row.variant,
        fewshot_seed=row.fewshot_seed,
        limit=identity.get("limit"),
        dtype=pruning.get("dtype") or identity.get("dtype"),
        scorer=identity.get("scorer"),
        lm_eval=identity.get("lm_eval"),
        date=float(content.get("date") or 0),
        cost=cost_of(pruning, config),
        samples=path if (content["cell"].get("samples") or {}).get("file") else None,
        mask=mask_text(pruning),
        settings=config,
        versions=versions_of(content, pruning),
    )


def _as_row(run: Run, row: Row) -> Run:
    """The run of a shared cell under the row's own name."""
    if run.variant == row.variant and run.fewshot_seed == row.fewshot_seed:
        return run
    return replace(run, variant=row.variant, fewshot_seed=row.fewshot_seed)


def _add_importance(paths: Iterable[Path], found: Collection) -> None:
    for path in paths:
        try:
            found.importance.append((path, ImportanceScores.load(path)))
        except PruneError as error:
            found.problems.append(Problem("unreadable files", str(error)))


def _is_results(content: dict[str, Any]) -> bool:
    return isinstance(content.get("results"), dict) and isinstance(content.get("configs"), dict)
