"""The study's figures of scores: importance, knockout, rank agreement, induction heads, retained capacity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from scipy.stats import rankdata

from lm_eval_prune.analysis import retained_capacity
from lm_eval_prune.errors import ScoreError
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.drawing import COLOURS, DIVERGING, SEQUENTIAL, Figure, data_of

__all__ = ["score_figures", "spearman_matrix"]

Named = list[tuple[str, ImportanceScores]]
"""Scores with their names, such as `piqa, 5-shot`."""
PANELS = 12
"""At most, in a figure on paper."""


def score_figures(found: Sequence[tuple[Path, ImportanceScores]]) -> list[Figure]:
    """Every figure that these importance and induction files allow."""
    heads = [(path, scores) for path, scores in found if scores.component == "heads"]
    capacity = [
        (str(scores.settings.get("method")), scores)
        for _, scores in heads
        if str(scores.settings.get("method", "")).startswith(("prefix-matching", "copying"))
    ]
    rest = [pair for pair in heads if not any(pair[1] is scores for _, scores in capacity)]
    figures = []
    for method, named in _by_method(rest).items():
        figures += importance_heatmaps(named, method)
        figures += rank_agreement(named, method)
        figures += retained(named, capacity, method)
    for method, named in _by_method([pair for pair in found if pair[1].component == "ffns"]).items():
        figures += ffn_scores(named, method)
    return figures + induction_heatmaps(capacity)


def _by_method(found: Sequence[tuple[Path, ImportanceScores]]) -> dict[str, Named]:
    """Method -> named scores of one shape (that of the method's first file), aggregates first."""
    methods: dict[str, Named] = {}
    for path, scores in found:
        method = str(scores.settings.get("method", "unknown"))
        named = methods.setdefault(method, [])
        if named and named[0][1].shape != scores.shape:
            continue
        name = _name(path, scores)
        if all(other != name for other, _ in named):
            named.append((name, scores))
    order = {"aggregate": 0}
    return {m: sorted(named, key=lambda pair: order.get(pair[0].split(",")[0], 1)) for m, named in methods.items()}


def _name(path: Path, scores: ImportanceScores) -> str:
    task, shots = scores.settings.get("task"), scores.settings.get("num_fewshot")
    if task is None:
        return path.stem
    return str(task) if shots is None else f"{task}, {shots}-shot"


def _flattened(named: Named) -> alt.Data:
    """Rows of scores inside the chart; `_heatmap` unfolds them, at a fifth of the size of one record a head."""
    return data_of(
        [
            {"panel": name, "layer": layer, "score": [float(f"{score:.3g}") for score in row]}
            for name, scores in named
            for layer, row in enumerate(scores.scores)  # type: ignore[arg-type]
            for row in [row]
        ]
    )


def _heatmap(named: Named, title: str, *, log: bool = False) -> alt.Chart:
    """Layers x heads of `named` (one panel, or to be faceted by `panel`)."""
    layers, heads = named[0][1].shape
    step = max(4, min(16, 260 // max(layers, heads)))
    positive = log and all(np.min(scores.scores) > 0 for _, scores in named)
    return (
        alt.Chart(_flattened(named))
        .transform_flatten(["score"])
        .transform_window(number="row_number()", groupby=["panel", "layer"])
        .transform_calculate(head="datum.number - 1")
        .mark_rect()
        .encode(
            x=alt.X("head:O", title="head", axis=_ticks(heads)),
            y=alt.Y("layer:O", title="layer", sort="descending", axis=_ticks(layers)),
            color=alt.Color(
                "score:Q",
                title=title,
                scale=alt.Scale(scheme=SEQUENTIAL, type="log" if positive else "linear"),
                legend=alt.Legend(format=".1e" if positive else ".2f", gradientLength=120),
            ),
            tooltip=[
                alt.Tooltip("panel:N", title="scores"),
                alt.Tooltip("layer:O"),
                alt.Tooltip("head:O"),
                alt.Tooltip("score:Q", title=title, format=".4g"),
            ],
        )
        .properties(width=alt.Step(step), height=alt.Step(step))
    )


def _ticks(count: int) -> alt.Axis:
    step = 1 if count <= 16 else 4 if count <= 48 else 8
    return alt.Axis(labelAngle=0, values=list(range(0, count, step)))


def importance_heatmaps(named: Named, method: str) -> list[Figure]:
    """What every head is worth, layers x heads; the page shows one at a time where there are many."""
    if not named:
        return []
    title = f"Importance of every head ({method})"
    panels = [name for name, _ in named[:PANELS]]
    static = _heatmap(named[:PANELS], "importance", log=True).facet(
        facet=alt.Facet("panel:N", title=None, sort=panels), columns=3
    )
    slug = f"importance-heads-{_slug(method)}"
    if len(named) <= 3:
        return [Figure(slug, title, "Layers counted from 0 at the bottom.", static)]
    names = [name for name, _ in named]
    choice = alt.param("scores", value=names[0], bind=alt.binding_select(options=names, name="Scores: "))
    chart = _heatmap(named, "importance", log=True).add_params(choice).transform_filter("datum.panel == scores")
    caption = "Layers counted from 0 at the bottom; choose the scores below the figure."
    return [Figure(slug, title, caption, chart, static=static)]


def induction_heatmaps(capacity: Named) -> list[Figure]:
    """Prefix-matching and copying scores of every head, each on its own scale."""
    if not capacity:
        return []
    charts = [_heatmap([(name, scores)], "score").properties(title=name) for name, scores in capacity]
    chart = alt.concat(*charts, columns=2).resolve_scale(color="independent")
    caption = "Heads with a high prefix-matching score attend to what followed the same token before: induction heads."
    return [Figure("induction", "Prefix matching and copying", caption, chart)]


def ffn_scores(named: Named, method: str) -> list[Figure]:
    """What every FFN is worth, by layer."""
    values = [
        {"panel": name, "layer": layer, "score": score}
        for name, scores in named
        for layer, score in enumerate(scores.scores)
    ]
    if not values:
        return []
    title = "metric lost without the layer's FFN" if method == "knockout" else "importance"
    layers = named[0][1].num_hidden_layers
    bars = (
        alt.Chart()
        .mark_bar(color=COLOURS[0])
        .encode(
            x=alt.X("layer:O", title="layer", axis=_ticks(layers)),
            y=alt.Y("score:Q", title=title),
            tooltip=[
                alt.Tooltip("panel:N", title="scores"),
                "layer:O",
                alt.Tooltip("score:Q", title=title, format="+.4f"),
            ],
        )
    )
    zero = alt.Chart().mark_rule(color="#888888").encode(y=alt.datum(0))
    chart = (
        alt.layer(bars, zero, data=data_of(values))
        .properties(width=max(170, min(260, 8 * layers)), height=110)
        .facet(facet=alt.Facet("panel:N", title=None, sort=[name for name, _ in named]), columns=3)
    )
    caption = "Below 0: the model does better without that FFN." if method == "knockout" else "By layer."
    return [Figure(f"ffns-{_slug(method)}", f"FFNs by layer ({method})", caption, chart)]


def spearman_matrix(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """(n, n): Spearman's rho of every pair of rows of scores; nan for constant rows."""
    ranks = np.array([rankdata(row) for row in rows])
    centred = ranks - ranks.mean(1, keepdims=True)
    norms = np.sqrt((centred**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (centred @ centred.T) / np.outer(norms, norms)


def rank_agreement(named: Named, method: str) -> list[Figure]:
    """Spearman's rho of every pair of tasks and shots, with their mean and random scores."""
    single = [(name, scores) for name, scores in named if not name.startswith("aggregate")]
    if len(single) < 2:
        return []
    rows = {name: np.asarray(scores.scores, dtype=float).ravel() for name, scores in single}
    rows["aggregate"] = np.mean(list(rows.values()), axis=0)
    rows["random"] = np.random.default_rng(1234).random(rows["aggregate"].size)
    matrix = spearman_matrix(list(rows.values()))
    names = list(rows)
    values = [
        {"first": first, "second": second, "rho": round(float(matrix[i, j]), 3)}
        for i, first in enumerate(names)
        for j, second in enumerate(names)
        if not np.isnan(matrix[i, j])
    ]
    step = 34 if len(names) <= 14 else 13
    base = alt.Chart(data_of(values)).encode(
        x=alt.X("first:N", title=None, sort=names, axis=alt.Axis(labelAngle=-60, labelLimit=160)),
        y=alt.Y("second:N", title=None, sort=names, axis=alt.Axis(labelLimit=160)),
    )
    scale = alt.Scale(scheme=DIVERGING, domain=[-1, 1])
    cells = base.mark_rect().encode(
        color=alt.Color("rho:Q", title="Spearman's rho", scale=scale),
        tooltip=["first:N", "second:N", alt.Tooltip("rho:Q", title="Spearman's rho", format="+.3f")],
    )
    chart: Any = cells
    if len(names) <= 14:
        ink = alt.condition("abs(datum.rho) > 0.6", alt.value("#ffffff"), alt.value("#111111"))
        chart = alt.layer(cells, base.mark_text(fontSize=10).encode(text=alt.Text("rho:Q", format=".2f"), color=ink))
    chart = chart.properties(width=alt.Step(step), height=alt.Step(step))
    caption = (
        "Rank correlation of the scores over all heads; aggregate is their mean, random scores are for comparison."
    )
    return [Figure(f"agreement-heads-{_slug(method)}", f"Agreement of head rankings ({method})", caption, chart)]


def retained(named: Named, capacity: Named, method: str) -> list[Figure]:
    """The share of the prefix-matching and copying scores that is left when the least important heads go."""
    chosen = [pair for pair in named if pair[0].startswith("aggregate")] or named[:6]
    values = []
    for kind, scores in capacity:
        for name, importance in chosen:
            if importance.shape != scores.shape:
                continue
            try:
                points = retained_capacity(importance.scores, scores.scores)
            except ScoreError:
                continue
            values += [
                {"panel": kind, "ranking": name, "pruned": float(100 * p.fraction), "kept": round(100 * p.retained, 3)}
                for p in points
            ]
        values += [{"panel": kind, "ranking": "by chance", "pruned": 10 * k, "kept": 100 - 10 * k} for k in range(11)]
    if not any(value["ranking"] != "by chance" for value in values):
        return []
    rankings = [*dict.fromkeys(value["ranking"] for value in values if value["ranking"] != "by chance"), "by chance"]
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(rankings) - 1)] + ["#888888"]
    chart = (
        alt.Chart(data_of(values))
        .mark_line(point=True)
        .encode(
            x=alt.X("pruned:Q", title="heads pruned (%)"),
            y=alt.Y("kept:Q", title="capacity kept (%)"),
            color=alt.Color("ranking:N", title="pruned by", scale=alt.Scale(domain=rankings, range=colours)),
            strokeDash=alt.condition("datum.ranking == 'by chance'", alt.value([4, 4]), alt.value([1, 0])),
            tooltip=[
                "ranking:N",
                alt.Tooltip("pruned:Q", title="heads pruned (%)"),
                alt.Tooltip("kept:Q", format=".1f"),
            ],
        )
        .properties(width=240, height=180)
        .facet(facet=alt.Facet("panel:N", title=None), columns=2)
    )
    caption = "Above the dashed line the ranking keeps induction heads longer than chance would."
    return [Figure(f"retained-{_slug(method)}", f"Induction capacity kept ({method})", caption, chart)]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "scores"
