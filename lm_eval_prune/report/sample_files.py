"""Outcomes by document as files have them: the harness's `samples_*.jsonl`, and those of a sweep's cells.

Releases from 0.4.6 on name the metrics and the filter of a line; from 0.4.3 on a metric stands among the line's other
values; before that documents have no hashes, and are not paired.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes that of the standard library from Python 3.12 on

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.files import opened
from lm_eval_prune.json_lines import bounded_lines
from lm_eval_prune.report.other_tools import document_lines
from lm_eval_prune.report.schema import fault_of
from lm_eval_prune.sweep.folder import sample_lines
from lm_eval_prune.units import unit_of

__all__ = ["Columns", "lines_of", "read_columns"]

MOST_METRICS = 1000
"""Of a file: each takes memory on every line."""
NO_METRICS = {"doc", "target", "arguments", "resps", "filtered_resps", "target_hash"}
"""What a line holds beside `SampleLine`'s own fields and the metrics."""


class SampleLine(TypedDict, total=False):
    """One document's outcome, a dict: files hold hundreds of thousands of them."""

    __pydantic_config__ = ConfigDict(strict=True, extra="allow")  # type: ignore[misc]

    doc_id: int | None
    doc_hash: str | None
    prompt_hash: str | None
    filter: str
    unit: str | None
    """What a sweep says that the document was drawn with."""
    look: int | None
    """With which look of a deciding sweep it came."""
    metrics: list[str] | None
    """Their names; the values stand under these."""


FIELDS = set(SampleLine.__annotations__)
SCHEMA = TypeAdapter(SampleLine)


class Columns(NamedTuple):
    """The lines of a sample file, a list a field."""

    doc_hash: list[str]
    prompt_hash: list[str]
    doc_id: list[int]
    filter: list[str]
    unit: list[str | None]
    """What the document was drawn with, such as its passage; None where it is not known."""
    look: list[int]
    """With which look of a deciding sweep the document came; 0 elsewhere."""
    metrics: dict[str, list[float | None]]
    """Name -> values; None where a line has none that is a number."""

    def until(self, look: int) -> Columns:
        """The lines of documents that had come by a look."""
        kept = [place for place, own in enumerate(self.look) if own <= look]
        return Columns(
            doc_hash=[self.doc_hash[place] for place in kept],
            prompt_hash=[self.prompt_hash[place] for place in kept],
            doc_id=[self.doc_id[place] for place in kept],
            filter=[self.filter[place] for place in kept],
            unit=[self.unit[place] for place in kept],
            look=[self.look[place] for place in kept],
            metrics={name: [values[place] for place in kept] for name, values in self.metrics.items()},
        )


def read_columns(path: Path, unit_field: str = "") -> Columns | None:
    """The samples of a sweep's cell (`.json`) or of the harness (`.jsonl`).

    unit_field: the field of the documents that names their unit (`units.py`); each is its own, if empty.

    None where lines have no hashes, as in files of old releases of the harness. Raises FileFormatError.
    """
    columns = Columns([], [], [], [], [], [], {})
    with contextlib.closing(lines_of(path)) as lines:
        for number, text in enumerate(lines):
            try:
                line = SCHEMA.validate_json(text)
            except ValidationError as error:
                raise FileFormatError(f"{path}: line {number + 1}: {fault_of(error)}") from None
            doc_hash, prompt_hash, doc_id = line.get("doc_hash"), line.get("prompt_hash"), line.get("doc_id")
            if doc_hash is None or prompt_hash is None or doc_id is None:
                return None
            columns.doc_hash.append(doc_hash)
            columns.prompt_hash.append(prompt_hash)
            columns.doc_id.append(doc_id)
            columns.filter.append(line.get("filter", "none"))
            columns.unit.append(_unit(line, unit_field))
            columns.look.append(line.get("look") or 0)
            _add_metrics(columns.metrics, line, number)
            if len(columns.metrics) > MOST_METRICS:
                raise FileFormatError(f"{path}: line {number + 1}: more than {MOST_METRICS:,} metrics; not read")
    return columns if columns.doc_id else None


def _add_metrics(metrics: dict[str, list[float | None]], line: Mapping[str, object], number: int) -> None:
    """Add the values of line `number`, from 0: of the metrics that it names, or of all that are numbers."""
    named = line.get("metrics")
    if not isinstance(named, list):
        others = line.keys() - FIELDS - NO_METRICS
        named = [name for name in line if name in others and isinstance(line[name], int | float)]
    for name in islice(named, MOST_METRICS + 1):
        if name not in metrics:
            metrics[name] = [None] * number
        if len(metrics[name]) == number:  # else named twice
            metrics[name].append(None if name in FIELDS else _number(line.get(name)))
    for values in metrics.values():
        if len(values) <= number:
            values.append(None)


def _number(value: object) -> float | None:
    with contextlib.suppress(OverflowError):
        return float(value) if isinstance(value, int | float) else None
    return None


def _unit(line: Mapping[str, object], unit_field: str) -> str | None:
    """From the document where the file has it, else as the sweep wrote it."""
    if not unit_field:
        return None
    found, written = unit_of(line.get("doc"), unit_field), line.get("unit")
    return written if found is None and isinstance(written, str) else found


def lines_of(path: Path) -> Generator[bytes, None, None]:
    """The lines of a cell's samples (`.json`) or of the harness's (`.jsonl`). Raises FileFormatError."""
    if path.suffix == ".json":
        yield from sample_lines(path)
        return
    if path.suffix in (".parquet", ".eval"):
        yield from document_lines(path)
        return
    with opened(path, "JSON lines") as file:
        yield from bounded_lines(file, path)
