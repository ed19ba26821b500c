"""A cell of a sweep's folder, or its plan, or the record of a failed cell, for `leaderboard` and `sweep status`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lm_eval_prune.errors import PruneError
from lm_eval_prune.files import digest
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.records import flat_records
from lm_eval_prune.report.tables import markdown
from lm_eval_prune.sweep.folder import cell_path, failure_path, plan_paths, read_rows, write_failure
from lm_eval_prune.sweep.results import Sweep
from tests.fuzz.readers import Target
from tests.sweep_folders import grid, sweep

KINDS = ("cell", "plan", "failure")


def prepare(folder: Path) -> Target:
    made = sweep(folder / "sweep", grid(heads=("0.5",)), ("piqa",), count=5)
    row = read_rows(made)[-1]
    write_failure(made, row._replace(cell="f" * 24), "ValueError", "a message")
    places = {"cell": cell_path(made, row.cell), "plan": plan_paths(made)[0], "failure": failure_path(made, "f" * 24)}
    good = [
        json.dumps({"kind": kind, "file": json.loads(place.read_text())}).encode() for kind, place in places.items()
    ]

    def read(data: bytes, own: Path) -> None:
        kind, spoilt = _spoilt(data)
        shutil.copytree(made, own / "sweep")
        (own / "sweep" / places[kind].relative_to(made)).write_bytes(spoilt)
        _look(own / "sweep")
        board = compare(read_collection([own / "sweep"]), BoardConfig(flips=True))
        flat_records(board)
        markdown(board)

    return Target(good, read)


def _spoilt(data: bytes) -> tuple[str, bytes]:
    """Which file it is for, and its bytes; a cell says its own hash, so that it is not refused for that alone."""
    try:
        content = json.loads(data)
        kind, file = content["kind"], content["file"]
        if kind == "cell":
            file["cell"].pop("sha256", None)
            file["cell"]["sha256"] = digest(file)
        return (kind if kind in KINDS else "plan"), json.dumps(file).encode(errors="surrogatepass")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return KINDS[len(data) % len(KINDS)], data


def _look(folder: Path) -> None:
    try:
        sweep = Sweep(folder)
        sweep.status()
        sweep.to_frame()
    except PruneError:
        pass
