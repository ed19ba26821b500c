"""Accuracy against the share of heads or FFNs pruned: by ranking, by task, both components at once, across tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from lm_eval_prune.file_names import slug
from lm_eval_prune.report.averages import averaged_columns
from lm_eval_prune.report.board import Board, Cell, Column, Entry
from lm_eval_prune.report.figures.form import Figure, in_words, shortened
from lm_eval_prune.report.figures.marks import Axis, Colour, heat, lines, panels, rounded
from lm_eval_prune.report.figures.style import ranking_order
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.sweep.ranking import DONORS

__all__ = ["chance_of", "colours_of", "curve_figures"]

NOUNS = {"heads": "heads", "ffns": "FFNs"}
AVERAGE = "average"
TASK = "task:"
"""Begins the rankings by another task's scores."""
FEW_PANELS = 6
"""More are drawn small, five in a row."""


def curve_figures(board: Board, entries: Sequence[Entry], of: str = "") -> Iterator[Figure]:
    """The figures of one model's entries; `of` names it in the titles where there are several."""
    for component in NOUNS:
        other = "ffns" if component == "heads" else "heads"
        alone = [entry for entry in entries if not _share(entry, other)]
        rankings = _rankings(entry for entry in alone if _share(entry, component))
        plain = [ranking for ranking in rankings if not ranking.startswith(TASK) or ranking in DONORS]
        if _is_a_curve([e for e in alone if e.average and (e.is_dense or e.named_ranking in plain)], component):
            yield _by_ranking(board, alone, component, plain, of)
        for ranking in plain:
            own = _of_ranking(alone, ranking)
            if _is_a_curve(own, component):
                yield _by_task(board, own, component, ranking, of)
        for shots in board.shots:
            group = [entry for entry in alone if entry.num_fewshot == shots]
            others = [entry for entry in group if entry.is_dense or entry.ranking.startswith(TASK)]
            if any(not entry.is_dense for entry in others) and _is_a_curve(others, component):
                yield _transfer(board, group, component, of)
    both = (entry for entry in entries if _share(entry, "heads") and _share(entry, "ffns"))
    for ranking in _rankings(entry for entry in both if entry.average):
        yield from _combined(board, _of_ranking(entries, ranking), ranking, of)


def colours_of(board: Board) -> list[str]:
    """All rankings of the board, in the order of their colours."""
    return ranking_order(entry.named_ranking for entry in board.entries)


def _is_a_curve(entries: Iterable[Entry], component: str) -> bool:
    """Whether there are three shares: the dense model and one more are two numbers, and no figure."""
    return len({_share(entry, component) for entry in entries}) > 2


def _rankings(entries: Iterable[Entry]) -> list[str]:
    """In the order of their colours."""
    return (
        [one for one in ranking_order(found) if one in found] if (found := {e.named_ranking for e in entries}) else []
    )


def _of_ranking(entries: Iterable[Entry], ranking: str) -> list[Entry]:
    """Its entries, and the dense ones, where every ranking starts."""
    return [entry for entry in entries if entry.is_dense or entry.named_ranking == ranking]


def _share(entry: Entry, component: str) -> float:
    """Percent pruned."""
    return round(100 * float(entry.share(component)), 4)


def _points(
    board: Board, entry: Entry, component: str, column: Column | None, **where: str
) -> Iterator[dict[str, Any]]:
    """The entry's value on a column (None: the average) as a point at `where`, and those of its random masks."""
    holder = entry.average if column is None else entry.cells.get(column)
    if holder is None:
        return
    place = {**where, "share": _share(entry, component)}
    point: dict[str, Any] = {**place, "value": rounded(holder.value)}
    seeds = _by_seed(board, entry, column)
    if isinstance(holder, Cell):
        if holder.stderr is not None:
            point["stderr"] = rounded(holder.stderr)
    elif not seeds:
        point |= {"low": rounded(holder.low), "high": rounded(holder.high)}
    yield point
    for seed, value in seeds.items():
        yield {**place, "value": rounded(value), "seed": seed}


