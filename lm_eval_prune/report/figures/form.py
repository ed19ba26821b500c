"""What a figure is, and how names become file names and short texts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import altair as alt

__all__ = ["Figure", "shortened", "slug", "title_of", "unique_names"]

LONGEST = 60
"""Characters of a name in a title, a caption or a file name."""


class Figure(NamedTuple):
    """A chart and what is to be said of it."""

    name: str
    """Safe as a file name and as an HTML id; no two of a report are the same."""
    title: str
    caption: str
    """What is shown, and how to read it."""
    chart: alt.TopLevelMixin


def slug(text: str) -> str:
    """Lower-case letters, digits and dashes of `text`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:LONGEST].strip("-") or "unnamed"


def shortened(text: str) -> str:
    """`text` on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def title_of(text: str) -> str:
    """`text` as a title in a chart. Vega writes titles into expressions without minding their backslashes."""
    return shortened(text).replace("\\", "\N{SET MINUS}")


def unique_names(figures: Iterable[Figure]) -> list[Figure]:
    """The figures, the second and further ones of a name numbered."""
    seen: set[str] = set()
    renamed = []
    for figure in figures:
        name, number = figure.name, 1
        while name in seen:
            number += 1
            name = f"{figure.name}-{number}"
        seen.add(name)
        renamed.append(figure._replace(name=name))
    return renamed
