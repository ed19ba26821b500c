"""A leaderboard's entries as the rows of the page's table: what its scripts show, sort, filter and save.

What is worded here is worded by `wording.py`; the numbers are those of leaderboard.csv, by the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lm_eval_prune.report.board import Average, Board, Cell, Column, Entry
from lm_eval_prune.report.records import flat_records, searched
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.report.wording import (
    VERDICT_SIGNS,
    about_text,
    describe_difference,
    explain_difference,
    fixed,
    percent,
    probability_text,
    value_text,
)
from lm_eval_prune.text import LATEX_SIGNS, printable, spreadsheet_text

__all__ = ["Heading", "Shown", "left_names", "row_id", "table_data"]

LISTED = 6
"""Files named in an opened row."""


class Heading(NamedTuple):
    """A column of values: the average, or a task's metric."""

    id: str
    """The name that the command's `--sort` knows it by."""
    name: str
    """What it shows, and how its keys in leaderboard.csv begin."""
    first: str = "asc"
    """`asc` or `desc`: the direction in which the best comes first."""
    note: str = ""
    """Said beside the name."""


class Shown(NamedTuple):
    """What a cell shows."""

    order: float | None
    """The unrounded value that it is sorted by; None where there is none."""
    text: str = ""
    below: str = ""
    """In small, after the text."""
    difference: str = ""
    p: str = ""
    verdict: str = ""
    explained: str = ""
    """The line among the row's details."""


def row_id(entry: Entry) -> str:
    """Names a row in the page's address."""
    return f"{entry.num_fewshot}:{entry.label}"


def table_data(board: Board) -> dict[str, Any]:
    """The rows, in the board's order, as JSON values."""
    records = flat_records(board)
    columns = [Heading("average", board.average_name, _first(board), _note(board, None))]
    columns += [
        Heading(str(column), str(column), "desc" if column.higher_is_better else "asc", _note(board, column))
        for column in board.columns
    ]
    return {
        "columns": [column._asdict() for column in columns],
        "left": [{"id": name, "name": text} for name, text in left_names(board)],
        "shots": [{"id": shots, "name": shots_name(shots)} for shots in board.shots],
        "signs": VERDICT_SIGNS,
        "latex": LATEX_SIGNS,
        "chance": _chance_row(board),
        "rows": [_row(board, entry) for entry in board.entries],
        "keys": [spreadsheet_text(key) for key in records[0]] if records else [],
        "records": [[spreadsheet_text(value) for value in record.values()] for record in records],
    }


def _chance_row(board: Board) -> list[dict[str, Any] | None] | None:
    """The accuracy of guessing in each column; None where it is known of none."""
    found = [about.chance if (about := board.about.get(column)) else None for column in (None, *board.columns)]
    cells = [chance and Shown(chance.level, fixed(chance.level, 3), chance.by)._asdict() for chance in found]
    return cells if any(cells) else None


def _row(board: Board, entry: Entry) -> dict[str, Any]:
    counts = [cell.num_documents for cell in entry.cells.values() if cell.num_documents is not None]
    return {
        "id": row_id(entry),
        "label": entry.label,
        "model": entry.model,
        "ranking": entry.ranking,
        "shots": entry.num_fewshot,
        "rank": entry.rank,
        "dense": entry.is_dense,
        "search": searched(entry),
        "n": sum(counts) if counts else None,
        "left": {name: _left(entry, name)._asdict() for name, _ in left_names(board)},
        "cells": [
            _shown(holder)._asdict()
            for holder in (entry.average, *(entry.cells.get(column) for column in board.columns))
        ],
        "about": _about(entry),
    }


def _about(entry: Entry) -> list[tuple[str, str]]:
    """What a row is of."""
    sources = list(dict.fromkeys(printable(str(run.source)) for run in entry.runs))
    return [
        ("model", entry.model),
        ("harness model", entry.backend),
        ("ranking", entry.ranking),
        ("seeds", ", ".join(map(str, entry.seeds))),
        ("files", f"{', '.join(sources[:LISTED])}{' and more' if len(sources) > LISTED else ''}"),
    ]


def left_names(board: Board) -> list[tuple[str, str]]:
    """What is left of the model, where the board knows it: (as `--sort` calls it, in words)."""
    names = [("parameters", "parameters"), ("flops", "FLOPs"), ("heads", "heads"), ("ffns", "FFNs")]
    knows_flops = any(entry.flops_left is not None for entry in board.entries)
    return [(name, text) for name, text in names if name != "flops" or knows_flops]


def _left(entry: Entry, name: str) -> Shown:
    cost = entry.cost
    if name == "parameters":
        return _share(entry.parameters_left, cost.parameters, cost.parameters_total)
    if name == "flops":
        return _share(entry.flops_left, cost.flops, cost.flops_total)
    pruned, total, share = (
        (cost.heads_pruned, cost.heads_total, entry.prune_heads)
        if name == "heads"
        else (cost.ffns_pruned, cost.ffns_total, entry.prune_ffns)
    )
    return _share(1 - float(share), None if pruned is None or total is None else total - pruned, total)


def _share(share: float | None, part: int | None, total: int | None) -> Shown:
    counted = "" if part is None or total is None else f"{part:,} of {total:,}"
    return Shown(share, percent(share), explained=counted)


def _note(board: Board, column: Column | None) -> str:
    about = board.about.get(column)
    lower = "lower is better" if column is not None and not column.higher_is_better else ""
    return "; ".join(part for part in (lower, about_text(about._replace(chance=None)) if about else "") if part)


def _shown(holder: Cell | Average | None) -> Shown:
    if holder is None:
        return Shown(None, "missing")
    value, _, error = value_text(holder).removesuffix(" over seeds").partition(" ")
    difference = describe_difference(holder).removesuffix(VERDICT_SIGNS[holder.verdict])
    explained = explain_difference(holder)
    return Shown(
        order=holder.value,
        text=value,
        below=error,
        difference=difference.rstrip(),
        p=probability_text(holder.difference),
        verdict=holder.verdict,
        explained=f"{value_text(holder)}; {explained}" if explained else value_text(holder),
    )


def _first(board: Board) -> str:
    averaged: Sequence[bool] = [column.higher_is_better for column in board.columns]
    return "desc" if any(averaged) else "asc"