def _by_seed(board: Board, entry: Entry, column: Column | None) -> dict[int, float]:
    """Seed of the random mask -> the value on a column, or the average; empty without several that have all of it."""
    columns = averaged_columns(board.columns) if column is None else [column]
    found: dict[int, dict[str, list[float]]] = {}
    for run in entry.runs:
        for one in columns:
            if run.task == one.task and one.metric in run.values and run.variant.seed is not None:
                found.setdefault(run.variant.seed, {}).setdefault(run.task, []).append(run.values[one.metric].value)
    whole = {seed: values for seed, values in found.items() if len(values) == len(columns)}
    return {seed: fmean(map(fmean, values.values())) for seed, values in whole.items()} if len(whole) > 1 else {}


def chance_of(board: Board, column: Column | None, **where: str) -> list[dict[str, Any]]:
    """A row that says the chance level of a panel, where it is known."""
    about = board.about.get(column)
    return [{**where, "chance": rounded(about.chance.level)}] if about and about.chance else []


def _average_title(board: Board) -> str:
    return f"average {in_words(column.metric for column in averaged_columns(board.columns))}"


def _metrics(board: Board) -> str:
    return in_words(column.metric for column in board.columns)


def _by_ranking(board: Board, entries: Sequence[Entry], component: str, rankings: Sequence[str], of: str) -> Figure:
    names = [shots_name(shots) for shots in board.shots]
    points = [level for name in names for level in chance_of(board, None, shots=name)]
    for ranking in rankings:
        for entry in _of_ranking(entries, ranking):
            points += _points(board, entry, component, None, shots=shots_name(entry.num_fewshot), series=ranking)
    noun = NOUNS[component]
    chart = lines(
        points,
        rankings,
        name="ranking",
        x=f"{noun} pruned (%)",
        y=_average_title(board),
        domain=colours_of(board),
        extras=("low", "high"),
    )
    caption = (
        f"The average over tasks against the share of {noun} pruned, a line for each ranking; the left end is the "
        "dense model. Bands are 95 % intervals over documents; small rings are single seeds of random masks"
        f"{_level(points)}."
    )
    return Figure(f"{component}-rankings", f"Pruning {noun}, by ranking{of}", caption, panels(chart, "shots", names))


def _level(points: Sequence[dict[str, Any]]) -> str:
    """What a caption says of chance levels."""
    return "; the dotted line is the chance level" if any("chance" in point for point in points) else ""


def _by_task(board: Board, entries: Sequence[Entry], component: str, ranking: str, of: str) -> Figure:
    """A panel a task, a line a number of shots: legible for 14 tasks, too."""
    columns = [(AVERAGE, None), *((str(column), column) for column in board.columns)]
    points: list[dict[str, Any]] = []
    for name, column in columns:
        points += chance_of(board, column, panel=name)
        for entry in entries:
            points += _points(board, entry, component, column, panel=name, series=shots_name(entry.num_fewshot))
    there = {point["panel"] for point in points if "value" in point}
    many = len(there) > FEW_PANELS
    noun = NOUNS[component]
    chart = lines(
        [point for point in points if point["panel"] in there],
        [shots_name(shots) for shots in board.shots],
        name="shots",
        x=f"{noun} pruned (%)",
        y=_metrics(board),
        extras=("stderr", "low", "high"),
        size=(120, 105) if many else (180, 150),
    )
    caption = (
        f"The average and each task against the share of {noun} pruned by the ranking {shortened(ranking)}, a line for "
        "each number of shots; the left end is the dense model. The band is the average's 95 % interval"
        f"{_level(points)}."
    )
    title = f"Pruning {noun}, by task: ranking {shortened(ranking)}{of}"
    names = [name for name, _ in columns if name in there]
    made = panels(chart, "panel", names, columns=_columns(len(names)))
    return Figure(f"{component}-tasks-{slug(ranking)}", title, caption, made)


def _columns(number: int) -> int:
    """Panels in a row, of so many."""
    return 5 if number > FEW_PANELS else number if number < 5 else 3


