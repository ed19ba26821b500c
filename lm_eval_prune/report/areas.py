"""Areas under the curve of faithfulness over the share that is kept: CPR and CMD of the MIB benchmark.

Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark", arXiv 2504.13151: the faithfulness of C, what is
kept of a model M, is f(C) = (m(C) - m(empty)) / (m(M) - m(empty)), m being the task's metric. CPR is the area under f
over the share of the model that is kept (larger is better), CMD the area between f and 1 (smaller is better); both by
trapezoids between the shares that were measured, f as it comes, not cut to 0..1.

What is measured here: the shares of a grid at which heads alone, or FFNs alone, are pruned by one ranking; the dense
model, f = 1 at share 1; and the empty model, f = 0 at share 0. Its metric is the cell that prunes them all, where the
grid has one (a share of 1), and else the chance level. MIB's own shares are 0.1 % to 100 % of a circuit's edges, what
is left out takes the values of another prompt, and m is a difference of logits: its figures are no comparison.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lm_eval_prune.files import write_csv
from lm_eval_prune.report.board import Board, Column, Entry
from lm_eval_prune.report.runs import OWN_SHOTS, shots_name

__all__ = ["AREAS_NOTE", "AREAS_TITLE", "Area", "area_of", "area_records", "areas", "areas_table", "write_areas"]

FEWEST = 3
"""Shares between nothing and everything pruned; with fewer the area is that of a line or two."""
AREAS_TITLE = "Areas under the curve: CPR and CMD"
AREAS_NOTE = (
    "Of the average's faithfulness f, 1 for the dense model and 0 for the empty one, over the share that is kept (MIB "
    "benchmark): CPR, the area under f, larger is better; CMD, the area between f and 1, smaller is better. The empty "
    "model is the one without any heads (or FFNs) where the grid has it, else chance. -: fewer than 3 shares, no "
    "chance level, or dense at chance. Compare rankings over the same shares only."
)


class Area(NamedTuple):
    """One ranking's areas on a task, or on the average."""

    model: str
    ranking: str
    component: str
    """`heads` or `FFNs`."""
    num_fewshot: int | None
    """None where each task has its own."""
    column: str
    """A task's metric, or the average's name."""
    cpr: float | None
    cmd: float | None
    shares: tuple[float, ...]
    """That are pruned, of the points between dense and empty."""
    empty: float | None
    """The empty model's metric."""
    empty_by: str
    """`pruned` or `chance`: where that comes from; empty where it is unknown."""
    why: str = ""
    """Why there are no areas."""


class _Curve(NamedTuple):
    points: Mapping[float, float]
    """Share pruned -> metric."""
    dense: float | None
    chance: float | None
    at_chance: bool
    higher_is_better: bool


def area_of(faithfulness: Mapping[float, float]) -> tuple[float, float]:
    """(CPR, CMD) of share kept -> faithfulness, by trapezoids from the smallest share to the largest."""
    kept = sorted(faithfulness)
    cpr = cmd = 0.0
    for left, right in itertools.pairwise(kept):
        low, high = faithfulness[left], faithfulness[right]
        cpr += (right - left) * (low + high) / 2
        cmd += (right - left) * (abs(1 - low) + abs(1 - high)) / 2
    return cpr, cmd


def areas(board: Board) -> list[Area]:
    """The average's and every task's, for each model, ranking, component and number of shots."""
    families: dict[tuple[str, str, str, int], list[Entry]] = {}
    for entry in board.entries:
        heads, ffns = float(entry.prune_heads), float(entry.prune_ffns)
        if entry.is_dense or bool(heads) == bool(ffns):
            continue
        key = entry.model, entry.named_ranking, "heads" if heads else "FFNs", entry.num_fewshot
        families.setdefault(key, []).append(entry)
    found = []
    for (model, ranking, component, shots), entries in families.items():
        dense = next((e for e in board.entries if e.is_dense and (e.model, e.num_fewshot) == (model, shots)), None)
        for column in (None, *board.columns):
            name = board.average_name if column is None else str(column)
            named = model, ranking, component, None if shots == OWN_SHOTS else shots, name
            found.append(_area(named, _curve(board, entries, dense, component, column)))
    return found


