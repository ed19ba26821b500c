"""Outcomes by document as files have them: the harness's `samples_*.jsonl`, and those of a sweep's cells.

Releases from 0.4.6 on name the metrics and the filter of a line; from 0.4.3 on a metric stands among the line's other
values; before that documents have no hashes, and are not paired.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.files import opened
from lm_eval_prune.json_lines import bounded_lines
from lm_eval_prune.report.schema import fault_of
from lm_eval_prune.sweep.folder import sample_lines
from lm_eval_prune.units import unit_of

__all__ = ["Columns", "read_columns"]

NO_METRICS = {"doc", "target", "arguments", "resps", "filtered_resps", "target_hash"}
"""What a line holds beside `SampleLine`'s own fields and the metrics."""


MOST_METRICS = 1000
"""Of a file: each takes memory on every line."""


class SampleLine(BaseModel):
    """One document's outcome."""

    model_config = ConfigDict(strict=True, extra="allow")

    doc_id: int | None = None
    doc_hash: str | None = None
    prompt_hash: str | None = None
    filter: str = "none"
    unit: str | None = None
    """What a sweep says that the document was drawn with."""
    metrics: list[str] | None = None
    """Their names; the values stand under these."""

    def value(self, name: str) -> float | None:
        """None where the line has no number of that name."""
        found = (self.model_extra or {}).get(name)
        with contextlib.suppress(OverflowError):
            return float(found) if isinstance(found, int | float) else None
        return None

    @property
    def named(self) -> Iterable[str]:
        """Its metrics; where it does not say, all that are numbers."""
        if self.metrics is not None:
            return self.metrics
        extra = self.model_extra or {}
        return [name for name, value in extra.items() if name not in NO_METRICS and isinstance(value, int | float)]


class Columns(NamedTuple):
    """The lines of a sample file, a list a field."""

    doc_hash: list[str]
    prompt_hash: list[str]
    doc_id: list[int]
    filter: list[str]
    unit: list[str | None]
    """What the document was drawn with, such as its passage; None where it is not known."""
    metrics: dict[str, list[float | None]]
    """Name -> values; None where a line has none that is a number."""


def read_columns(path: Path, unit_field: str = "") -> Columns | None:
    """The samples of a sweep's cell (`.json`) or of the harness (`.jsonl`).

    unit_field: the field of the documents that names their unit (`units.py`); each is its own, if empty.

    None where lines have no hashes, as in files of old releases of the harness. Raises FileFormatError.
    """
    columns = Columns([], [], [], [], [], {})
    with contextlib.closing(sample_lines(path) if path.suffix == ".json" else _lines(path)) as lines:
        for number, line in enumerate(lines):
            sample = _sample(line, f"{path}: line {number + 1}")
            if sample.doc_hash is None or sample.prompt_hash is None or sample.doc_id is None:
                return None
            columns.doc_hash.append(sample.doc_hash)
            columns.prompt_hash.append(sample.prompt_hash)
            columns.doc_id.append(sample.doc_id)
            columns.filter.append(sample.filter)
            columns.unit.append(_unit(sample, unit_field))
            for name in islice(sample.named, MOST_METRICS + 1):
                columns.metrics.setdefault(name, [None] * number).append(sample.value(name))
            if len(columns.metrics) > MOST_METRICS:
                raise FileFormatError(f"{path}: line {number + 1}: more than {MOST_METRICS:,} metrics; not read")
            for values in columns.metrics.values():
                if len(values) <= number:
                    values.append(None)
    return columns if columns.doc_id else None


def _unit(sample: SampleLine, unit_field: str) -> str | None:
    """From the document where the file has it, else as the sweep wrote it."""
    if not unit_field:
        return None
    found = unit_of((sample.model_extra or {}).get("doc"), unit_field)
    return sample.unit if found is None else found


def _sample(line: bytes, where: str) -> SampleLine:
    try:
        return SampleLine.model_validate_json(line)
    except ValidationError as error:
        raise FileFormatError(f"{where}: {fault_of(error)}") from None


def _lines(path: Path) -> Generator[bytes, None, None]:
    with opened(path, "JSON lines") as file:
        yield from bounded_lines(file, path)
