"""The figures of a study as altair charts, for the page and for files.

Colours, fonts and backgrounds are no part of a chart: `style.LIGHT` and `style.DARK` are Vega configurations for the
two backgrounds, and `style.spec` joins a chart and one of them.
"""

from __future__ import annotations

from lm_eval_prune.report.board import Board
from lm_eval_prune.report.figures.form import Figure, unique_names
from lm_eval_prune.report.figures.pareto import pareto_figures
from lm_eval_prune.report.reading import Collection

__all__ = ["Figure", "figures"]


def figures(board: Board, collection: Collection) -> list[Figure]:
    """Every figure for which there is data; `collection` is what `board` was made of."""
    return unique_names(pareto_figures(board))
