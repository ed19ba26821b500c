"""Accuracy against the share of heads or FFNs pruned: by ranking, by task, both components at once, across tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lm_eval_prune.file_names import slug
from lm_eval_prune.report.board import Average, Board, Cell, Entry
from lm_eval_prune.report.figures.form import Figure, shortened
from lm_eval_prune.report.figures.marks import Axis, Colour, heat, lines, panels, rounded
from lm_eval_prune.report.runs import shots_name

__all__ = ["curve_figures", "ranking_of"]

NOUNS = {"heads": "heads", "ffns": "FFNs"}
AVERAGE = "average"
TASK = "task:"
"""Begins the rankings by another task's scores."""


def curve_figures(board: Board, entries: Sequence[Entry], of: str = "") -> Iterator[Figure]:
    """The figures of one model's entries; `of` names it in the titles where there are several."""
    for component in NOUNS:
        other = "ffns" if component == "heads" else "heads"
        alone = [entry for entry in entries if not _share(entry, other)]
        rankings = _rankings(entry for entry in alone if _share(entry, component))
        plain = [ranking for ranking in rankings if not ranking.startswith(TASK)]
        if any(entry.average for entry in alone if ranking_of(entry) in plain):
            yield _by_ranking(board, alone, component, plain, of)
        for ranking in plain:
            yield _by_task(board, _of_ranking(alone, ranking), component, ranking, of)
        for shots in board.shots:
            group = [entry for entry in alone if entry.num_fewshot == shots]
            if any(entry.ranking.startswith(TASK) and _share(entry, component) for entry in group):
                yield _transfer(board, group, component, of)
    both = (entry for entry in entries if _share(entry, "heads") and _share(entry, "ffns"))
    for ranking in _rankings(entry for entry in both if entry.average):
        yield _combined(board, _of_ranking(entries, ranking), ranking, of)


def ranking_of(entry: Entry) -> str:
    """The ranking, with `oracle` where it is one."""
    return entry.ranking + (", oracle" if entry.oracle else "")


def _rankings(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(ranking_of(entry) for entry in entries))


def _of_ranking(entries: Iterable[Entry], ranking: str) -> list[Entry]:
    """Its entries, and the dense ones, where every ranking starts."""
    return [entry for entry in entries if entry.is_dense or ranking_of(entry) == ranking]


def _share(entry: Entry, component: str) -> float:
    """Percent pruned."""
    return round(100 * float(entry.prune_heads if component == "heads" else entry.prune_ffns), 4)


def _point(entry: Entry, component: str, series: str, holder: Cell | Average) -> dict[str, Any]:
    point = {
        "shots": shots_name(entry.num_fewshot),
        "series": series,
        "share": _share(entry, component),
        "value": rounded(holder.value),
    }
    if isinstance(holder, Cell):
        return point if holder.stderr is None else {**point, "stderr": rounded(holder.stderr)}
    low, high = holder.low, holder.high
    if holder.spread is not None:
        low, high = holder.value - holder.spread, holder.value + holder.spread
    return {**point, "low": rounded(low), "high": rounded(high)}


def _metrics(board: Board) -> str:
    return ", ".join(dict.fromkeys(column.metric for column in board.columns))


def _by_shots(board: Board, chart: Any) -> Any:
    return panels(chart, "shots", [shots_name(shots) for shots in board.shots])


def _by_ranking(board: Board, entries: Sequence[Entry], component: str, rankings: Sequence[str], of: str) -> Figure:
    points = [
        _point(entry, component, ranking, entry.average)
        for ranking in rankings
        for entry in _of_ranking(entries, ranking)
        if entry.average is not None
    ]
    noun = NOUNS[component]
    chart = lines(
        points,
        rankings,
        name="ranking",
        x=f"{noun} pruned (%)",
        y=board.average_name,
        extras=("low", "high"),
    )
    caption = (
        f"The average over tasks against the share of {noun} pruned, a line for each ranking; the left end is the "
        "dense model. Bands are 95 % intervals over documents, for random rankings one standard deviation "
        "over seeds to either side."
    )
    return Figure(f"{component}-rankings", f"Pruning {noun}, by ranking{of}", caption, _by_shots(board, chart))


