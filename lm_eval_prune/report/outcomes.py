"""Outcomes by document, and pairs of runs: joined on the harness's hashes of document and prompt, never on position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lm_eval_prune.errors import PruneError
from lm_eval_prune.report.harness_files import metric_name
from lm_eval_prune.report.runs import Problem, Run
from lm_eval_prune.report.sample_files import Columns, read_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OutcomeReader", "Outcomes", "Pairs", "pair"]


class Document(NamedTuple):
    """What names an evaluated document; equal documents of equal prompts are told apart by a count."""

    document: str
    """Hash of the document."""
    prompt: str
    """Hash of the prompt: of the few-shot examples too."""
    number: int = 0


@dataclass(frozen=True)
class Outcomes:
    """A run's metrics by document."""

    documents: tuple[Document, ...]
    """Sorted."""
    doc_ids: NDArray[np.int64]
    """The harness's numbers of the documents, to be read by people."""
    values: dict[str, NDArray[np.float64]]
    """Metric -> one value a document, in the order of `documents`."""
    units: tuple[str, ...] | None = None
    """What each document was drawn with, such as its passage; None where each was drawn by itself, or it is unknown."""


class Pairs(NamedTuple):
    """Two runs on the same documents with the same prompts."""

    documents: tuple[Document, ...]
    doc_ids: NDArray[np.int64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    units: tuple[str, ...] | None
    """As in the outcomes of either run."""


def pair(first: Outcomes, second: Outcomes, metric: str) -> Pairs | None:
    """What two runs have in common; None where no document with its prompt is in both, or one lacks the metric."""
    if metric not in first.values or metric not in second.values:
        return None
    if first.documents == second.documents:
        units = first.units or second.units
        return Pairs(first.documents, first.doc_ids, first.values[metric], second.values[metric], units)
    places = {document: place for place, document in enumerate(second.documents)}
    shared = [(mine, places[document]) for mine, document in enumerate(first.documents) if document in places]
    if not shared:
        return None
    ours, theirs = np.array(shared).T
    documents = tuple(first.documents[mine] for mine in ours)
    units = tuple(first.units[mine] for mine in ours) if first.units else None
    if units is None and second.units:
        units = tuple(second.units[place] for place in theirs)
    return Pairs(documents, first.doc_ids[ours], first.values[metric][ours], second.values[metric][theirs], units)


class OutcomeReader:
    """Reads outcomes, each file once; equal lists of documents are kept once."""

    def __init__(self, unit_fields: Mapping[str, str] | None = None) -> None:
        """`unit_fields`: task -> the field that names a document's unit, beside what the runs say."""
        self.problems: list[Problem] = []
        """Damaged files."""
        self._unit_fields = unit_fields or {}
        self._read: dict[tuple[Path, str, int | None], Outcomes | None] = {}
        self._documents: dict[tuple[Document, ...], tuple[Document, ...]] = {}

    def __call__(self, run: Run) -> Outcomes | None:
        """The outcomes of `run`; None where its file has none, or is damaged, which is then a problem."""
        if run.samples is None:
            return None
        key = (run.samples, run.task, run.until_look)
        if key not in self._read:
            self._read[key] = self._whole(run.samples, self.unit_field(run), run.until_look)
        return self._read[key]

    def unit_field(self, run: Run) -> str:
        """The field that names the units of the run's documents; empty where each is its own."""
        return self._unit_fields.get(run.task, run.unit_field)

    def _whole(self, path: Path, unit_field: str, until_look: int | None) -> Outcomes | None:
        try:
            columns = read_columns(path, unit_field)
            if columns is not None and until_look is not None:
                columns = columns.until(until_look)
            return self._outcomes(columns)
        except PruneError as error:
            self.problems.append(Problem("damaged samples", f"{error}; left out"))
            return None

    def _outcomes(self, columns: Columns | None) -> Outcomes | None:
        if columns is None or not columns.doc_id:
            return None
        places = list(zip(columns.doc_hash, columns.prompt_hash, columns.doc_id, strict=True))
        order = sorted(set(places))
        values = {}
        for filter_name in dict.fromkeys(columns.filter):
            rows = {place: row for row, place in enumerate(places) if columns.filter[row] == filter_name}
            if len(rows) < len(order):
                continue
            for name, found in columns.metrics.items():
                sorted_values = [found[rows[place]] for place in order]
                if None not in sorted_values:
                    values[metric_name(name, filter_name)] = np.array(sorted_values, dtype=float)
        documents = tuple(_numbered([(document, prompt) for document, prompt, _ in order]))
        documents = self._documents.setdefault(documents, documents)
        by_place = dict(zip(places, columns.unit, strict=True))
        units = tuple(by_place[place] or "" for place in order)
        return Outcomes(
            documents,
            np.array([doc_id for _, _, doc_id in order]),
            dict(sorted(values.items())),
            units if all(units) else None,
        )


def _numbered(names: Sequence[tuple[str, str]]) -> Iterable[Document]:
    if len(set(names)) == len(names):
        return (Document(document, prompt) for document, prompt in names)
    seen: Counter[tuple[str, str]] = Counter()
    numbered = []
    for document, prompt in names:
        numbered.append(Document(document, prompt, seen[document, prompt]))
        seen[document, prompt] += 1
    return numbered
