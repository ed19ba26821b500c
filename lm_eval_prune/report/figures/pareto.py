"""Accuracy against what is left of the model, with the variants that no other one beats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from lm_eval_prune.analysis import pareto_front
from lm_eval_prune.report.averages import averaged_columns
from lm_eval_prune.report.board import Board, Entry
from lm_eval_prune.report.figures.form import Figure
from lm_eval_prune.report.figures.style import rounded

__all__ = ["pareto_figures"]

SIZES = {
    "parameters": ("parameters-pareto", "Accuracy against parameters left", "parameters left (% of dense)"),
    "flops": ("flops-pareto", "Accuracy against FLOPs left", "FLOPs for a token left (% of dense)"),
}


def pareto_figures(board: Board) -> Iterator[Figure]:
    """One figure for parameters and one for FLOPs, where the results say them."""
    for size, (name, title, axis) in SIZES.items():
        points = [_point(entry, size) for entry in board.entries]
        points = _with_fronts([point for point in points if point is not None], board)
        if len({point["left"] for point in points}) > 1:
            caption = (
                f"Every variant: its average against {axis.split(' (')[0]}. The line is the Pareto front: no variant "
                "is at once smaller and better than one on it. Filled points are on the front."
            )
            yield Figure(name, title, caption, _chart(points, axis, board))


def family(entry: Entry) -> str:
    """What one line or colour stands for: the ranking, with the model where entries have several."""
    return entry.ranking + (", oracle" if entry.oracle else "")


def _point(entry: Entry, size: str) -> dict[str, Any] | None:
    left = entry.parameters_left if size == "parameters" else entry.flops_left
    if left is None or entry.average is None:
        return None
    return {
        "variant": entry.label,
        "ranking": family(entry),
        "shots": f"{entry.num_fewshot}-shot",
        "left": rounded(100 * left),
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


def _chart(points: Sequence[dict[str, Any]], axis: str, board: Board) -> alt.TopLevelMixin:
    base = alt.Chart().encode(
        alt.X("left:Q", title=axis, scale=alt.Scale(zero=False)),
        alt.Y("value:Q", title=board.average_name, scale=alt.Scale(zero=False)),
    )
    front = base.transform_filter("datum.front").mark_line(interpolate="step-after", strokeWidth=1.5, opacity=0.6)
    rankings = list(dict.fromkeys(["dense", *(point["ranking"] for point in points)]))
    dots = base.mark_point(size=50).encode(
        alt.Color("ranking:N", title="ranking", scale=alt.Scale(domain=rankings)),
        alt.Shape("ranking:N", title="ranking", scale=alt.Scale(domain=rankings)),
        fillOpacity=alt.condition("datum.front", alt.value(1), alt.value(0)),
        fill=alt.Color("ranking:N", title="ranking", scale=alt.Scale(domain=rankings)),
        tooltip=[
            alt.Tooltip("variant:N"),
            alt.Tooltip("left:Q", title=axis, format=".1f"),
            alt.Tooltip("value:Q", title=board.average_name, format=".4f"),
            alt.Tooltip("low:Q", title="95 % interval from", format=".4f"),
            alt.Tooltip("high:Q", title="to", format=".4f"),
            alt.Tooltip("front:N", title="on the Pareto front"),
        ],
    )
    shots = alt.Column("shots:N", title=None, sort=[f"{k}-shot" for k in board.shots])
    return alt.layer(front, dots, data=alt.Data(values=points)).facet(column=shots)
