"""Figures as files: SVG, PNG and PDF, without a browser and without the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import write_bytes
from lm_eval_prune.report.figures.form import Figure, title_of
from lm_eval_prune.report.figures.style import LIGHT, spec
from lm_eval_prune.report.vega import converted

__all__ = ["FORMATS", "require_formats", "write_figures"]

FORMATS = ("svg", "png", "pdf")
PNG_SCALE = 2.0
"""Pixels of the file for one of the figure."""

SLACK = {"left": 18, "right": 44, "top": 6, "bottom": 22}
"""Pixels around a figure: an SVG is laid out for one font, and shown in whatever its reader has, which may be wider."""


def require_formats(formats: Sequence[str]) -> None:
    """Raise ArgumentError for a format that figures are not written in."""
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ArgumentError(f"figures {unknown[0]!r}: unknown; expected some of {', '.join(FORMATS)}")


def write_figures(figures: Iterable[Figure], folder: Path, formats: Sequence[str] = ("svg",)) -> list[Path]:
    """Write each figure as `<name>.<format>`, on white, under its title.

    Raises ArgumentError for an unknown format, ChartError where the charts' library fails; then nothing is written.
    """
    require_formats(formats)
    drawn = {folder / f"{figure.name}.{name}": (_spec(figure), name) for figure in figures for name in formats}
    if not drawn:
        return []
    for path, data in zip(drawn, converted(list(drawn.values()), PNG_SCALE), strict=True):
        write_bytes(path, data)
    return list(drawn)


def _spec(figure: Figure) -> dict[str, Any]:
    return {**spec(figure.chart, LIGHT, title_of(figure.title)), "padding": SLACK}
