"""What a figure is, and how names become short texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from lm_eval_prune.file_names import numbered

if TYPE_CHECKING:
    import altair as alt

__all__ = ["Figure", "in_words", "shortened", "title_of", "unique_names"]

LONGEST = 60
"""Characters of a name in a title or a caption."""


WORDS = {
    "acc": "accuracy",
    "acc_norm": "accuracy by length",
    "em": "exact match",
    "exact_match": "exact match",
    "f1": "F1",
    "word_perplexity": "perplexity",
}
"""Metrics, as axes call them; others by their names."""


def in_words(metrics: Iterable[str]) -> str:
    """Metrics as an axis calls them."""
    return ", ".join(dict.fromkeys(WORDS.get(metric, metric) for metric in metrics))


class Figure(NamedTuple):
    """A chart and what is to be said of it."""

    name: str
    """Safe as a file name and as an HTML id; no two of a report are the same."""
    title: str
    caption: str
    """What is shown, and how to read it."""
    chart: alt.TopLevelMixin


def shortened(text: str) -> str:
    """`text` on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def title_of(text: str) -> str:
    """`text` as a title in a chart. Vega writes titles into expressions without minding their backslashes."""
    return shortened(text).replace("\\", "\N{SET MINUS}")


def unique_names(figures: Iterable[Figure]) -> list[Figure]:
    """The figures, the second and further ones of a name numbered."""
    figures = list(figures)
    names = numbered(figure.name for figure in figures)
    return [figure._replace(name=name) for figure, name in zip(figures, names, strict=True)]
