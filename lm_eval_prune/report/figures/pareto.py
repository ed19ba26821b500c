"""Accuracy against what is left of the model, with the variants that no other one beats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from lm_eval_prune.analysis import pareto_front
from lm_eval_prune.report.averages import averaged_columns
from lm_eval_prune.report.board import Board, Entry
from lm_eval_prune.report.figures.curves import chance_of, colours_of
from lm_eval_prune.report.figures.form import Figure, in_words, title_of
from lm_eval_prune.report.figures.marks import PADDING, SIZE, chance_layers, panels, rounded
from lm_eval_prune.report.runs import shots_name

__all__ = ["pareto_figures"]

NOUNS = {"parameters": "parameters", "flops": "FLOPs"}


def pareto_figures(board: Board) -> Iterator[Figure]:
    """One figure for parameters and one for FLOPs, where the results say them.

    Sizes are shares of the dense model, or counts where there are several models.
    """
    several = len(board.models) > 1
    for size, noun in NOUNS.items():
        made = [_point(entry, size, several) for entry in board.entries]
        points = _with_fronts([point for point in made if point is not None], board)
        if len({point["left"] for point in points}) < 3:  # two numbers are no figure
            continue
        axis = f"{noun} left" if several else f"{noun} left (% of dense)"
        caption = (
            f"The average of every variant against {noun} left. The line is the Pareto front: no variant is at once "
            "smaller and better than those on it, which are filled."
        )
        yield Figure(f"pareto-{size}", f"Accuracy against {noun} left", caption, _chart(points, axis, board, several))


def _point(entry: Entry, size: str, several: bool) -> dict[str, Any] | None:
    share = entry.parameters_left if size == "parameters" else entry.flops_left
    count = entry.cost.parameters if size == "parameters" else entry.cost.flops
    left = count if several else share and 100 * share
    if left is None or entry.average is None:
        return None
    return {
        "variant": entry.label,
        "model": entry.model,
        "ranking": entry.named_ranking,
        "shots": shots_name(entry.num_fewshot),
        "left": rounded(float(left)),
        "value": rounded(entry.average.value),
        "low": rounded(entry.average.low),
        "high": rounded(entry.average.high),
    }


def _with_fronts(points: Sequence[dict[str, Any]], board: Board) -> list[dict[str, Any]]:
    """The points, each told whether it is on the front of its number of shots."""
    sign = 1 if averaged_columns(board.columns)[0].higher_is_better else -1
    told: list[dict[str, Any]] = []
    for shots in dict.fromkeys(point["shots"] for point in points):
        group = [point for point in points if point["shots"] == shots]
        front = pareto_front([(point["left"], sign * point["value"]) for point in group])
        told += [{**point, "front": place in front} for place, point in enumerate(group)]
    return told


def _chart(points: Sequence[dict[str, Any]], axis: str, board: Board, several: bool) -> alt.FacetChart:
    scale = alt.Scale(type="log", nice=False) if several else alt.Scale(zero=False, padding=PADDING)
    title = title_of(f"average {in_words(column.metric for column in averaged_columns(board.columns))}")
    vertical = alt.Scale(zero=False, padding=PADDING)
    base = alt.Chart(width=SIZE[0], height=SIZE[1]).encode(
        alt.X("left:Q", title=axis, scale=scale, axis=alt.Axis(tickCount=5, labelOverlap=True, format="~s")),
        alt.Y("value:Q", title=title, scale=vertical),
    )
    front = base.transform_filter("datum.front").mark_line(
        interpolate="step-after", strokeWidth=1.5, style="faint-line"
    )
    there = {point["ranking"] for point in points}
    order = colours_of(board)
    legend = alt.Legend(values=[ranking for ranking in order if ranking in there])
    shape = alt.Shape("model:N", title="model")
    if not several:
        shape = alt.Shape("ranking:N", title="ranking", scale=alt.Scale(domain=order), legend=legend)
    dots = base.transform_filter("isValid(datum.left)").mark_point(size=45)
    dots = dots.encode(
        alt.Color("ranking:N", title="ranking", scale=alt.Scale(domain=order), legend=legend),
        shape,
        fill=alt.Fill("ranking:N", title="ranking", scale=alt.Scale(domain=order), legend=legend),
        fillOpacity=alt.condition("datum.front", alt.value(1), alt.value(0)),
        tooltip=[
            alt.Tooltip("variant:N"),
            alt.Tooltip("left:Q", title=axis, format=",.5~g"),
            alt.Tooltip("value:Q", title=title, format=".4f"),
            alt.Tooltip("low:Q", title="95 % interval from", format=".4f"),
            alt.Tooltip("high:Q", title="to", format=".4f"),
        ],
    )
    names = [shots_name(shots) for shots in board.shots]
    rows = [*points, *(row for name in names for row in chance_of(board, None, shots=name))]
    chart: Any = alt.layer(*chance_layers(rows, title, vertical), front, dots, data=alt.Data(values=rows))
    return panels(chart, "shots", names)
