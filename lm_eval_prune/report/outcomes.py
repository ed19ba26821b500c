"""Outcomes by document, and pairs of runs: joined on the harness's hashes of document and prompt, never on position."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.report.runs import Run, metric_name
from lm_eval_prune.sweep.folder import read_samples

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


class Pairs(NamedTuple):
    """Two runs on the same documents with the same prompts."""

    documents: tuple[Document, ...]
    doc_ids: NDArray[np.int64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]


def pair(first: Outcomes, second: Outcomes, metric: str) -> Pairs | None:
    """What two runs have in common; None where no document with its prompt is in both, or one lacks the metric."""
    if metric not in first.values or metric not in second.values:
        return None
    if first.documents == second.documents:
        return Pairs(first.documents, first.doc_ids, first.values[metric], second.values[metric])
    places = {document: place for place, document in enumerate(second.documents)}
    shared = [(mine, places[document]) for mine, document in enumerate(first.documents) if document in places]
    if not shared:
        return None
    ours, theirs = np.array(shared).T
    documents = tuple(first.documents[mine] for mine in ours)
    return Pairs(documents, first.doc_ids[ours], first.values[metric][ours], second.values[metric][theirs])


class OutcomeReader:
    """Reads outcomes, each file once; equal lists of documents are kept once."""

    def __init__(self) -> None:
        self._read: dict[tuple[Path, str], Outcomes | None] = {}
        self._documents: dict[tuple[Document, ...], tuple[Document, ...]] = {}

    def __call__(self, run: Run) -> Outcomes | None:
        """The outcomes of `run`; None where its file has none. Raises FileFormatError for a damaged one."""
        if run.samples is None:
            return None
        key = (run.samples, run.task)
        if key not in self._read:
            self._read[key] = self._outcomes(_samples(run.samples))
        return self._read[key]

    def _outcomes(self, samples: Sequence[dict[str, Any]]) -> Outcomes | None:
        rows: dict[tuple[str, str, int], dict[str, float]] = {}
        for sample in samples:
            try:
                place = (sample["doc_hash"], sample["prompt_hash"], int(sample["doc_id"]))
            except (KeyError, TypeError, ValueError):
                return None
            row = rows.setdefault(place, {})
            for name in sample.get("metrics", ()):
                value = sample.get(name)
                if isinstance(value, int | float):
                    row[metric_name(name, sample.get("filter", "none"))] = float(value)
        if not rows:
            return None
        order = sorted(rows)
        documents = tuple(_numbered((document, prompt) for document, prompt, _ in order))
        documents = self._documents.setdefault(documents, documents)
        metrics = set.intersection(*(set(row) for row in rows.values()))
        return Outcomes(
            documents,
            np.array([doc_id for _, _, doc_id in order]),
            {name: np.array([rows[place][name] for place in order]) for name in sorted(metrics)},
        )


def _numbered(names: Iterable[tuple[str, str]]) -> Iterable[Document]:
    seen: Counter[tuple[str, str]] = Counter()
    for document, prompt in names:
        yield Document(document, prompt, seen[document, prompt])
        seen[document, prompt] += 1


def _samples(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".json":
        return read_samples(path)
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path}: cannot be read as JSON lines: {error}") from None
