"""What lies in a sweep's folder, read and written. Imports neither torch nor lm_eval.

    setup.json                    the model that importance comes from, before there is a plan
    plans/<hash>.json             a grid that was described: its settings, and a row for each variant, task and shots
    cells/<id>.json               one cell: the harness's results JSON of one task, with `pruning` and `cell` blocks
    cells/<id>.samples.jsonl.gz   its outcomes by document, one JSON object a line
    failed/<id>.json              why a cell could not be computed
    importance/                   the importance files that rankings came from, and means for mean ablation
    claims/                       locks of cells being computed; empty when nothing runs
    corrupt/                      damaged cells, moved aside

A cell's JSON is written after its samples and names their SHA-256: where it is there and whole, the cell is.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.files import (
    TEMPORARY,
    digest,
    opened,
    plain_json,
    read_json,
    remove_temporaries,
    write_bytes,
    write_json,
)
from lm_eval_prune.json_lines import bounded_lines
from lm_eval_prune.strict_json import validated
from lm_eval_prune.sweep.schema import VERSION, CellFile, FailureFile, PlanFile, Row, SetupFile
from lm_eval_prune.text import without_halves

__all__ = [
    "cell_path",
    "failure_path",
    "is_cell_id",
    "is_sweep_folder",
    "move_aside",
    "plan_path",
    "plan_paths",
    "read_cell",
    "read_failure",
    "read_plan",
    "read_rows",
    "read_samples",
    "read_setup",
    "remove_failures",
    "remove_left_behind",
    "replace_rows",
    "require_own",
    "sample_lines",
    "setup_path",
    "write_cell",
    "write_failure",
    "write_plan",
    "write_setup",
]

PLAN_FORMAT, CELL_FORMAT = "lm-eval-prune-sweep", "lm-eval-prune-cell"


# -- plans --------------------------------------------------------------------------------------------------------


def is_sweep_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a sweep has written its plan there."""
    return bool(plan_paths(path))


def plan_paths(folder: str | os.PathLike[str]) -> list[Path]:
    return sorted(Path(folder, "plans").glob("[!.]*.json"))


def is_cell_id(name: str) -> bool:
    return re.fullmatch("[0-9a-f]{24}", name) is not None


def plan_path(folder: Path, config: Mapping[str, Any]) -> Path:
    return folder / "plans" / f"{digest(config)[:16]}.json"


def write_plan(folder: Path, config: Mapping[str, Any], fixed: Mapping[str, Any], rows: Sequence[Row]) -> Path:
    """Write the grid `config` with its rows; `fixed` is what all plans of a folder have in common."""
    path = plan_path(folder, config)
    listed = [{**row._asdict(), "variant": row.variant._asdict()} for row in rows]
    for row in listed:
        if not row["donor"]:  # most rows have none
            del row["donor"]
    write_json(
        path, {"format": PLAN_FORMAT, "version": VERSION, "config": dict(config), "fixed": dict(fixed), "rows": listed}
    )
    return path


def read_plan(path: Path) -> PlanFile:
    """The plan at `path`. Raises FileFormatError."""
    try:
        return validated(PlanFile, read_json(path), path)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; delete it, and the sweep's command writes it again") from None


def read_rows(folder: str | os.PathLike[str], *, deciding: bool = False) -> list[Row]:
    """The rows of all plans in `folder`, equal ones once; of `deciding` sweeps alone, or of all.

    Raises FileFormatError where there is no plan.
    """
    paths = plan_paths(folder)
    if not paths:
        raise FileFormatError(f"{folder}: no sweep; expected a folder that `lm-eval-prune sweep` wrote")
    plans = [read_plan(path) for path in paths]
    return list(dict.fromkeys(row for plan in plans if plan.config.get("decide") or not deciding for row in plan.rows))


def replace_rows(folder: Path, rows: Mapping[str, Row]) -> None:
    """Put each of `rows` where a plan has the row of that id, from a time when it could not be computed.

    Failures that are recorded under those ids go.
    """
    for path in plan_paths(folder):
        plan = read_plan(path)
        if any(row.cell in rows for row in plan.rows):
            now = list(dict.fromkeys(rows.get(row.cell, row) for row in plan.rows))
            write_plan(folder, plan.config, plan.fixed.model_dump(), now)
    remove_failures(folder, rows)


