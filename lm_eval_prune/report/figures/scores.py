"""What importance and induction scores say: where the important heads and FFNs lie, and whether rankings agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lm_eval_prune.analysis import retained_capacity, spearman_matrix
from lm_eval_prune.errors import ScoreError
from lm_eval_prune.file_names import slug
from lm_eval_prune.intervals import Z
from lm_eval_prune.report.figures.form import Figure, in_words, shortened
from lm_eval_prune.report.figures.marks import Axis, Colour, heat, lines, panels, rounded
from lm_eval_prune.report.figures.raster import rank_pictures
from lm_eval_prune.report.figures.style import ranking_order
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.report.score_sets import AGGREGATE, ScoreSet, is_aggregate

__all__ = ["null_reach", "score_figures"]

MOST_CELLS = 40_000
"""Heads in one figure that are marks of their own, with tooltips; maps of every task of a larger model are pictures."""
LOSS = "loss"
"""What a knockout may have measured, instead of a metric of the task."""


def score_figures(found: ScoreSet, tasks: Sequence[str], shots: Sequence[int], of: str = "") -> Iterator[Figure]:
    """The figures of one model's scores; maps of single tasks for `tasks` at `shots` only."""
    for component, method in found.importance:
        if component == "heads":
            measured = _measured(found, component, method)
            yield _maps(found.aggregates(component, method), method, measured, of)
            yield from _task_maps(found.importance[component, method], method, measured, tasks, shots, of)
        else:
            yield _by_layer(found, component, method, of)
    for component, method in found.importance:
        if len(found.importance[component, method]) > 1:
            yield _agreement(found, component, method, of)
    if found.induction:
        yield _induction(found.induction, found.variance, of)
    yield from _retained(found, of)


def _heads_and_layers(scores: np.ndarray) -> tuple[Axis, Axis]:
    layers, heads = scores.shape
    return Axis("head", range(heads)), Axis("layer", range(layers))


def _shots_of(shots: int | None) -> str:
    return "any number of shots" if shots is None else shots_name(shots)


def _measured(found: ScoreSet, component: str, method: str) -> str:
    """What a score is, with the metric that it is of."""
    if not method.startswith("knockout"):
        return f"importance ({method})"
    metrics = list(found.metrics.get((component, method), ()))
    if metrics == [LOSS]:
        return "loss added by pruning it"
    return f"{in_words(metrics) or 'metric'} lost by pruning it"


def _maps(grids: Mapping[int | None, np.ndarray], method: str, measured: str, of: str) -> Figure:
    named = {_shots_of(shots): grid for shots, grid in grids.items()}
    caption = (
        f"Importance of every head ({method}), the mean over tasks, at each number of shots. Colour is the share of "
        "heads that are less important: pruning 70 % of the heads removes those below 70."
    )
    axes = _heads_and_layers(next(iter(grids.values())))
    chart = heat(named, *axes, Colour(measured, "rank"), upwards=True)
    return Figure(f"importance-heads-{slug(method)}", f"Importance of heads: {method}{of}", caption, chart)


def _task_maps(
    by_name: Mapping[tuple[str, int | None], np.ndarray],
    method: str,
    measured: str,
    tasks: Sequence[str],
    shots: Sequence[int],
    of: str,
) -> Iterator[Figure]:
    for number in shots:
        grids = {task: by_name[task, number] for task in tasks if (task, number) in by_name}
        if len(grids) < 2:
            continue
        caption = (
            f"Importance of every head ({method}) to each task at {shots_name(number)}. Colour is the share of heads "
            "that are less important to that task."
        )
        axes = _heads_and_layers(next(iter(grids.values())))
        if sum(grid.size for grid in grids.values()) > MOST_CELLS:
            chart = rank_pictures(grids, *axes, measured)
        else:
            chart = heat(grids, *axes, Colour(measured, "rank"), upwards=True, columns=5, digits=3)
        name = f"importance-heads-{slug(method)}-{number}shot"
        yield Figure(name, f"Importance of heads by task, {shots_name(number)}: {method}{of}", caption, chart)


def _by_layer(found: ScoreSet, component: str, method: str, of: str) -> Figure:
    by_name = found.importance[component, method]
    means = found.aggregates(component, method)
    tasks = list(dict.fromkeys(task for task, _ in by_name if not is_aggregate(task)))
    grids = {}
    layers = len(next(iter(by_name.values())))
    for shots, mean in means.items():
        rows = [by_name.get((task, shots), np.full(layers, np.nan)) for task in tasks]
        grids[_shots_of(shots)] = np.array([mean, *rows])
    one, many = {"ffns": ("layer's FFN", "FFNs"), "attention": ("layer's attention", "attention")}.get(
        component, ("layer", "layers")
    )
    measured = _measured(found, component, method)
    below = " alone. Below 0 the model is better without it" if method.startswith("knockout") else ""
    caption = f"Importance of each {one} ({method}): {measured}{below}. The first row is the mean over tasks."
    axes = Axis("layer", range(layers)), Axis("", [AGGREGATE, *tasks])
    colour = Colour(measured, "diverging")
    chart = heat(grids, *axes, colour, text=".2f")
    title = f"Importance of {many} by layer: {method}{of}"
    return Figure(f"importance-{component}-{slug(method)}", title, caption, chart)


