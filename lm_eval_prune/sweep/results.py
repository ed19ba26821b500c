"""A sweep that was run, read back: one row a cell. Imports neither torch nor lm_eval."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import write_bytes
from lm_eval_prune.metric_names import metric_columns
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.claims import claimed, is_claimed
from lm_eval_prune.sweep.schema import Row
from lm_eval_prune.text import spreadsheet_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["METRICS", "Headline", "Status", "Sweep", "headline", "importance_at_work"]

METRICS = ("acc", "em", "exact_match", "f1")
"""The first that a task has is its headline."""


class Status(NamedTuple):
    """How far a sweep is, in cells."""

    done: int
    running: int
    failed: int
    missing: int
    """Neither done nor failed nor running."""
    failures: list[str]
    """A line a failed cell."""
    importance: list[str]
    """Importance that is being computed now; the cells that need it are in no plan yet."""


class Sweep:
    """The folder of a sweep. Raises FileFormatError where it is none."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.rows = disk.read_rows(self.folder)

    def __fspath__(self) -> str:
        """The folder, so that a sweep may stand wherever a path of results may."""
        return str(self.folder)

    def __repr__(self) -> str:
        return f"<Sweep {self.folder}: {len(self.rows)} rows>"

    @property
    def failed(self) -> list[str]:
        """Ids of cells that could not be computed."""
        cells = dict.fromkeys(row.cell for row in self.rows)
        return [cell for cell in cells if not self._there(cell) and disk.failure_path(self.folder, cell).exists()]

    def status(self) -> Status:
        cells = list(dict.fromkeys(row.cell for row in self.rows))
        growing = self._growing()
        done = [cell for cell in cells if self._there(cell) and cell not in growing]
        failed = self.failed
        settled = {*done, *failed}
        running = [cell for cell in cells if cell not in settled and is_claimed(self.folder, cell)]
        records = [disk.read_failure(self.folder, cell) for cell in failed]
        lines = [
            f"{found.variant} on {found.task}, {found.num_fewshot}-shot: {found.error}: {found.message}"
            for found in records
        ]
        missing = len(cells) - len(done) - len(failed) - len(running)
        return Status(len(done), len(running), len(failed), missing, lines, importance_at_work(self.folder))

    def _growing(self) -> set[str]:
        """Cells of a deciding sweep that are there, and need more documents."""
        from lm_eval_prune.sweep.decisions import Decisions  # which reads cells as this module does

        found = disk.read_setup(self.folder)
        if found is None or found.decide is None:
            return set()
        decisions = Decisions(self.folder, disk.read_rows(self.folder, deciding=True), found.decide)
        return {cell for cell, target in decisions.targets().items() if 0 <= decisions.look(cell) < target}

    def to_frame(self) -> pd.DataFrame:
        """One row for each variant, task, shots and draw; metrics (`acc`, `acc_stderr`) are columns.

        Cells that are not there have none. Those of a deciding sweep say so in `decide`, beside `documents`, `planned`
        and `verdict`.
        """
        import pandas as pd

        failed = set(self.failed)
        return pd.DataFrame([self._record(row, failed) for row in self.rows])

    def samples(self, cell: str) -> list[dict[str, Any]]:
        """Outcomes by document of the cell of this id. Raises FileFormatError where there is none."""
        return disk.read_samples(disk.cell_path(self.folder, cell))

    def export(self, path: Path) -> None:
        """Write `to_frame()` as Parquet or CSV, by the file's ending. Raises ArgumentError for another."""
        if path.suffix not in (".parquet", ".csv"):
            raise ArgumentError(f"{path}: expected a name that ends in .parquet or .csv")
        frame, buffer = self.to_frame(), io.BytesIO()
        if path.suffix == ".csv":
            texts = frame.select_dtypes(exclude="number").columns
            frame[texts] = frame[texts].map(spreadsheet_text)
            frame.rename(columns=spreadsheet_text).to_csv(buffer, index=False)
        else:
            frame.to_parquet(buffer, index=False)
        write_bytes(path, buffer.getvalue())

    def _there(self, cell: str) -> bool:
        return disk.cell_path(self.folder, cell).exists()

    def _record(self, row: Row, failed: set[str]) -> dict[str, Any]:
        record: dict[str, Any] = {**row.variant._asdict(), **row._asdict()}
        del record["variant"]
        path = disk.cell_path(self.folder, row.cell)
        record["status"] = "done" if path.exists() else ("failed" if row.cell in failed else "missing")
        if path.exists():
            content = disk.read_cell(path, samples=False)
            block = content["pruning"]
            record |= {key: block[key] for key in ("heads_pruned", "ffns_pruned", "num_parameters_left")}
            if decided := content["cell"].get("decide"):
                record |= {"decide": f"{decided['mode']}, margin {decided['margin']:g}"}
                record |= {key: decided[key] for key in ("documents", "planned", "verdict")}
            record |= metric_columns(record, content["results"].get(row.task, {}))
        return record


def importance_at_work(folder: Path) -> list[str]:
    """Importance that a living process computes for the sweep in `folder`, which may have no plan yet."""
    return [name.removeprefix("importance-") for name in claimed(folder, "importance-")]


class Headline(NamedTuple):
    """The metric that a line shows."""

    key: str
    """As results have it: the metric and its filter."""
    value: float

    @property
    def name(self) -> str:
        return self.key.split(",")[0]


def headline(results: dict[str, Any], task: str) -> Headline | None:
    """The metric that a line shows: `acc`, `em`, ..., else the first there is; None where no metric is a number."""
    scores = [
        Headline(key, value)
        for key, value in results["results"][task].items()
        if _is_number(value) and "," in key and "_stderr" not in key
    ]
    ranked = [found for name in METRICS for found in scores if found.name == name] + scores
    return ranked[0] if ranked else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
