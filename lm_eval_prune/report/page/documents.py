"""Flipped documents for the page: within it, or for large boards as files beside it, one a row."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval_prune.file_names import numbered, slug
from lm_eval_prune.files import write_bytes
from lm_eval_prune.report.board import Board
from lm_eval_prune.report.documents import Answered, Flipped, Key, answers_of, flipped_documents, target_place
from lm_eval_prune.report.page.packing import packed
from lm_eval_prune.report.page.rows import row_id
from lm_eval_prune.report.page.templates import joined_styles, policy, template

__all__ = ["DOCUMENTS_FOLDER", "MOST_CHARACTERS", "Documents", "documents_of", "write_documents"]

MOST_SHOWN = 10
"""Of a row on a task."""
MOST_CHARACTERS = 1_500_000
"""Of documents within the page; more stand beside it."""
DOCUMENTS_FOLDER = "documents"


class Documents(NamedTuple):
    """What rows and their dense models answer differently."""

    texts: list[dict[str, Any]]
    """What was asked and what the dense model answered, each document once."""
    rows: dict[str, list[dict[str, Any]]]
    """Row -> its tasks: column, numbers of documents lost and gained, and the first of them."""

    def packed(self) -> str:
        return packed({"texts": self.texts, "rows": self.rows})


def documents_of(board: Board) -> Documents:
    """The flipped documents of every row whose samples are at hand; samples are read again for them."""
    flips = flipped_documents(board, MOST_SHOWN)
    wanted: dict[Path, set[Key]] = defaultdict(set)
    for tasks in flips.values():
        for flip in (flip for task in tasks for flip in task.first):
            for run in (flip.run, flip.dense_run):
                if run.samples is not None:
                    wanted[run.samples].add(flip.key)
    answers = answers_of(wanted)
    texts: dict[tuple[Path | None, Key], dict[str, Any]] = {}
    places: dict[tuple[Path | None, Key], int] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for place, tasks in flips.items():
        rows[row_id(board.entries[place])] = [
            {
                "column": str(task.column),
                "lost": task.lost,
                "gained": task.gained,
                "shown": [_shown(flip, answers, texts, places, task.column.higher_is_better) for flip in task.first],
            }
            for task in tasks
        ]
    return Documents(list(texts.values()), rows)


def write_documents(folder: Path, board: Board, documents: Documents) -> tuple[str, list[Path]]:
    """Write a file for each row into a folder beside the page: (the page's data that names them, the files)."""
    entries = {row_id(entry): entry for entry in board.entries if row_id(entry) in documents.rows}
    names = numbered(slug(f"{entry.num_fewshot}-shot {entry.label}") for entry in entries.values())
    files, written = {}, []
    for (row, entry), name in zip(entries.items(), names, strict=True):
        path = folder / DOCUMENTS_FOLDER / f"{name}.html"
        page = template("documents.html").render(
            policy=policy([]), css=joined_styles(), entry=entry, tasks=documents.rows[row], texts=documents.texts
        )
        write_bytes(path, page.encode(errors="backslashreplace"))
        written.append(path)
        files[row] = {
            "file": f"{DOCUMENTS_FOLDER}/{name}.html",
            "lost": sum(task["lost"] for task in documents.rows[row]),
            "gained": sum(task["gained"] for task in documents.rows[row]),
        }
    return packed({"files": files}), written


def _shown(
    flip: Flipped,
    answers: dict[tuple[Path, Key], Answered],
    texts: dict[tuple[Path | None, Key], dict[str, Any]],
    places: dict[tuple[Path | None, Key], int],
    higher_is_better: bool,
) -> dict[str, Any]:
    own = answers.get((flip.run.samples, flip.key), Answered()) if flip.run.samples else Answered()
    name = (flip.dense_run.samples, flip.key)
    if name not in texts:
        dense = answers.get((flip.dense_run.samples, flip.key), Answered()) if flip.dense_run.samples else Answered()
        asked = dense if dense.prompt else own  # both were asked the same
        texts[name] = {
            **asdict(asked),
            "answers": dense.answers,
            "right": target_place(asked.target, asked.choices or [""] * len(dense.answers)),
        }
        places[name] = len(places)
    return {
        "text": places[name],
        "document": flip.doc_id,
        "seed": flip.run.variant.seed,
        "answers": own.answers,
        "score": flip.score,
        "dense": flip.dense_score,
        "gained": (flip.score > flip.dense_score) == higher_is_better,
    }