PARTS = ("plans", "cells", "failed", "importance", "claims", "corrupt", "setup.json")
"""Names in a sweep's folder."""
NOT_FILES = (".DS_Store", "lost+found")
"""What systems put into empty folders by themselves."""


def require_own(folder: Path) -> None:
    """Raise FileFormatError where `folder` is neither a sweep's nor empty, or holds a link in a place of ours."""
    try:
        names = {path.name for path in folder.iterdir()} if os.path.lexists(folder) else set()
        for name in names & set(PARTS):
            if (folder / name).is_symlink():
                raise FileFormatError(f"{folder / name}: a link; those in a sweep's folder are not followed; remove it")
    except OSError as error:
        raise FileFormatError(f"{folder}: cannot be read: {error.strerror or error}") from None
    if setup_path(folder).exists():  # looked for anew: another process may be starting
        read_setup(folder)  # says so where it is not ours
        return
    foreign = {name for name in names if not (name in NOT_FILES or name.startswith(".nfs") or name.endswith(TEMPORARY))}
    # A sweep that was stopped at once has left its claims.
    if foreign - {"claims"} and not any(map(_is_plan, plan_paths(folder))):
        raise FileFormatError(
            f"{folder}: neither empty nor a sweep's folder (it holds {min(foreign - {'claims'})!r}); give a new "
            "--output_path"
        )


def _is_plan(path: Path) -> bool:
    try:
        return read_json(path).get("format") == PLAN_FORMAT
    except FileFormatError:
        return False


def remove_left_behind(folder: Path) -> None:
    """Remove files that killed processes were writing."""
    for place in (folder, *(folder / name for name in PARTS)):
        if place.is_dir() and not place.is_symlink():
            remove_temporaries(place)


def setup_path(folder: Path) -> Path:
    return folder / "setup.json"


def write_setup(folder: Path, content: SetupFile) -> None:
    """Say what the folder is for, before there is a plan."""
    path = setup_path(folder)
    if not path.exists() or validated(SetupFile, read_json(path), path) != content:
        write_json(path, content.model_dump(exclude={"decide"} if content.decide is None else None))


def read_setup(folder: Path) -> SetupFile | None:
    """What `write_setup` wrote; None where nothing was. Raises FileFormatError."""
    path = setup_path(folder)
    return validated(SetupFile, read_json(path), path) if path.exists() else None


# -- cells --------------------------------------------------------------------------------------------------------


def cell_path(folder: str | os.PathLike[str], cell: str) -> Path:
    return Path(folder, "cells", f"{cell}.json")


def _samples_path(path: Path) -> Path:
    return path.with_suffix(".samples.jsonl.gz")


def write_cell(folder: Path, cell: str, results: Mapping[str, Any], samples: Iterable[Mapping[str, Any]]) -> Path:
    """Write a finished cell: the samples first, then `results`, whose `cell` block gains their name and hash.

    Raises FileFormatError where the folder cannot be written; then there is no cell.
    """
    path = cell_path(folder, cell)
    lines = [without_halves(json.dumps(sample, ensure_ascii=False, allow_nan=False)) for sample in samples]
    packed = gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0)
    record = {
        "file": _samples_path(path).name,
        "sha256": hashlib.sha256(packed).hexdigest(),
        "num_documents": len({json.loads(line)["doc_id"] for line in lines}),
    }
    block = {"format": CELL_FORMAT, "version": VERSION, **results["cell"], "samples": record}
    content = plain_json({**results, "cell": block})
    content["cell"]["sha256"] = digest(content)
    try:
        write_bytes(_samples_path(path), packed)
        write_json(path, content)
    except BaseException:  # a stop signal between the two as well
        with contextlib.suppress(OSError):
            if not path.exists():
                _samples_path(path).unlink(missing_ok=True)
        raise
    return path


