"""The documents that a row and the dense model answer differently, with what was asked and what both answered.

Outcomes say which documents these are; the samples are read again for the first of each task alone.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes that of the standard library from Python 3.12 on

from lm_eval_prune.errors import PruneError
from lm_eval_prune.questions import (
    LONGEST_CHOICE,
    LONGEST_PROMPT,
    MOST_CHOICES,
    question_of,
    shortened_end,
    shortened_start,
)
from lm_eval_prune.report.board import Board, Column, Entry
from lm_eval_prune.report.outcomes import pair
from lm_eval_prune.report.runs import Run
from lm_eval_prune.report.sample_files import lines_of
from lm_eval_prune.text import printable

__all__ = ["Answered", "Asked", "Flipped", "TaskFlips", "flipped_documents"]

Key = tuple[str, str]
"""Hashes of a document and its prompt."""


class _Line(TypedDict, total=False):
    """What is read of a sample; all but the hashes is only shown, and left out where it is anything else."""

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore")  # type: ignore[misc]

    doc_hash: str | None
    prompt_hash: str | None
    filter: str
    target: Any
    arguments: Any
    prompt: Any
    choices: Any
    filtered_resps: Any


LINE = TypeAdapter(_Line)


@dataclass
class Asked:
    """A document, as it was asked."""

    prompt: str = ""
    choices: list[str] = field(default_factory=list)
    target: str = ""
    """The right answer, or its number among the choices; empty where it is not known."""


@dataclass
class Answered(Asked):
    """A line of a run's samples."""

    answers: list[float | str] = field(default_factory=list)
    """A log-likelihood for each choice, or what was written."""


class Flipped(NamedTuple):
    """A document that a run and its dense run answer differently."""

    doc_id: int
    key: Key
    run: Run
    dense_run: Run
    score: float
    dense_score: float


class TaskFlips(NamedTuple):
    """A row's flipped documents on a column."""

    column: Column
    lost: int
    gained: int
    first: list[Flipped]
    """Those with the lowest numbers, some lost and some gained."""


def flipped_documents(board: Board, most: int) -> dict[int, list[TaskFlips]]:
    """Row's place on the board -> its columns with flipped documents, at most `most` of which are named."""
    found: dict[int, list[TaskFlips]] = {}
    for place, entry in enumerate(board.entries):
        for column in board.columns:
            flips = list(_flips(board, entry, column))
            if flips:
                better = [(flip.score > flip.dense_score) == column.higher_is_better for flip in flips]
                lost = [flip for flip, gain in zip(flips, better, strict=True) if not gain]
                gained = [flip for flip, gain in zip(flips, better, strict=True) if gain]
                share = max(most - min(len(gained), most // 2), most // 2)
                named = sorted([*lost[:share], *gained[: most - min(len(lost), share)]], key=lambda flip: flip.doc_id)
                found.setdefault(place, []).append(TaskFlips(column, len(lost), len(gained), named))
    return found


def answers_of(wanted: Mapping[Path, Iterable[Key]]) -> dict[tuple[Path, Key], Answered]:
    """What sample files say of the documents that are wanted of them; damaged files say nothing."""
    found: dict[tuple[Path, Key], Answered] = {}
    for path, keys in wanted.items():
        left = set(keys)
        with contextlib.suppress(PruneError), contextlib.closing(lines_of(path)) as lines:
            for text in lines:
                if not left:
                    break
                with contextlib.suppress(ValidationError):
                    line = LINE.validate_json(text)
                    key = (line.get("doc_hash") or "", line.get("prompt_hash") or "")
                    if key in left:
                        left.discard(key)
                        found[path, key] = _answered(line)
    return found


def _flips(board: Board, entry: Entry, column: Column) -> Iterable[Flipped]:
    """In order of the documents' numbers."""
    for run in entry.runs:
        dense = entry.against.get(column, ())
        if run.task != column.task or column.metric not in run.values or not dense:
            continue
        other = next((one for one in dense if one.fewshot_seed == run.fewshot_seed), dense[0])
        mine, theirs = board.outcomes(run, column.metric), board.outcomes(other, column.metric)
        pairs = pair(mine, theirs, column.metric) if mine is not None and theirs is not None else None
        if pairs is None or run is other:
            continue
        places = np.flatnonzero(pairs.first != pairs.second)
        for place in places[np.argsort(pairs.doc_ids[places], kind="stable")]:
            document = pairs.documents[place]
            scores = float(pairs.first[place]), float(pairs.second[place])
            yield Flipped(int(pairs.doc_ids[place]), (document.document, document.prompt), run, other, *scores)


def _answered(line: _Line) -> Answered:
    asked = question_of(line.get("arguments"))
    prompt = asked.prompt if asked else line.get("prompt")
    choices = asked.choices if asked else line.get("choices")
    choices = [one for one in choices if isinstance(one, str)] if isinstance(choices, list) else []
    target = line.get("target")
    if type(target) is int and abs(target) < MOST_CHOICES:
        target = str(target)
    return Answered(
        prompt=_text(shortened_start(prompt, LONGEST_PROMPT)) if isinstance(prompt, str) else "",
        choices=[_text(shortened_end(choice, LONGEST_CHOICE)) for choice in choices],
        target=_text(shortened_end(target, LONGEST_CHOICE)) if isinstance(target, str) else "",
        answers=_answers(line.get("filtered_resps")),
    )


def _answers(found: Any) -> list[float | str]:
    """Of lists such as `[[-1.5, false], [-0.2, true]]` or `["some text"]`; empty for anything else."""
    answers: list[float | str] = []
    for one in found if isinstance(found, list) else []:
        value = one[0] if isinstance(one, list) and one else one
        if isinstance(value, float) and math.isfinite(value):
            answers.append(round(value, 4))
        elif isinstance(value, str):
            answers.append(_text(shortened_end(value, LONGEST_CHOICE)))
        else:
            return []
    return answers


def _text(text: str) -> str:
    """With its lines, and without what could turn text round or hide in it."""
    return "\n".join(printable(line) for line in text.split("\n"))


def target_place(target: str, choices: Sequence[str]) -> int | None:
    """The right choice's place, where the target is one of them or its number."""
    stripped = [choice.strip() for choice in choices]
    if target.strip() in stripped:
        return stripped.index(target.strip())
    return int(target) if re.fullmatch("[0-9]{1,2}", target) and int(target) < len(choices) else None