def _curve(
    board: Board, entries: Sequence[Entry], dense: Entry | None, component: str, column: Column | None
) -> _Curve:
    points, whole = {}, _value(dense, column)
    for entry in entries:
        value = _value(entry, column)
        if whole is not None and (change := _change_on_own_documents(entry, column)) is not None:
            value = whole + change
        if value is not None:
            points[float(entry.share(component))] = value
    about = board.about.get(column)
    chance = about.chance.level if about is not None and about.chance is not None else None
    shots = entries[0].num_fewshot
    looked_at = board.columns if column is None else [column]
    at_chance = all(one in board.about and shots in board.about[one].at_chance for one in looked_at)
    better = column is None or column.higher_is_better
    return _Curve(points, whole, chance, at_chance, better)


def _change_on_own_documents(entry: Entry, column: Column | None) -> float | None:
    """To dense, of a row of a deciding sweep: it may have fewer documents than the dense model; None of any other."""
    holder = entry.average if column is None else entry.cells.get(column)
    decided = any(run.sequential is not None for run in entry.runs)
    return holder.difference.value if decided and holder is not None and holder.difference is not None else None


def _value(entry: Entry | None, column: Column | None) -> float | None:
    holder = None if entry is None else entry.average if column is None else entry.cells.get(column)
    return None if holder is None or not math.isfinite(holder.value) else holder.value


def _area(named: tuple[str, str, str, int | None, str], curve: _Curve) -> Area:
    shares = tuple(sorted(share for share in curve.points if share < 1))
    empty, by = (curve.points[1.0], "pruned") if 1.0 in curve.points else (curve.chance, "chance")
    nothing = Area(*named, None, None, shares, empty, by if empty is not None else "")
    if len(shares) < FEWEST:
        return nothing._replace(why=f"{len(shares)} shares; at least {FEWEST} are needed")
    if curve.dense is None:
        return nothing._replace(why="no dense run")
    if empty is None:
        return nothing._replace(why="no chance level is known, and no cell prunes everything")
    whole = curve.dense - empty
    if curve.at_chance or math.isclose(curve.dense, empty) or (whole > 0) != curve.higher_is_better:
        return nothing._replace(why="dense is at chance, or no better than the empty model")
    kept = {1 - share: (curve.points[share] - empty) / whole for share in shares}
    cpr, cmd = area_of({0.0: 0.0, **kept, 1.0: 1.0})
    return nothing._replace(cpr=cpr, cmd=cmd)


def areas_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """(header, rows): the average's CPR and CMD of each ranking at each number of shots; no rows where all lack."""
    several = len(board.models) > 1
    rows: dict[tuple[str, ...], dict[int, str]] = {}
    known = False
    for area in areas(board):
        if area.column == board.average_name:
            key = (*([area.model] if several else []), area.ranking, area.component)
            shots = OWN_SHOTS if area.num_fewshot is None else area.num_fewshot
            known |= area.cpr is not None
            rows.setdefault(key, {})[shots] = _told(area)
    header = [*(["model"] if several else []), "ranking", "pruned", *map(shots_name, board.shots)]
    return header, [[*key, *(told.get(k, "") for k in board.shots)] for key, told in rows.items()] if known else []


def _told(area: Area) -> str:
    return "-" if area.cpr is None or area.cmd is None else f"CPR {area.cpr:.3f}, CMD {area.cmd:.3f}"


def area_records(board: Board) -> Iterator[dict[str, object]]:
    """All areas as flat records of JSON values."""
    for area in areas(board):
        yield {**area._asdict(), "shares": list(area.shares)}


def write_areas(board: Board, folder: Path) -> list[Path]:
    """Write areas.csv, a line an area; nothing where nothing is pruned by a ranking."""
    found = areas(board)
    if not found:
        return []
    records = [{**area._asdict(), "shares": " ".join(f"{share:g}" for share in area.shares)} for area in found]
    path = folder / "areas.csv"
    write_csv(path, records)
    return [path]