def _transfer(board: Board, entries: Sequence[Entry], component: str, of: str) -> Figure:
    """Entries of one number of shots."""
    there = _rankings(entries)
    sources = sorted(ranking for ranking in there if ranking.startswith(TASK))
    shown = [*(ranking for ranking in ("own", "aggregate", "random") if ranking in there), *sources]
    points: list[dict[str, Any]] = []
    for column in board.columns:
        points += chance_of(board, column, evaluated=str(column))
        for ranking in shown:
            for entry in _of_ranking(entries, ranking):
                made = _points(board, entry, component, column, evaluated=str(column), series=ranking)
                points += [point for point in made if "seed" not in point]
    shots, noun = shots_name(entries[0].num_fewshot), NOUNS[component]
    many = len(board.columns) > FEW_PANELS
    chart = lines(
        points,
        shown,
        name="ranking",
        x=f"{noun} pruned (%)",
        y=_metrics(board),
        domain=colours_of(board),
        extras=("stderr",),
        size=(120, 105) if many else (180, 150),
    )
    caption = (
        f"Each panel is a task that the pruned model is evaluated on, each line a task whose scores chose the {noun}; "
        "own are the evaluated task's own, closest and farthest those of the task whose scores agree most and least "
        f"with them. Where a line stays near its own, the same {noun} matter to both tasks"
        f"{_level(points)}."
    )
    return Figure(
        f"{component}-transfer-{shots.replace('-', '')}",
        f"Transfer of {noun} between tasks, {shots}{of}",
        caption,
        panels(chart, "evaluated", [str(column) for column in board.columns], columns=_columns(len(board.columns))),
    )


def _combined(board: Board, entries: Sequence[Entry], ranking: str, of: str) -> Iterator[Figure]:
    """The average at each number of shots, and at each of them every task."""
    axes = _both_shares(entries)
    averages: dict[str, np.ndarray] = {}
    for entry in entries:
        if entry.average is not None:
            _put(averages, shots_name(entry.num_fewshot), entry, entry.average.value, axes)
    caption = (
        "The average over tasks with that share of heads and that share of FFNs pruned at once; the lower left corner "
        "is the dense model."
    )
    title = f"Heads and FFNs pruned together: ranking {shortened(ranking)}{of}"
    name = f"combined-{slug(ranking)}"
    yield Figure(name, title, caption, heat(averages, *axes, Colour(_average_title(board)), text=".2f"))
    columns = averaged_columns(board.columns)
    for shots in board.shots if len(columns) > 1 else ():
        grids: dict[str, np.ndarray] = {}
        for entry in entries:
            for column in columns:
                if entry.num_fewshot == shots and (cell := entry.cells.get(column)) is not None:
                    _put(grids, str(column), entry, cell.value, axes)
        if not any(np.isfinite(grid[:-1, 1:]).any() for grid in grids.values()):
            continue
        grids = {str(column): grids[str(column)] for column in columns if str(column) in grids}
        chart = heat(grids, *axes, Colour(_metrics(board)), columns=5)
        caption = (
            f"Each task at {shots_name(shots)} with that share of heads and that share of FFNs pruned at once; the "
            "lower left corner is the dense model."
        )
        of_tasks = f"Heads and FFNs pruned together, by task, {shots_name(shots)}: ranking {shortened(ranking)}{of}"
        yield Figure(f"{name}-{shots_name(shots).replace('-', '').replace(' ', '-')}", of_tasks, caption, chart)


def _both_shares(entries: Iterable[Entry]) -> tuple[Axis, Axis]:
    """(heads, FFNs): the shares at which both were pruned, and 0.

    Those at which only one component was belong to the curves; here they would be rows of empty cells.
    """
    both = [entry for entry in entries if _share(entry, "heads") and _share(entry, "ffns")]
    heads = sorted({0.0, *(_share(entry, "heads") for entry in both)})
    ffns = sorted({0.0, *(_share(entry, "ffns") for entry in both)}, reverse=True)
    return Axis("heads pruned (%)", heads), Axis("FFNs pruned (%)", ffns)


def _put(grids: dict[str, np.ndarray], name: str, entry: Entry, value: float, axes: tuple[Axis, Axis]) -> None:
    """Write the value into the grid of this name, at the entry's shares, where it has them."""
    heads, ffns = (list(axis.names) for axis in axes)
    row, column = _share(entry, "ffns"), _share(entry, "heads")
    if row in ffns and column in heads:
        grid = grids.setdefault(name, np.full((len(ffns), len(heads)), np.nan))
        grid[ffns.index(row), heads.index(column)] = value
