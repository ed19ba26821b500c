"""The figures of a study as altair charts, for the page and for files.

Colours, fonts and backgrounds are no part of a chart: `style.LIGHT` and `style.DARK` are Vega configurations for the
two backgrounds, and `style.spec` joins a chart and one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lm_eval_prune.file_names import slug
from lm_eval_prune.report.board import Board
from lm_eval_prune.report.figures.form import Figure, shortened, unique_names
from lm_eval_prune.report.reading import Collection
from lm_eval_prune.report.score_sets import score_sets

__all__ = ["Figure", "figures", "main_figure"]


def figures(board: Board, collection: Collection) -> list[Figure]:
    """Every figure for which there is data; `collection` is what `board` was made of.

    Needs altair (`vega.why_no_charts`); the page and the other files do without.
    """
    from lm_eval_prune.report.figures.curves import curve_figures
    from lm_eval_prune.report.figures.pareto import pareto_figures
    from lm_eval_prune.report.figures.scores import score_figures

    found = list(pareto_figures(board))
    for model in board.models:
        entries = [entry for entry in board.entries if entry.model == model]
        made = curve_figures(board, entries, _of(model, board.models))
        found += _named(made, model, board.models)
    sets = score_sets(collection.importance)
    models = [scores.model for scores in sets]
    tasks = [column.task for column in board.columns]
    shots = sorted({run.num_fewshot for entry in board.entries for run in entry.runs})
    for scores in sets:
        made = score_figures(scores, tasks, shots, _of(scores.model, models))
        found += _named(made, scores.model, models)
    return unique_names(found)


def main_figure(board: Board, model: str, num_fewshot: int, component: str) -> Figure | None:
    """The average against the share pruned of one model at one number of shots; None where that is no curve."""
    from lm_eval_prune.report.figures.curves import curve_figures

    entries = [entry for entry in board.entries if (entry.model, entry.num_fewshot) == (model, num_fewshot)]
    made = curve_figures(replace(board, entries=entries), entries)
    return next((figure for figure in made if figure.name.startswith(f"{component.lower()}-rankings")), None)


def _of(model: str, models: list[str]) -> str:
    return f", {shortened(model)}" if len(models) > 1 else ""


def _named(made: Iterable[Figure], model: str, models: list[str]) -> list[Figure]:
    """The figures, with the model in their names where there are several."""
    suffix = f"-{slug(model)}" if len(models) > 1 else ""
    return [figure._replace(name=figure.name + suffix) for figure in made]
