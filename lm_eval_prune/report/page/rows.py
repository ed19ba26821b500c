"""A leaderboard's entries as the cells of the page's table. What is worded here is worded by `wording.py`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from lm_eval_prune.report.board import Average, Board, Cell, Column, Entry, Flip
from lm_eval_prune.report.records import arranged, searched
from lm_eval_prune.report.runs import OWN_SHOTS, shots_name
from lm_eval_prune.report.wording import (
    VERDICT_SIGNS,
    about_text,
    describe_difference,
    explain_difference,
    heads_and_ffns,
    percent,
    probability_text,
    value_text,
)
from lm_eval_prune.text import printable

__all__ = ["Heading", "Line", "Shown", "headings", "lines", "side_by_side_headings", "side_by_side_lines"]

LISTED = 6
"""Files named in an opened row."""
LONGEST_MASK = 400
"""Characters; longer ones stand at the page's end only."""
MOST_FLIPS = 50_000
"""Documents that flipped; more are left to flips.csv."""


class Heading(NamedTuple):
    """A column's head."""

    name: str
    """What it shows."""
    sort: str
    """The name that the command's `--sort` knows it by."""
    first: str = "asc"
    """`asc` or `desc`: the direction in which the best comes first."""
    kind: str = "number"
    """`number` or `text`."""
    note: str = ""
    """Said beside the name."""


class Shown(NamedTuple):
    """What a cell shows."""

    order: float | str | None
    """The unrounded value that it is sorted by; None where there is none."""
    text: str = ""
    below: str = ""
    """In small, after the text."""
    difference: str = ""
    p: str = ""
    verdict: str = ""
    explained: str = ""
    """The tooltip, and the line among the row's details."""


class Line(NamedTuple):
    """A row; `cells` follow the headings after rank, variant and shots."""

    entry: Entry
    text: str
    """What a text filter looks in."""
    cells: list[Shown]
    about: str = "[]"
    """JSON: (name, value) pairs that the opened row shows."""


def headings(board: Board) -> list[Heading]:
    """Of the columns after rank, shots and variant."""
    fixed = [Heading("heads pruned", "heads"), Heading("FFNs pruned", "ffns"), Heading("parameters left", "parameters")]
    if _knows_flops(board):
        fixed.append(Heading("FLOPs left", "flops"))
    fixed.append(Heading(board.average_name, "average", _first(board), note=_note(board, None)))
    return fixed + [
        Heading(
            str(column), str(column), "desc" if column.higher_is_better else "asc",
            note=_note(board, column),
        )
        for column in board.columns
    ]  # fmt: skip


def _note(board: Board, column: Column | None) -> str:
    about = board.about.get(column)
    lower = "lower is better" if column is not None and not column.higher_is_better else ""
    return "; ".join(part for part in (lower, about_text(about) if about else "") if part)


def lines(board: Board, *, sort: str = "rank") -> list[Line]:
    """A row an entry, all of them, in the order of `records.arranged`."""
    flips: dict[tuple[str, int], list[Flip]] = {}
    for flip in board.flips:
        for shots in (flip.num_fewshot, OWN_SHOTS):
            flips.setdefault((flip.label, shots), []).append(flip)
    entries = arranged(board, sort=sort)
    return [_line(board, entry, flips.get((entry.label, entry.num_fewshot), [])) for entry in entries]


def side_by_side_headings(board: Board) -> list[Heading]:
    return [Heading(shots_name(shots), str(shots), _first(board)) for shots in board.shots]


def side_by_side_lines(board: Board) -> list[Line]:
    """A row a variant: its average at each number of shots."""
    found: dict[str, dict[int, Entry]] = {}
    for entry in board.entries:
        found.setdefault(entry.label, {})[entry.num_fewshot] = entry
    made = []
    for by_shots in found.values():
        first = next(iter(by_shots.values()))
        text = " ".join(dict.fromkeys(searched(entry) for entry in by_shots.values()))
        cells = [_shown(by_shots[shots].average if shots in by_shots else None) for shots in board.shots]
        made.append(Line(first, text, cells))
    return made


