"""How all figures look: colours that colour-blind readers tell apart, on a light and on a dark background.

A ranking has the same colour in every figure: categories take theirs from the configuration by their place in
`ranking_order`, in which the usual rankings have fixed places: the first colour is the dense model's, then seven hues
of Okabe and Ito, then the same again; dashes tell the rounds apart. Rankings of one kind (`aggregate`,
`aggregate:5`) share a hue. Numbers of shots are shades, from few to many. Heat is viridis, or blue to orange around 0.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

__all__ = ["DARK", "LIGHT", "category_dashes", "ranking_order", "spec"]

HUES = 7
ROUNDS = 4
RANKINGS = ("dense", "own", "aggregate", "random")
"""Have the first colours, whether they are there or not."""
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
"""One a round."""


def _theme(ink: str, faint: str, grid: str, background: str, hues: list[str], shades: list[str]) -> dict[str, Any]:
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "background": background,
        "font": "'Liberation Sans', Arial, Helvetica, sans-serif",
        "view": {"stroke": grid},
        "axis": {**text, "domainColor": faint, "tickColor": faint, "gridColor": grid, "labelLimit": 180},
        "legend": {**text, "labelLimit": 220, "symbolStrokeWidth": 2, "symbolLimit": 60},
        "header": {**text, "labelLimit": 220},
        "title": {"color": ink, "fontSize": 13, "fontWeight": "normal", "limit": 900, "anchor": "start", "offset": 12},
        "style": {"faint-line": {"color": faint, "stroke": faint}},
        "text": {"color": ink},
        "range": {"category": [ink, *hues * ROUNDS], "ordinal": shades},
    }


LIGHT = _theme(
    "#1b1b1b", "#767676", "#e3e3e3", "white",
    ["#0072b2", "#d55e00", "#8c8c8c", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"],
    ["#8ec1e8", "#2f7fbf", "#0a2f5c", "#d55e00", "#009e73", "#cc79a7"],
)  # fmt: skip
DARK = _theme(
    "#f2f2f2", "#9a9a9a", "#3a3a3a", "transparent",
    ["#4fa8e0", "#f08040", "#a8a8a8", "#2fc79b", "#e29bc2", "#f0b93a", "#8fd0f5"],
    ["#2b5f8c", "#5aa5de", "#d8ecfb", "#f08040", "#2fc79b", "#e29bc2"],
)  # fmt: skip


def ranking_order(rankings: Iterable[str]) -> list[str]:
    """All of a board's rankings, and those of RANKINGS, in the order of their colours.

    What is of a kind with one of RANKINGS (`aggregate:5`; `own, oracle`) has its hue: in its place where that
    itself is not there, else a round on, with another dash. Places that are left free on the way are names that no
    ranking has, and no legend shows.
    """
    there, left = set(rankings), []
    kinds = {ranking: re.split("[:,]", ranking)[0] for ranking in sorted(there - set(RANKINGS))}
    taken = (*RANKINGS[:1], *(name for name in RANKINGS[1:] if name in there or name not in kinds.values()))
    places = {RANKINGS.index(name): name for name in taken}
    for ranking, kind in kinds.items():
        first = RANKINGS.index(kind) if kind in RANKINGS[1:] else HUES * ROUNDS
        fitting = [place for place in range(first, HUES * ROUNDS, HUES) if place not in places]
        if fitting:
            places[fitting[0]] = ranking
        else:
            left.append(ranking)
    free = (place for place in itertools.count(len(RANKINGS)) if place not in places)
    for ranking in left:
        places[next(free)] = ranking
    return [places.get(place, f"\N{ZERO WIDTH SPACE}{place}") for place in range(max(places) + 1)]


def category_dashes(count: int) -> list[list[int]]:
    """A dash pattern for each of `count` categories, in the order of the colours."""
    rounds = [DASHES[0]] + [dash for dash in DASHES for _ in range(HUES)]
    return [rounds[place % len(rounds)] for place in range(count)]


def spec(chart: alt.TopLevelMixin, theme: dict[str, Any] = LIGHT, title: str = "") -> dict[str, Any]:
    """The chart as a Vega-Lite specification with all its data."""
    return {**chart.to_dict(), **({"title": title} if title else {}), "config": theme}
