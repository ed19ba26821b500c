"""The two forms that figures have: lines over a share, and heat over a grid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from lm_eval_prune.report.figures.form import title_of
from lm_eval_prune.report.figures.style import category_dashes

__all__ = ["Axis", "Colour", "chance_layers", "heat", "lines", "panels", "rounded"]

SIZE = (230, 220)
"""Width and height of a panel of lines, in pixels."""
PADDING = 6
"""Pixels between a panel's edge and its outermost marks."""
LEAST_WIDTH = 110
"""Pixels of a grid, in which its axis's title has room."""
MOST_LABELLED = 12
"""Columns of a grid whose cells still have room for their number."""
SLANTED = 20
"""Pixels of a column from which slanted names do not overlap."""
RANK = "percentile, 100 = most"
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
    domain: Sequence[str] = (),
    extras: Sequence[str] = (),
    size: tuple[int, int] = SIZE,
) -> alt.LayerChart | alt.FacetChart:
    """A line for each of `series` through points with `series`, `share` and `value`.

    Colours follow the order of `domain`, of which the series are some; without one they are shades, few to many. A band
    reaches from `low` to `high` where a point has them; points with a `seed` are one seed's, small and without a line;
    a row with `chance` is a level, drawn across its panel. `extras` are further fields of the tooltip, of those in
    EXTRAS. A click on the legend singles a line out.
    """
    y = title_of(y)
    picked = alt.selection_point(fields=["series"], bind="legend")
    legend = alt.Legend(symbolType="stroke", symbolOpacity=1, symbolSize=250, values=list(series))
    scale = alt.Scale(domain=list(domain or series))
    colour = alt.Color("series:N" if domain else "series:O", title=name, scale=scale, legend=legend)
    vertical = _unit_scale(points)
    base = alt.Chart(width=size[0], height=size[1]).encode(
        alt.X("share:Q", title=x, scale=alt.Scale(nice=False, padding=PADDING), axis=alt.Axis(tickCount=6)),
        alt.Y("value:Q", title=y, scale=vertical),
        colour,
        opacity=alt.condition(picked, alt.value(1), alt.value(0.1)),
    )
    drawn = base.transform_filter("isValid(datum.value) && !isValid(datum.seed)").mark_line(strokeWidth=1.8)
    if domain:
        dashes = alt.Scale(domain=list(domain), range=category_dashes(len(domain)))
        drawn = drawn.encode(strokeDash=alt.StrokeDash("series:N", title=name, scale=dashes, legend=legend))
    tooltip = [
        alt.Tooltip("series:N", title=name),
        alt.Tooltip("share:Q", title=x, format=".3~g"),
        alt.Tooltip("value:Q", title=y, format=".4f"),
    ]
    dots = base.transform_filter("isValid(datum.value) && !isValid(datum.seed)").mark_point(filled=True, size=24)
    layers = [drawn, dots.encode(tooltip=[*tooltip, *(EXTRAS[extra] for extra in extras)]).add_params(picked)]
    if any("seed" in point for point in points):
        seeds = base.transform_filter("isValid(datum.seed)").mark_point(filled=False, size=14, strokeWidth=1)
        layers.append(seeds.encode(tooltip=[*tooltip, alt.Tooltip("seed:N", title="seed")]))
    if any("low" in point for point in points):
        band = base.mark_area().encode(
            alt.Y("low:Q"), alt.Y2("high:Q"), opacity=alt.condition(picked, alt.value(0.15), alt.value(0))
        )
        layers.insert(0, band.transform_filter("isValid(datum.low)"))
    return alt.layer(*chance_layers(points, y, vertical), *layers, data=alt.Data(values=list(points)))


def chance_layers(points: Sequence[Mapping[str, Any]], title: str, scale: alt.Scale) -> list[Any]:
    """The chance level across a panel, with its name; none where no row has `chance`.

    title, scale: of the panel's vertical axis.
    """
    if not any("chance" in point for point in points):
        return []
    levels = alt.Chart().transform_filter("isValid(datum.chance)")
    place = alt.Y("chance:Q", title=title, scale=scale)
    rule = levels.mark_rule(strokeDash=[3, 3], strokeWidth=1.2, style="faint-line").encode(
        place, tooltip=[alt.Tooltip("chance:Q", title="chance", format=".4f")]
    )
    name = levels.mark_text(align="left", baseline="top", dx=3, dy=3, fontSize=10, text="chance").encode(
        place, x=alt.value(0), opacity=alt.value(0.75)
    )
    return [rule, name]


def _unit_scale(points: Sequence[Mapping[str, Any]]) -> alt.Scale:
    """From 0 to 1 for metrics such as accuracy, with room for the marks at both ends."""
    values = [point["value"] for point in points if "value" in point]
    unit = bool(values) and min(values) >= 0 and max(values) <= 1
    return alt.Scale(domain=[0, 1], padding=PADDING, nice=False) if unit else alt.Scale(zero=False, padding=PADDING)


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
    width = max(_step(x, labelled), LEAST_WIDTH / len(x.names))
    by_rank = colour.kind == "rank"
    tooltips = [
        alt.Tooltip("panel:N", title=" "),
        alt.Tooltip("row:N", title=y.title or " "),
        alt.Tooltip("column:N", title=x.title or " "),
        alt.Tooltip("value:Q", title=colour.title, format=".4~g"),
        *([alt.Tooltip("rank:Q", title=RANK, format=".0f")] if by_rank else []),
    ]
    below = _labels(x, angle=-40 if width > SLANTED else -90)
    base = (
        alt.Chart()
        .encode(
            alt.X("column:O", title=x.title or None, sort=list(x.names), axis=below),
            alt.Y("row:O", title=y.title or None, sort=list(y.names)[:: -1 if upwards else 1], axis=_labels(y)),
            tooltip=tooltips,
        )
        .properties(width=alt.Step(width), height=alt.Step(_step(y, labelled)))
    )
    field, title = ("rank:Q", [colour.title, RANK]) if by_rank else ("value:Q", colour.title)
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
