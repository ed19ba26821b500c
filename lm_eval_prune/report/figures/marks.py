"""The two forms that figures have: lines over a share, and heat over a grid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from lm_eval_prune.report.figures.form import title_of
from lm_eval_prune.report.figures.style import category_dashes

__all__ = ["Axis", "Colour", "heat", "lines", "panels", "rounded"]

SIZE = (230, 220)
"""Width and height of a panel of lines, in pixels."""
LEAST_WIDTH = 110
"""Pixels of a grid, in which its axis's title has room."""
MOST_LABELLED = 12
"""Columns of a grid whose cells still have room for their number."""
RANK = "less important heads (%)"
EXTRAS = {
    "stderr": alt.Tooltip("stderr:Q", title="standard error", format=".4f"),
    "low": alt.Tooltip("low:Q", title="from", format=".4f"),
    "high": alt.Tooltip("high:Q", title="to", format=".4f"),
}


class Axis(NamedTuple):
    """One side of a grid."""

    title: str
    names: Sequence[Any]
    """Texts or numbers."""


class Colour(NamedTuple):
    """What the colours of a grid say."""

    title: str
    kind: str = "value"
    """`value`; `rank`, the share of a grid's cells that are lower; `diverging`, with the middle colour at 0."""
    domain: tuple[float, float] | None = None
    """From the values, if None."""


def rounded(value: float | None, digits: int = 5) -> float | None:
    """Some significant digits: what a chart can show, at half the bytes. None for nan."""
    return None if value is None or value != value else float(f"{value:.{digits}g}")


def panels(chart: Any, field: str, order: Sequence[str], columns: int = 3) -> alt.FacetChart:
    """The chart once for each value of `field`, side by side."""
    made = chart.facet(facet=alt.Facet(f"{field}:N", title=None, sort=list(order)), columns=columns)
    # A last row that is not full would show the axes of panels that are not there.
    full = len(order) <= columns or len(order) % columns == 0
    return made if full else made.resolve_axis(x="independent")


def lines(
    points: Sequence[Mapping[str, Any]],
    series: Sequence[str],
    *,
    name: str,
    x: str,
    y: str,
    thick: str = "",
    extras: Sequence[str] = (),
    size: tuple[int, int] = SIZE,
) -> alt.LayerChart | alt.FacetChart:
    """A line for each of `series` through points with `series`, `share` and `value`; one is `thick`.

    Colours follow the order of `series`. A band reaches from `low` to `high` where a point has them. `extras` are
    further fields of the tooltip, of those in EXTRAS. A click on the legend singles a line out.
    """
    y = title_of(y)
    picked = alt.selection_point(fields=["series"], bind="legend")
    legend = alt.Legend(symbolType="stroke", symbolOpacity=1, symbolSize=250)
    colour = alt.Color("series:N", title=name, scale=alt.Scale(domain=list(series)), legend=legend)
    dashes = alt.Scale(domain=list(series), range=category_dashes(len(series)))
    base = alt.Chart(width=size[0], height=size[1]).encode(
        alt.X("share:Q", title=x, scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=6)),
        alt.Y("value:Q", title=y, scale=_unit_scale(points)),
        colour,
        opacity=alt.condition(picked, alt.value(1), alt.value(0.1)),
    )
    width = alt.condition(f"datum.series === {json.dumps(thick)}", alt.value(3.5), alt.value(1.6))
    drawn = base.mark_line(clip=True).encode(
        strokeDash=alt.StrokeDash("series:N", title=name, scale=dashes, legend=legend), strokeWidth=width
    )
    dots = base.mark_point(filled=True, size=24).encode(
        tooltip=[
            alt.Tooltip("series:N", title=name),
            alt.Tooltip("share:Q", title=x, format=".3~g"),
            alt.Tooltip("value:Q", title=y, format=".4f"),
            *(EXTRAS[extra] for extra in extras),
        ]
    )
    layers = [drawn, dots.add_params(picked)]
    if any("low" in point for point in points):
        band = base.mark_area(clip=True).encode(
            alt.Y("low:Q"), alt.Y2("high:Q"), opacity=alt.condition(picked, alt.value(0.15), alt.value(0))
        )
        layers.insert(0, band.transform_filter("isValid(datum.low)"))
    return alt.layer(*layers, data=alt.Data(values=list(points)))


def _unit_scale(points: Sequence[Mapping[str, Any]]) -> alt.Scale:
    """From 0 to 1 for metrics such as accuracy."""
    values = [point["value"] for point in points]
    unit = bool(values) and min(values) >= 0 and max(values) <= 1
    return alt.Scale(domain=[0, 1]) if unit else alt.Scale(zero=False)