def _by_task(board: Board, entries: Sequence[Entry], component: str, ranking: str, of: str) -> Figure:
    points = []
    for entry in entries:
        points += [_point(entry, component, str(column), cell) for column, cell in entry.cells.items()]
        if entry.average is not None:
            points.append(_point(entry, component, AVERAGE, entry.average))
    noun = NOUNS[component]
    chart = lines(
        points,
        [AVERAGE, *map(str, board.columns)],
        name="task",
        x=f"{noun} pruned (%)",
        y=_metrics(board),
        thick=AVERAGE,
        extras=("stderr", "low", "high"),
    )
    caption = (
        f"Each task and their average (thick, with its interval) against the share of {noun} pruned by the ranking "
        f"{shortened(ranking)}; the left end is the dense model."
    )
    title = f"Pruning {noun}, by task: ranking {shortened(ranking)}{of}"
    return Figure(f"{component}-tasks-{slug(ranking)}", title, caption, _by_shots(board, chart))


def _transfer(board: Board, entries: Sequence[Entry], component: str, of: str) -> Figure:
    """Entries of one number of shots."""
    there = _rankings(entries)
    sources = sorted(ranking for ranking in there if ranking.startswith(TASK))
    others = [ranking for ranking in ("own", "aggregate", "random") if ranking in there]
    points = [
        {**_point(entry, component, ranking, cell), "evaluated": str(column)}
        for ranking in (*others, *sources)
        for entry in _of_ranking(entries, ranking)
        for column, cell in entry.cells.items()
    ]
    shots, noun = shots_name(entries[0].num_fewshot), NOUNS[component]
    chart = lines(
        points,
        ["own", *sources, *(other for other in others if other != "own")],
        name="ranking",
        x=f"{noun} pruned (%)",
        y=_metrics(board),
        thick="own",
        extras=("stderr",),
        size=(180, 150),
    )
    caption = (
        f"Each panel is a task that the pruned model is evaluated on, each line a task whose scores chose the {noun}; "
        f"own (thick) are the evaluated task's own. Where a line stays near it, the same {noun} matter to both tasks."
    )
    return Figure(
        f"{component}-transfer-{shots.replace('-', '')}",
        f"Transfer of {noun} between tasks, {shots}{of}",
        caption,
        panels(chart, "evaluated", [str(column) for column in board.columns]),
    )


def _combined(board: Board, entries: Sequence[Entry], ranking: str, of: str) -> Figure:
    # Shares at which only one component was pruned belong to the curves; here they would be rows of empty cells.
    both = [entry for entry in entries if _share(entry, "heads") and _share(entry, "ffns")]
    heads = sorted({0.0, *(_share(entry, "heads") for entry in both)})
    ffns = sorted({0.0, *(_share(entry, "ffns") for entry in both)}, reverse=True)
    grids = {shots_name(shots): np.full((len(ffns), len(heads)), np.nan) for shots in board.shots}
    for entry in entries:
        share = _share(entry, "ffns"), _share(entry, "heads")
        if entry.average is not None and share[0] in ffns and share[1] in heads:
            grids[shots_name(entry.num_fewshot)][ffns.index(share[0]), heads.index(share[1])] = entry.average.value
    chart = heat(
        {name: grid for name, grid in grids.items() if not np.isnan(grid).all()},
        Axis("heads pruned (%)", heads),
        Axis("FFNs pruned (%)", ffns),
        Colour(board.average_name),
        text=".2f",
    )
    caption = (
        "The average over tasks with that share of heads and that share of FFNs pruned at once; the lower left corner "
        "is the dense model."
    )
    title = f"Heads and FFNs pruned together: ranking {shortened(ranking)}{of}"
    return Figure(f"combined-{slug(ranking)}", title, caption, chart)
