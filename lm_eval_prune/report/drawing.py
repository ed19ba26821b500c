"""What all figures share: their form, colours that colour-blind readers can tell apart, and files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt

from lm_eval_prune.files import write_bytes

__all__ = [
    "COLOURS",
    "DIVERGING",
    "SEQUENTIAL",
    "SHAPES",
    "Figure",
    "data_of",
    "rounded",
    "specification",
    "write_figures",
]

COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#999933", "#882255"]
"""Okabe and Ito's, without black and yellow, which one of the light and the dark page would hide; two of Tol's."""
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
"""Beside the colours, so that neither is needed alone."""
SEQUENTIAL, DIVERGING = "viridis", "purpleorange"


class Figure(NamedTuple):
    """A figure of the page and of the files."""

    name: str
    """Of its file, without the ending."""
    title: str
    caption: str
    """What it shows, in a sentence or two."""
    chart: Any
    """An altair chart."""
    num_fewshot: int | None = None
    """None where it is of no one number of shots."""
    static: Any = None
    """The chart for files, where `chart` needs a reader's choice."""


def data_of(values: Sequence[dict[str, Any]]) -> alt.Data:
    """Records inside the chart: it needs no other file."""
    return alt.Data(values=list(values))


def rounded(value: float | None) -> float | None:
    """Five digits after the point: what a figure can show."""
    return None if value is None or value != value else round(value, 5)


def specification(chart: Any) -> dict[str, Any]:
    """The chart's Vega-Lite specification. Colours of text and background are left to who shows it."""
    specified = chart.to_dict()
    specified.pop("config", None)  # altair's view defaults, which the page and `write_figures` set themselves
    return specified


CONFIG = {
    "background": "white",
    "font": "sans-serif",
    "view": {"stroke": "#cccccc"},
    "axis": {"gridColor": "#e5e5e5"},
    "legend": {"symbolLimit": 40, "labelLimit": 300},
    "title": {"anchor": "start"},
}


def write_figures(figures: Sequence[Figure], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write every figure in each of `formats` (`svg`, `png`, `pdf`), without a browser; returns the paths."""
    if not formats:
        return []
    import vl_convert

    convert = {"svg": vl_convert.vegalite_to_svg, "png": vl_convert.vegalite_to_png, "pdf": vl_convert.vegalite_to_pdf}
    version = vegalite_version()
    paths = []
    for figure in figures:
        specified = json.dumps({**specification(figure.static or figure.chart), "config": CONFIG})
        for form in formats:
            options = {"scale": 2.0} if form == "png" else {}
            made = convert[form](specified, vl_version=version, **options)
            path = folder / f"{figure.name}.{form}"
            write_bytes(path, made.encode() if isinstance(made, str) else made)
            paths.append(path)
    return paths


def vegalite_version() -> str:
    """The version of Vega-Lite that altair writes, as vl-convert counts: `6.1`."""
    found = re.match(r"v?(\d+\.\d+)", alt.SCHEMA_VERSION)
    assert found, alt.SCHEMA_VERSION
    return found[1]