def read_cell(path: Path, *, samples: bool = True) -> dict[str, Any]:
    """A cell's results JSON, checked against its own hash, and its samples' (if `samples`).

    Raises FileFormatError for a cell that is cut short, changed, or whose samples are.
    """
    content = read_json(path)
    named = validated(CellFile, content, path).cell.sha256
    unhashed = {key: value for key, value in content["cell"].items() if key != "sha256"}
    if named != digest({**content, "cell": unhashed}):
        raise FileFormatError(f"{path}: damaged: its content does not have the hash that it names")
    if samples:
        with _checked_samples(path, content["cell"]["samples"]["sha256"]):
            pass
    return content


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The outcomes by document of the cell at `path`, as in the harness's sample files. Raises FileFormatError."""
    return [json.loads(line) for line in sample_lines(path)]


def sample_lines(path: Path) -> Generator[bytes, None, None]:
    """The same as the JSON lines that they are, one after another. Raises FileFormatError."""
    content = read_cell(path, samples=False)
    with _checked_samples(path, content["cell"]["samples"]["sha256"]) as packed, gzip.GzipFile(fileobj=packed) as file:
        yield from bounded_lines(io.BufferedReader(file), _samples_path(path))


@contextlib.contextmanager
def _checked_samples(path: Path, sha256: str) -> Iterator[BinaryIO]:
    """The packed samples of the cell at `path`, open for reading. Raises FileFormatError where they are others."""
    samples = _samples_path(path)
    with opened(samples, "samples") as file:
        digest = hashlib.sha256()
        while block := file.read(2**22):
            digest.update(block)
        if digest.hexdigest() != sha256:
            raise FileFormatError(f"{samples}: damaged: not the samples that {path.name} names")
        file.seek(0)
        yield file


def move_aside(folder: Path, cell: str) -> Path:
    """Move a damaged cell's files to `corrupt/`, under names that are free; returns where its JSON went."""
    path = cell_path(folder, cell)
    return _move_to_corrupt(folder, [path, _samples_path(path)])


def _move_to_corrupt(folder: Path, paths: Sequence[Path]) -> Path:
    """Returns where the first of them went."""
    target = folder / "corrupt"
    target.mkdir(parents=True, exist_ok=True)
    names = [path.name.partition(".") for path in paths]
    number = 0
    while any(os.path.lexists(target / f"{stem}.{number}.{ending}") for stem, _, ending in names):
        number += 1
    moved = [target / f"{stem}.{number}.{ending}" for stem, _, ending in names]
    for source, goal in zip(paths, moved, strict=True):
        if os.path.lexists(source):
            source.replace(goal)
    return moved[0]


# -- failures -----------------------------------------------------------------------------------------------------


def failure_path(folder: str | os.PathLike[str], cell: str) -> Path:
    return Path(folder, "failed", f"{cell}.json")


def write_failure(folder: Path, row: Row, kind: str, message: str) -> None:
    """Record why the cell of `row` could not be computed: the error's class and its message."""
    failure = FailureFile(
        id=row.cell, variant=str(row.variant), task=row.task, num_fewshot=row.num_fewshot, error=kind, message=message
    )
    write_json(failure_path(folder, row.cell), plain_json(failure.model_dump()))


def remove_failures(folder: Path, cells: Iterable[str] | None = None) -> None:
    """Forget the failures of `cells`, or all: a file that does not say that it is one stays, or is moved aside."""
    if (folder / "failed").is_symlink():
        return
    for path in (folder / "failed").glob("*.json"):
        if not is_cell_id(path.stem) or (cells is not None and path.stem not in cells):
            continue
        try:
            ours = read_failure(folder, path.stem).id == path.stem
        except FileFormatError:
            ours = False
        if ours:
            path.unlink(missing_ok=True)
        else:
            _move_to_corrupt(folder, [path])


def read_failure(folder: str | os.PathLike[str], cell: str) -> FailureFile:
    """The record of a failed cell. Raises FileFormatError."""
    path = failure_path(folder, cell)
    try:
        return validated(FailureFile, read_json(path), path)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; --retry_failed computes the cell again") from None
