"""The study's figures of evaluated variants: curves, the combined grid, transfer between tasks, and what size costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from lm_eval_prune.report.board import Average, Board, Cell, Entry
from lm_eval_prune.report.drawing import COLOURS, SEQUENTIAL, SHAPES, Figure, data_of, rounded, write_figures
from lm_eval_prune.report.reading import Collection
from lm_eval_prune.report.score_figures import score_figures
from lm_eval_prune.report.wording import explain_difference

__all__ = ["all_figures", "pareto_front", "write_figures"]

WIDTH, HEIGHT = 190, 130
"""Of one panel, in pixels."""


def all_figures(board: Board, collection: Collection) -> list[Figure]:
    """Every figure that the data allow, in the study's order."""
    figures = []
    for shots in board.shots:
        records = _records(board, shots)
        figures += curves(records, "heads", "heads", shots)
        figures += curves(records, "ffns", "FFNs", shots)
        figures += combined(records, shots)
        figures += transfer(records, shots)
        figures += pareto(board, shots)
    return figures + score_figures(collection.importance)


def _records(board: Board, shots: int) -> list[dict[str, Any]]:
    """One record for each entry and column, and each average: values, intervals, what is pruned."""
    records = []
    several = len({entry.model for entry in board.entries}) > 1
    for entry in board.entries:
        if entry.num_fewshot != shots:
            continue
        holders: list[tuple[str, Cell | Average]] = [(str(column), cell) for column, cell in entry.cells.items()]
        if entry.average:
            holders.insert(0, (board.average_name, entry.average))
        oracle = ", oracle" if entry.oracle else ""
        ranking = (f"{entry.model}: " if several else "") + entry.ranking + oracle
        for name, holder in holders:
            low, high = _interval(holder)
            records.append(
                {
                    "panel": name,
                    "ranking": ranking,
                    "model": entry.model,
                    "variant": entry.label,
                    "heads": round(100 * float(entry.prune_heads), 6),
                    "ffns": round(100 * float(entry.prune_ffns), 6),
                    "dense": entry.is_dense,
                    "value": rounded(holder.value),
                    "low": rounded(low),
                    "high": rounded(high),
                    "difference": explain_difference(holder.difference, holder.verdict) or "dense",
                }
            )
    return records


def _interval(holder: Cell | Average) -> tuple[float, float]:
    """The 95 % interval of an average; of a task, 1.96 standard errors; over seeds, one standard deviation."""
    if holder.spread is not None:
        return holder.value - holder.spread, holder.value + holder.spread
    if isinstance(holder, Average):
        return (holder.value, holder.value) if math.isnan(holder.low) else (holder.low, holder.high)
    reach = 1.96 * (holder.stderr or 0)
    return holder.value - reach, holder.value + reach


def curves(records: Sequence[dict[str, Any]], key: str, component: str, shots: int) -> list[Figure]:
    """Accuracy against the fraction pruned, a panel a task, the average first; every curve starts at the dense model."""
    other = "ffns" if key == "heads" else "heads"
    shown = [record for record in records if record[key] and not record[other] and not _is_transfer(record)]
    if not shown:
        return []
    shown += _starts(records, shown, key)
    caption = (
        f"Each panel is a task; bands are 95 % intervals (of random rankings: the standard deviation over seeds). "
        f"Pruned are the {component} of least importance by each ranking."
    )
    chart = _panels(shown, key, f"{component} pruned (%)")
    return [
        Figure(
            f"accuracy-{key}-{shots}shot", f"Accuracy against {component} pruned, {shots}-shot", caption, chart, shots
        )
    ]


