"""Files and folders -> runs, what is missing, and what kept a file from being read as expected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from lm_eval_prune.errors import ArgumentError, FileFormatError, PruneError
from lm_eval_prune.files import files_below, read_json
from lm_eval_prune.importance.files import FORMAT as IMPORTANCE_FORMAT
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.checks import listed
from lm_eval_prune.report.directions import with_directions
from lm_eval_prune.report.harness_files import (
    cost_of,
    is_results,
    mask_text,
    results_file,
    runs_of_results,
    task_fields,
    versions_of,
)
from lm_eval_prune.report.identities import identified_cell
from lm_eval_prune.report.looks import at_common_looks
from lm_eval_prune.report.other_tools import read_log, translated
from lm_eval_prune.report.runs import Missing, Problem, Run, Sequential
from lm_eval_prune.report.schema import PruningBlock
from lm_eval_prune.sweep.folder import (
    cell_path,
    failure_path,
    is_sweep_folder,
    plan_paths,
    read_cell,
    read_failure,
    read_plan,
)
from lm_eval_prune.sweep.schema import CellFile, Row
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
    """The plans of sweep folders: where each lies, and the settings of its grid."""


def read_collection(paths: Sequence[str | os.PathLike[str]]) -> Collection:
    """Read sweep folders, folders with results files at any depth, and results files.

    What cannot be read as what it should be is left out, and a problem. Where nothing is left, raises FileFormatError
    for a file that was named outright, ArgumentError otherwise.
    """
    found = Collection()
    for path in map(Path, paths):
        if path.is_dir():
            _read_folder(path, found)
        else:
            _read_file(path, found, named=True)
    if not found.runs:
        _raise_nothing_evaluated(paths, found.problems)
    found.runs, differing = with_directions(found.runs)
    found.problems += differing
    return found


def _raise_nothing_evaluated(paths: Sequence[object], problems: Sequence[Problem]) -> NoReturn:
    first = problems[0].message if problems else ""
    if len(paths) == 1 and first.startswith(f"{paths[0]}:"):
        raise FileFormatError(first)
    named = ", ".join(map(str, paths))
    expected = "expected sweep folders or results files of the harness"
    raise ArgumentError(f"{named}: nothing evaluated; {expected}" + (f"; {first}" if first else ""))


def _read_folder(folder: Path, found: Collection) -> None:
    paths = files_below(folder, ".json") + files_below(folder, ".eval")
    sweeps = [folder] if is_sweep_folder(folder) else []
    plans = {path.parents[1] for path in paths if path.parent.name == "plans"} - {folder, folder.parent}
    sweeps += sorted(filter(is_sweep_folder, plans))
    for sweep in sweeps:
        _read_sweep(sweep, found)
    for path in paths:
        if any(path.is_relative_to(sweep) for sweep in sweeps) or path.name.startswith("."):
            continue
        _read_file(path, found)


def _read_file(path: Path, found: Collection, *, named: bool = False) -> None:
    """Add what is in a JSON file. One that was `named` outright must be results, others may be anything."""
    try:
        is_log = path.suffix == ".eval"
        content = read_log(path) if is_log else read_json(path, allow_nan=True, allow_halves=True)
        if (others := translated(content, path)) is not None:
            for other in others:
                runs, problems = runs_of_results(other.content, path)
                found.runs += [replace(run, samples=other.samples.get(run.task)) for run in runs]
                found.problems += problems
        elif is_results(content):
            runs, problems = runs_of_results(content, path)
            found.runs += runs
            found.problems += problems
        elif content.get("format") == IMPORTANCE_FORMAT and not named:
            _add_importance([path], found)
        elif named or ("results" in content and "format" not in content) or path.name.startswith("results_"):
            raise FileFormatError(
                f'{path}: no results of the harness: "results" with "configs" (or "config") is missing'
            )
    except PruneError as error:
        found.problems.append(Problem("unreadable files", str(error)))


def _read_sweep(folder: Path, found: Collection) -> None:
    read: dict[str, Run | str] = {}
    before = len(found.runs)
    for row in _rows(folder, found):
        variant = row.variant._replace(ranking=printable(row.variant.ranking))
        row = row._replace(variant=variant, donor=printable(row.donor))
        if row.cell not in read:
            read[row.cell] = _cell(folder, row, found)
        cell = read[row.cell]
        if isinstance(cell, str):
            found.missing.append(Missing(row.variant, printable(row.task), row.num_fewshot, row.fewshot_seed, cell))
        else:
            found.runs.append(_as_row(cell, row))
    found.runs[before:] = at_common_looks(found.runs[before:])
    if not (folder / "importance").is_symlink():
        _add_importance(files_below(folder / "importance", ".json"), found)


def _rows(folder: Path, found: Collection) -> list[Row]:
    """The rows of all plans that can be read, equal ones once."""
    rows: dict[Row, None] = {}
    for path in plan_paths(folder):
        try:
            plan = read_plan(path)
        except PruneError as error:
            found.problems.append(Problem("unreadable files", str(error)))
            continue
        found.plans.append((path, plan.config))
        rows |= dict.fromkeys(plan.rows)
    return list(rows)


def _cell(folder: Path, row: Row, found: Collection) -> Run | str:
    """The cell that answers `row`, or why there is none."""
    path = cell_path(folder, row.cell)
    if not path.exists():
        return _why_absent(folder, row.cell, found)
    try:
        return _run_of_cell(read_cell(path, samples=False), folder, path, row, found)
    except PruneError as error:
        found.problems.append(Problem("damaged cells", str(error)))
        return "damaged"


def _why_absent(folder: Path, cell: str, found: Collection) -> str:
    if not failure_path(folder, cell).exists():
        return "not computed"
    try:
        failure = read_failure(folder, cell)
    except PruneError as error:
        found.problems.append(Problem("damaged cells", str(error)))
        return "failed: the record of why is damaged"
    return f"failed: {failure.error}: {failure.message}"


def _run_of_cell(content: dict[str, Any], folder: Path, path: Path, row: Row, found: Collection) -> Run:
    """Raises FileFormatError where what the cell says cannot be."""
    file = results_file(content, path)
    block = CellFile.model_validate(content).cell
    try:
        fields, left_out = task_fields(file, row.task)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from None
    if left_out:
        found.problems.append(Problem("results that cannot be", f"{path}: left out: {listed(left_out)}"))
    if not fields["values"]:
        raise FileFormatError(f"{path}: no metric of {printable(row.task)} is a number")
    identity, pruning = block.identity, file.pruning or PruningBlock()
    model = identity.model or {}
    fields["task_config"] = identity.task_config_hash
    fields["num_documents"] = fields["num_documents"] or block.samples.num_documents
    return Run(
        **fields,
        source=folder,
        path=path,
        **identified_cell(content, model, content["cell"]["identity"], content.get("pruning") or {}),
        variant=row.variant,
        fewshot_seed=row.fewshot_seed,
        donor=row.donor,
        limit=identity.limit,
        dtype=pruning.dtype or identity.dtype,
        scorer=identity.scorer,
        lm_eval=identity.lm_eval,
        date=file.date or 0.0,
        cost=cost_of(file),
        samples=path,
        mask=mask_text(pruning.mask),
        sequential=None
        if (decided := block.decide) is None
        else Sequential(
            decided.look, decided.z, decided.factor, decided.documents, decided.planned, decided.mode, decided.margin
        ),
        settings=content.get("config") or {},
        versions=versions_of(file),
    )


def _as_row(run: Run, row: Row) -> Run:
    """The run of a shared cell under the row's own name."""
    if (run.variant, run.fewshot_seed, run.donor) == (row.variant, row.fewshot_seed, row.donor):
        return run
    return replace(run, variant=row.variant, fewshot_seed=row.fewshot_seed, donor=row.donor)


def _add_importance(paths: Iterable[Path], found: Collection) -> None:
    for path in paths:
        try:
            found.importance.append((path, ImportanceScores.load(path)))
        except PruneError as error:
            found.problems.append(Problem("unreadable files", str(error)))