def _line(board: Board, entry: Entry, flips: Sequence[Flip]) -> Line:
    heads, ffns = heads_and_ffns(entry)
    cost = entry.cost
    cells = [
        Shown(float(entry.prune_heads), heads, _counted(cost.heads_pruned, cost.heads_total)),
        Shown(float(entry.prune_ffns), ffns, _counted(cost.ffns_pruned, cost.ffns_total)),
        Shown(
            entry.parameters_left,
            percent(entry.parameters_left),
            "" if cost.parameters is None else f"{cost.parameters:,}",
        ),
        *([Shown(entry.flops_left, percent(entry.flops_left))] if _knows_flops(board) else []),
        _shown(entry.average),
        *(_shown(entry.cells.get(column)) for column in board.columns),
    ]
    about = [*_about(entry), *_flipped(board, flips)]
    return Line(entry, searched(entry), cells, json.dumps(about, ensure_ascii=False))


def _about(entry: Entry) -> list[tuple[str, str]]:
    """What a row is of."""
    masks = list(dict.fromkeys(run.mask for run in entry.runs if run.mask))
    alone = len(masks) == 1 and len(masks[0]) <= LONGEST_MASK
    sources = list(dict.fromkeys(printable(str(run.source)) for run in entry.runs))
    return [
        ("model", entry.model),
        ("harness model", entry.backend),
        ("ranking", entry.ranking),
        ("seeds", ", ".join(map(str, entry.seeds))),
        ("pruned", masks[0] if alone else f"{_masks(len(masks))}, at the end of the page" if masks else ""),
        ("files", f"{', '.join(sources[:LISTED])}{' and more' if len(sources) > LISTED else ''}"),
    ]


def _masks(number: int) -> str:
    return f"{number} mask" if number == 1 else f"{number} masks"


def _flipped(board: Board, flips: Sequence[Flip]) -> list[tuple[str, str]]:
    """The documents that dense and variant answer differently, by task; those that several seeds flip with how many."""
    if len(board.flips) > MOST_FLIPS:
        return [("flipped", f"{len(flips):,} answers, in flips.csv")] if flips else []
    texts = []
    for column in board.columns:
        lost, gained = Counter[int](), Counter[int]()
        for flip in flips:
            if (flip.task, flip.metric) == (column.task, column.metric):
                better = (flip.variant > flip.dense) == column.higher_is_better
                (gained if better else lost)[flip.doc_id] += 1
        parts = [f"{verb} {_documents(found)}" for verb, found in (("lost", lost), ("gained", gained)) if found]
        texts += [(f"{column} flipped", "documents " + "; ".join(parts))] if parts else []
    return texts


def _documents(found: Counter[int]) -> str:
    named = [f"{doc_id} ({count} seeds)" if count > 1 else str(doc_id) for doc_id, count in sorted(found.items())]
    return ", ".join(named)


def _shown(holder: Cell | Average | None) -> Shown:
    if holder is None:
        return Shown(None, "missing")
    value, _, error = value_text(holder).removesuffix(" over seeds").partition(" ")
    difference = describe_difference(holder.difference, holder.verdict).removesuffix(VERDICT_SIGNS[holder.verdict])
    explained = explain_difference(holder.difference, holder.verdict)
    return Shown(
        order=holder.value,
        text=value,
        below=error,
        difference=difference.rstrip(),
        p=probability_text(holder.difference),
        verdict=holder.verdict,
        explained=f"{value_text(holder)}; {explained}" if explained else value_text(holder),
    )


def _knows_flops(board: Board) -> bool:
    return any(entry.flops_left is not None for entry in board.entries)


def _counted(part: int | None, total: int | None) -> str:
    return "" if part is None or total is None else f"{part:,} of {total:,}"


def _first(board: Board) -> str:
    averaged: Sequence[bool] = [column.higher_is_better for column in board.columns]
    return "desc" if any(averaged) else "asc"