def _agreement(found: ScoreSet, component: str, method: str, of: str) -> Figure:
    by_name = found.importance[component, method]
    rows = {
        f"{task}{'' if shots is None else f', {shots_name(shots)}'}": scores
        for (task, shots), scores in sorted(by_name.items(), key=lambda item: (item[0][1] or 0, item[0][0]))
        if task != AGGREGATE
    }
    for shots, scores in found.aggregates(component, method).items():
        rows[f"{AGGREGATE}{'' if shots is None else f', {shots_name(shots)}'}"] = scores
    overall, within = spearman_matrix(list(rows.values()))
    shape = next(iter(rows.values())).shape
    grids = {f"whole model (at random ±{null_reach(shape):.2f})": overall}
    if component == "heads":
        grids[f"within layers (at random ±{null_reach(shape, within_layers=True):.2f})"] = within
    axis = Axis("", list(rows))
    chart = heat(grids, axis, axis, Colour("Spearman's rho", "diverging", (-1, 1)), text=".2f", digits=3, columns=2)
    noun = "FFNs" if component == "ffns" else component
    caption = (
        f"Spearman's rank correlation between the scores ({method}) of all {noun}, for every pair of tasks and numbers "
        "of shots, with their mean. Within layers, the mean over layers: what is left without the depth profile. "
        "Of two rankings at random, rho is within the limits above the panels 95 % of the time."
    )
    return Figure(f"agreement-{component}-{slug(method)}", f"Do rankings of {noun} agree? {method}{of}", caption, chart)


def null_reach(shape: Sequence[int], *, within_layers: bool = False) -> float:
    """How far from 0 Spearman's rho of two random rankings is, 95 % of the time, by its exact variance under them.

    The variance is 1/(n - 1) of n scores, and of its mean over L layers of H heads 1/(L (H - 1)) (Kendall, Rank
    Correlation Methods, 1948).
    """
    freedom = shape[0] * (shape[1] - 1) if within_layers else math.prod(shape) - 1
    return min(1.0, Z / math.sqrt(freedom)) if freedom > 0 else 1.0


def _induction(scores: Mapping[str, np.ndarray], variance: Mapping[str, np.ndarray], of: str) -> Figure:
    """The mean maps side by side, and below them those of the variance."""
    import altair as alt

    methods = sorted(scores, reverse=True)
    rows = [[_induction_map(method, "score", scores[method]) for method in methods]]
    if variance:
        rows.append([_induction_map(method, "variance", variance[method]) for method in methods if method in variance])
    caption = (
        "How much each head attends to the token that followed earlier occurrences of the present one (prefix "
        "matching), and how much it raises the tokens that it attends to (copying). Heads high in both are "
        "induction heads."
    )
    if variance:
        caption += " Below them their variance over the random sequences."
    chart = alt.vconcat(*(alt.hconcat(*row).resolve_scale(color="independent") for row in rows))
    chart = chart.resolve_scale(color="independent")
    return Figure("induction", f"Induction heads{of}", caption, chart)


def _induction_map(method: str, what: str, grid: np.ndarray) -> Any:
    name = _capacity_name(method)
    return heat(
        {name if what == "score" else f"{name}, {what}": grid},
        *_heads_and_layers(grid),
        Colour(f"{name} {what}", domain=(0.0, float(grid.max()))),
        upwards=True,
    )


def _retained(found: ScoreSet, of: str) -> Iterator[Figure]:
    """Capacity kept against the share of heads pruned by the aggregate scores, at random and by the capacity itself."""
    for method in [method for component, method in found.importance if component == "heads"]:
        points: list[dict[str, Any]] = []
        aggregates: list[str] = []
        for capacity_name, capacity in sorted(found.induction.items(), reverse=True):
            rankings = {
                f"{AGGREGATE}{'' if shots is None else f', {shots_name(shots)}'}": scores
                for shots, scores in found.aggregates("heads", method).items()
            }
            rankings["the capacity itself"] = capacity
            try:
                points += _retained_points(capacity_name, rankings, capacity)
            except ScoreError:  # all zero: there is no capacity to retain
                continue
            aggregates = [ranking for ranking in rankings if ranking != "the capacity itself"]
        if points:
            yield _retained_figure(points, aggregates, method, of)


def _capacity_name(method: str) -> str:
    """`copying-olsson2022` in words."""
    name = method.replace("prefix-matching", "prefix matching")
    kind, _, definition = name.partition("copying-")
    return shortened(f"copying ({definition})" if not kind and definition else name)


def _retained_points(name: str, rankings: Mapping[str, np.ndarray], capacity: np.ndarray) -> list[dict[str, Any]]:
    points = []
    for ranking, scores in rankings.items():
        for point in retained_capacity(scores, capacity):
            points.append(_retained_point(name, ranking, float(point.fraction), point.retained))
            if ranking == "the capacity itself":
                expected = 1 - float(point.fraction)
                points.append(_retained_point(name, "at random (expected)", float(point.fraction), expected))
    return points


def _retained_point(panel: str, ranking: str, fraction: float, retained: float) -> dict[str, Any]:
    share, value = round(100 * fraction, 4), rounded(100 * retained)
    return {"panel": _capacity_name(panel), "series": ranking, "share": share, "value": value}


def _retained_figure(points: Sequence[dict[str, Any]], aggregates: Sequence[str], method: str, of: str) -> Figure:
    # The colours are those that rankings have in all figures; the capacity's own has the dense model's.
    ours = {"dense": "the capacity itself", "random": "at random (expected)"}
    domain = [ours.get(name, name) for name in ranking_order(aggregates)]
    series = ["the capacity itself", *aggregates, "at random (expected)"]
    x, y = "heads pruned (%)", "capacity retained (%)"
    chart = lines(points, series, name="ranking", x=x, y=y, domain=domain)
    caption = (
        "The share of the model's total prefix-matching and copying scores that the kept heads hold. A line above the "
        "random one: the heads that matter to the tasks are also those that do induction. No ranking can be above that "
        "by the capacity itself."
    )
    return Figure(
        f"retained-capacity-{slug(method)}",
        f"Induction capacity retained: {method}{of}",
        caption,
        panels(chart, "panel", list(dict.fromkeys(point["panel"] for point in points)), columns=2),
    )
