"""Grids of many cells as pictures: a PNG of a few kilobytes a panel, where marks would be tens of thousands."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from lm_eval_prune.report.figures.form import title_of
from lm_eval_prune.report.figures.marks import RANK, Axis, panels

__all__ = ["percentiles", "png", "rank_pictures"]

VIRIDIS = (
    "440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725",
)  # fmt: skip
"""The colour map, by tenths; between them colours are mixed."""
COLOURS = 255
"""In a picture; one more entry of its palette is for cells without a value, which are transparent."""
ENLARGED = 4
"""Pixels of a cell in the picture, to each side."""
SHOWN = 2
"""The same on the page: pictures are as sharp on screens of twice the pixels."""


def rank_pictures(
    grids: Mapping[str, NDArray], x: Axis, y: Axis, title: str, *, columns: int = 5, upwards: bool = True
) -> alt.FacetChart:
    """A panel for each of `grids`, as `marks.heat` has it of colours that are ranks; single cells have no tooltip.

    grids: (rows of `y`, columns of `x`) each; `upwards` has the first row at the bottom.
    """
    rows = [
        {"panel": name, "picture": _data_uri(png(percentiles(grid), upwards=upwards))} for name, grid in grids.items()
    ]
    width, height = SHOWN * len(x.names), SHOWN * len(y.names)
    centre = {"x": (len(x.names) - 1) / 2, "y": (len(y.names) - 1) / 2}
    base = alt.Chart(width=width, height=height).encode(
        alt.X("x:Q", title=x.title or None, scale=_scale(len(x.names)), axis=_axis()),
        alt.Y("y:Q", title=y.title or None, scale=_scale(len(y.names), reverse=not upwards), axis=_axis()),
        tooltip=[alt.Tooltip("panel:N", title=" ")],
        description="panel:N",  # for who listens; otherwise it would be all of the picture's bytes
    )
    pictures = base.mark_image(width=width, height=height, align="center", baseline="middle").encode(url="picture:N")
    legend = alt.Legend(format=".3~g", gradientOpacity=1)
    colours = alt.Color(
        "level:Q",
        title=[title_of(title), RANK],
        scale=alt.Scale(scheme="viridis", domain=[0, 100]),
        legend=legend,
    )
    unseen = base.mark_point(opacity=0, size=0).encode(colours)
    data = alt.Data(values=[{**row, **centre, "level": 0} for row in rows])
    return panels(alt.layer(pictures, unseen, data=data), "panel", list(grids), columns)


def percentiles(grid: NDArray) -> NDArray:
    """The share of the other cells that are lower, in percent; nan where a cell has no value."""
    from scipy.stats import rankdata

    values = np.asarray(grid, dtype=float)
    found = np.full(values.shape, np.nan)
    there = ~np.isnan(values)
    count = int(there.sum())
    if count:
        found[there] = 100 * (rankdata(values[there], method="min") - 1) / max(1, count - 1)
    return found


def png(levels: NDArray, *, upwards: bool = True) -> bytes:
    """A picture of `levels` (rows, columns) from 0 to 100, nan transparent, each cell a square of ENLARGED pixels.

    `upwards` has the first row at the bottom. Indexed colours (PNG specification, 3rd edition, colour type 3).
    """
    index = np.where(np.isnan(levels), 0, 1 + np.round(np.nan_to_num(levels) / 100 * (COLOURS - 1))).astype(np.uint8)
    pixels = np.kron(index[::-1] if upwards else index, np.ones((ENLARGED, ENLARGED), dtype=np.uint8))
    height, width = pixels.shape
    lines = np.hstack([np.zeros((height, 1), dtype=np.uint8), pixels])  # each line begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", b"\0\0\0" + _palette()), (b"tRNS", b"\0")]
    chunks += [(b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _palette() -> bytes:
    """COLOURS colours of three bytes, from the lowest to the highest."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in VIRIDIS])
    places = np.linspace(0, len(anchors) - 1, COLOURS)
    mixed = [np.interp(places, range(len(anchors)), anchors[:, part]) for part in range(3)]
    return np.round(np.stack(mixed, axis=1)).astype(np.uint8).tobytes()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _data_uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _scale(number: int, *, reverse: bool = False) -> alt.Scale:
    """Whole numbers in the middle of their cells."""
    return alt.Scale(domain=[-0.5, number - 0.5], nice=False, zero=False, reverse=reverse)


def _axis() -> Any:
    return alt.Axis(tickMinStep=1, grid=False, format="d")
