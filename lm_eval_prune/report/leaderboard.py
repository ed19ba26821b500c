"""From folders to a leaderboard on disk, in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lm_eval_prune.errors import ChartError
from lm_eval_prune.report.agreement import Family, agreement_families, write_agreement
from lm_eval_prune.report.areas import write_areas
from lm_eval_prune.report.board import Board
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.exports import require_exports, write_exports
from lm_eval_prune.report.figures import Figure, figures
from lm_eval_prune.report.figures.files import require_formats, write_figures
from lm_eval_prune.report.page.provenance import board_command, run_commands
from lm_eval_prune.report.page.render import write_page
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.records import arranged
from lm_eval_prune.report.runs import Problem
from lm_eval_prune.report.tables import write_against, write_flips, write_tables
from lm_eval_prune.report.vega import start_bundling, why_no_charts

__all__ = ["Leaderboard", "leaderboard"]


class Leaderboard(NamedTuple):
    """What was compared, and the files that say so."""

    board: Board
    paths: list[Path]
    against: Board | None = None
    """The same rows compared with `config.against` instead of dense."""
    agreement: Sequence[Family] = ()
    """Whether rankings by importance agree, where there are several."""

    @property
    def page(self) -> Path:
        """The HTML file that holds the leaderboard."""
        return next(path for path in self.paths if path.name == "leaderboard.html")


def leaderboard(
    paths: Sequence[str | os.PathLike[str]],
    output_path: str | os.PathLike[str],
    config: BoardConfig | None = None,
    *,
    sort: str = "rank",
    text: str = "",
    figure_formats: Sequence[str] = (),
    exports: Sequence[str] = (),
) -> Leaderboard:
    """Compare what lies at `paths` (sweep folders, results files of the harness) and write it to `output_path`.

    leaderboard.html, .md, .tex, .csv, .parquet and .json hold the same numbers; `sort` and `text` arrange the page, the
    Markdown and the LaTeX (see `records.arranged`). agreement.csv and .json compare the rankings themselves, where
    there are several; areas.csv has their areas under the curve. `figure_formats` (svg, png, pdf) writes the figures to
    figures/, `exports` (see `exports.EXPORTS`) what other programs read to exports/.
    Without the packages of the extra `report` there are no charts, and a problem says so; figures as files need them.
    Raises PruneError.
    """
    require_formats(figure_formats)
    require_exports(exports)
    without_charts = why_no_charts()
    if without_charts and figure_formats:
        raise ChartError(f"figures={','.join(figure_formats)}: {without_charts}")
    config = config or BoardConfig()
    folder = Path(output_path)
    collection = read_collection(paths)
    if not without_charts:
        start_bundling()
    board = compare(collection, replace(config, against=None))
    against = compare(collection, config) if config.against is not None else None
    arranged(board, sort=sort)  # an unknown column is said before anything is written
    commands = [*run_commands(board, collection), board_command(paths, output_path, config)]
    drawn = [] if without_charts else figures(board, collection)
    board, on_page = _with_charts(board, drawn, without_charts)
    agreement = agreement_families(collection.importance)
    written = write_tables(board, folder, sort=sort, text=text)
    written += write_page(folder, board, on_page, commands, agreement, sort=sort, text=text)
    written += write_agreement(agreement, folder)
    written += write_areas(board, folder)
    if against is not None:
        written += write_against(against, folder)
    if config.flips:
        written.append(write_flips(board, folder))
    written += write_exports(board, folder / "exports", exports)
    if figure_formats:  # at last: what fails here fails for nothing else
        written += write_figures(drawn, folder / "figures", figure_formats)
    return Leaderboard(board, written, against, agreement)


def _with_charts(board: Board, drawn: list[Figure], missing: str | None) -> tuple[Board, list[Figure]]:
    """The board and the figures for its page: none, and a problem that says so, where their library fails."""
    try:
        if missing:
            raise ChartError(missing)
        if drawn:
            start_bundling().result()
    except ChartError as error:
        return replace(board, problems=[*board.problems, Problem("no charts on the page", str(error))]), []
    return board, drawn