def _starts(records: Iterable[dict[str, Any]], shown: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The dense model as the first point of every curve of its model."""
    curves = {(record["model"], record["panel"], record["ranking"]) for record in shown if record[key]}
    dense = [record for record in records if record["dense"]]
    return [
        {**record, "ranking": ranking, "variant": f"dense (start of {ranking})"}
        for record in dense
        for model, panel, ranking in sorted(curves)
        if (record["model"], record["panel"]) == (model, panel)
    ]


def _panels(shown: Sequence[dict[str, Any]], key: str, title: str) -> alt.FacetChart:
    rankings = list(dict.fromkeys(record["ranking"] for record in shown))
    panels = list(dict.fromkeys(record["panel"] for record in shown))
    colour = alt.Color(
        "ranking:N",
        title="ranking",
        scale=alt.Scale(domain=rankings, range=_cycled(COLOURS, rankings)),
        legend=alt.Legend(orient="top", columns=3, labelLimit=280),
    )
    x = alt.X(f"{key}:Q", title=title, scale=alt.Scale(zero=True))
    base = alt.Chart().encode(x=x, color=colour)
    value = alt.Y("value:Q", title="value", scale=alt.Scale(zero=False))
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title="value"), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=value)
    shape = alt.Shape("ranking:N", scale=alt.Scale(domain=rankings, range=_cycled(SHAPES, rankings)), legend=None)
    points = base.mark_point(filled=True, size=45, opacity=1).encode(y=value, shape=shape, tooltip=_tooltip())
    return (
        alt.layer(band, line, points, data=data_of(shown))
        .properties(width=WIDTH, height=HEIGHT)
        .facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=3)
    )


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("variant:N", title="variant"),
        alt.Tooltip("panel:N", title="metric"),
        alt.Tooltip("value:Q", title="value", format=".4f"),
        alt.Tooltip("low:Q", title="from", format=".4f"),
        alt.Tooltip("high:Q", title="to", format=".4f"),
        alt.Tooltip("difference:N", title="difference"),
    ]


def combined(records: Sequence[dict[str, Any]], shots: int) -> list[Figure]:
    """Averages over the grid of heads and FFNs pruned together, a panel a ranking."""
    averages = [record for record in records if record["panel"].startswith("average ")]
    rankings = dict.fromkeys(record["ranking"] for record in averages if record["heads"] and record["ffns"])
    if not rankings:
        return []
    shown = [record for record in averages if record["ranking"] in rankings]
    shown += [{**record, "ranking": ranking} for record in averages if record["dense"] for ranking in rankings]
    values = [record["value"] for record in shown]
    middle = (min(values) + max(values)) / 2
    base = alt.Chart(data_of(shown)).encode(
        x=alt.X("heads:O", title="heads pruned (%)", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("ffns:O", title="FFNs pruned (%)", sort="descending"),
    )
    colour = alt.Color("value:Q", title=shown[0]["panel"], scale=alt.Scale(scheme=SEQUENTIAL))
    cells = base.mark_rect().encode(color=colour, tooltip=_tooltip())
    ink = alt.condition(f"datum.value > {middle}", alt.value("#111111"), alt.value("#ffffff"))
    text = base.mark_text(fontSize=10).encode(text=alt.Text("value:Q", format=".2f"), color=ink)
    chart = (
        alt.layer(cells, text)
        .properties(width=alt.Step(34), height=alt.Step(34))
        .facet(facet=alt.Facet("ranking:N", title=None, sort=list(rankings)), columns=1)
    )
    title = f"Heads and FFNs pruned together, {shots}-shot"
    return [Figure(f"combined-{shots}shot", title, "The average over tasks at each pair of fractions.", chart, shots)]


def _is_transfer(record: dict[str, Any]) -> bool:
    return ":" in record["ranking"] and record["ranking"].split(": ")[-1].startswith("task:")


def transfer(records: Sequence[dict[str, Any]], shots: int) -> list[Figure]:
    """Every task under the rankings of other tasks, beside its own, the aggregate's and random ones."""
    if not any(_is_transfer(record) for record in records):
        return []
    shown = [record for record in records if record["heads"] and not record["ffns"]]
    shown = [*_starts(records, shown, "heads"), *shown]
    kinds = {"own": "own task", "aggregate": "aggregate", "random": "random", "other": "another task"}
    for record in shown:
        name = record["ranking"].split(": ")[-1].split(",")[0]
        task = record["panel"].split(" ")[0]
        if name == f"task:{task}":
            name = "own"
        record["kind"] = kinds.get(name, kinds["other"] if name.startswith("task:") else name)
    order = [*kinds.values(), *dict.fromkeys(r["kind"] for r in shown if r["kind"] not in kinds.values())]
    order = [kind for kind in order if any(record["kind"] == kind for record in shown)]
    colour = alt.Color(
        "kind:N",
        title="importance scored on",
        scale=alt.Scale(domain=order, range=_cycled(COLOURS, order)),
        legend=alt.Legend(orient="top"),
    )
    width = alt.condition("datum.kind == 'another task'", alt.value(1), alt.value(2.5))
    base = alt.Chart().encode(
        x=alt.X("heads:Q", title="heads pruned (%)"),
        y=alt.Y("value:Q", title="value", scale=alt.Scale(zero=False)),
        color=colour,
        detail="ranking:N",
    )
    line = base.mark_line().encode(strokeWidth=width)
    points = base.mark_point(filled=True, size=30, opacity=1).encode(tooltip=_tooltip())
    panels = list(dict.fromkeys(record["panel"] for record in shown))
    chart = (
        alt.layer(line, points, data=data_of(shown))
        .properties(width=WIDTH, height=HEIGHT)
        .facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=3)
    )
    caption = "A panel is the evaluated task; a line, heads pruned by the importance of one task; dots name it."
    return [Figure(f"transfer-{shots}shot", f"Transfer between tasks, {shots}-shot", caption, chart, shots)]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (size, value) points that no other point beats: none is as small or smaller and better.

    Of equal points all are on the front. By increasing size.
    """
    return [
        index
        for index, (size, value) in sorted(enumerate(points), key=lambda pair: (pair[1][0], -pair[1][1]))
        if not any((s <= size and v > value) or (s < size and v >= value) for s, v in points)
    ]


def pareto(board: Board, shots: int) -> list[Figure]:
    """The average against what is left of the model, by parameters and by FLOPs, with the Pareto front."""
    panels = [
        (key, title, [e for e in board.entries if e.num_fewshot == shots and e.average and getattr(e, key) is not None])
        for key, title in (("parameters_left", "parameters left (%)"), ("flops_left", "FLOPs left (%)"))
    ]
    rankings = list(dict.fromkeys(_family(entry) for _, _, found in panels for entry in found))
    charts = [_pareto_panel(board, key, title, found, rankings) for key, title, found in panels if len(found) > 1]
    if not charts:
        return []
    chart = alt.concat(*charts, columns=2)
    caption = "The line is the Pareto front over all variants: none that is as small has a better average."
    return [Figure(f"pareto-{shots}shot", f"What size costs, {shots}-shot", caption, chart, shots)]


def _family(entry: Entry) -> str:
    return entry.ranking + (", oracle" if entry.oracle else "")


def _pareto_panel(
    board: Board, key: str, title: str, entries: Sequence[Entry], rankings: Sequence[str]
) -> alt.LayerChart:
    points = [(getattr(entry, key), entry.average.value) for entry in entries if entry.average]
    front = set(pareto_front(points))
    values = [
        {
            "left": rounded(100 * size),
            "value": rounded(value),
            "ranking": _family(entry),
            "variant": entry.label,
            "front": "on the front" if place in front else "",
            "difference": explain_difference(entry.average.difference, entry.average.verdict) or "dense",
        }
        for place, (entry, (size, value)) in enumerate(zip(entries, points, strict=True))
        if entry.average
    ]
    base = alt.Chart(data_of(values)).encode(
        x=alt.X("left:Q", title=title, scale=alt.Scale(zero=False, padding=8)),
        y=alt.Y("value:Q", title=board.average_name, scale=alt.Scale(zero=False, padding=8)),
    )
    line = base.transform_filter("datum.front != ''").mark_line(color="#888888", interpolate="step-after")
    colour = alt.Color(
        "ranking:N",
        title="ranking",
        scale=alt.Scale(domain=list(rankings), range=_cycled(COLOURS, rankings)),
        legend=alt.Legend(orient="bottom", columns=3, labelLimit=280),
    )
    marks = base.mark_point(filled=True, size=70, opacity=0.9).encode(
        color=colour,
        shape=alt.Shape(
            "ranking:N", title="ranking", scale=alt.Scale(domain=list(rankings), range=_cycled(SHAPES, rankings))
        ),
        tooltip=[
            alt.Tooltip("variant:N", title="variant"),
            alt.Tooltip("left:Q", title=title, format=".1f"),
            alt.Tooltip("value:Q", title=board.average_name, format=".4f"),
            alt.Tooltip("difference:N", title="difference"),
            alt.Tooltip("front:N", title="Pareto"),
        ],
    )
    return alt.layer(line, marks).properties(width=320, height=260)


def _cycled(values: Sequence[str], names: Sequence[str]) -> list[str]:
    return [values[place % len(values)] for place in range(len(names))]