def heat(
    grids: Mapping[str, Any],
    x: Axis,
    y: Axis,
    colour: Colour,
    *,
    text: str = "",
    upwards: bool = False,
    columns: int = 3,
    digits: int = 4,
) -> alt.FacetChart:
    """A grid of colours for each of `grids`: arrays (rows of `y`, columns of `x`), nan where there is nothing.

    `upwards` has the first row at the bottom; `text` is the format of numbers in the cells of grids that are small.
    """
    colour = colour._replace(title=title_of(colour.title))
    labelled = bool(text) and len(x.names) <= MOST_LABELLED
    by_rank = colour.kind == "rank"
    tooltips = [
        alt.Tooltip("panel:N", title=" "),
        alt.Tooltip("row:N", title=y.title or " "),
        alt.Tooltip("column:N", title=x.title or " "),
        alt.Tooltip("value:Q", title=colour.title, format=".4~g"),
        *([alt.Tooltip("rank:Q", title=RANK, format=".0f")] if by_rank else []),
    ]
    base = (
        alt.Chart()
        .encode(
            alt.X("column:O", title=x.title or None, sort=list(x.names), axis=_labels(x, angle=-40)),
            alt.Y("row:O", title=y.title or None, sort=list(y.names)[:: -1 if upwards else 1], axis=_labels(y)),
            tooltip=tooltips,
        )
        .properties(
            width=alt.Step(max(_step(x, labelled), LEAST_WIDTH / len(x.names))), height=alt.Step(_step(y, labelled))
        )
    )
    field, title = ("rank:Q", RANK) if by_rank else ("value:Q", colour.title)
    shown = alt.Color(field, title=title, scale=_scale(colour, grids), legend=alt.Legend(format=".3~g"))
    layers = [base.mark_rect().encode(shown)]
    if labelled:
        written = alt.Text("value:Q", format=text)
        layers.append(base.mark_text(fontSize=10).encode(written, color=_ink(grids, colour)))
    return panels(_unrolled(alt.layer(*layers), grids, x, y, digits, by_rank), "panel", list(grids), columns)


def _unrolled(chart: Any, grids: Mapping[str, Any], x: Axis, y: Axis, digits: int, by_rank: bool) -> Any:
    """The chart with its data: one list a grid, unrolled by the chart, a tenth of the bytes of a record a cell."""
    rows = [
        {"panel": name, "value": [rounded(float(cell), digits) for cell in np.ravel(grid)]}
        for name, grid in grids.items()
    ]
    chart.data = alt.Data(values=rows)
    width = len(x.names)
    chart = (
        chart.transform_flatten(["value"])
        .transform_window(place="row_number()", groupby=["panel"])
        .transform_calculate(
            column=f"{json.dumps(list(x.names))}[(datum.place - 1) % {width}]",
            row=f"{json.dumps(list(y.names))}[floor((datum.place - 1) / {width})]",
        )
        .transform_filter("isValid(datum.value)")
    )
    if by_rank:
        chart = chart.transform_window(
            below="percent_rank()", groupby=["panel"], sort=[alt.SortField("value")]
        ).transform_calculate(rank="100 * datum.below")
    return chart


def _scale(colour: Colour, grids: Mapping[str, Any]) -> alt.Scale:
    if colour.kind == "rank":
        return alt.Scale(scheme="viridis", domain=[0, 100])
    if colour.kind == "diverging":
        return alt.Scale(scheme="blueorange", domain=list(_domain(colour, grids)))
    return alt.Scale(scheme="viridis", domain=alt.Undefined if colour.domain is None else list(colour.domain))


def _domain(colour: Colour, grids: Mapping[str, Any]) -> tuple[float, float]:
    values = np.concatenate([np.ravel(grid) for grid in grids.values()])
    low, high = colour.domain or (float(np.nanmin(values)), float(np.nanmax(values)))
    furthest = max(abs(low), abs(high))
    return (-furthest, furthest) if colour.kind == "diverging" else (low, high)


def _labels(axis: Axis, angle: int = 0) -> alt.Axis:
    """Names are all written, numbers where there is room."""
    words = any(isinstance(name, str) for name in axis.names)
    return alt.Axis(labelAngle=angle if words else 0, labelOverlap=not words)


def _step(axis: Axis, labelled: bool) -> float:
    """Pixels of a cell."""
    words = any(isinstance(name, str) for name in axis.names)
    return max(34 if labelled else 0, 15 if words else 4, min(20, 260 // len(axis.names)))


def _ink(grids: Mapping[str, Any], colour: Colour) -> Any:
    """Black on bright cells, white on dark ones."""
    low, high = _domain(colour, grids)
    bright = f"datum.value > {low + 0.55 * (high - low)}"
    if colour.kind == "diverging":
        bright = f"abs(datum.value) < {0.6 * high}"
    return alt.condition(bright, alt.value("black"), alt.value("white"))
