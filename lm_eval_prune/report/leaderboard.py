"""From folders to a leaderboard on disk, in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.report.board import Board
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.exports import EXPORTS, write_exports
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.records import arranged
from lm_eval_prune.report.tables import write_flips, write_tables

__all__ = ["FIGURE_FORMATS", "Leaderboard", "leaderboard"]

FIGURE_FORMATS = ("svg", "png", "pdf")


class Leaderboard(NamedTuple):
    """What was compared, and the files that say so."""

    board: Board
    paths: list[Path]


def leaderboard(
    paths: Sequence[str | os.PathLike[str]],
    output_path: str | os.PathLike[str],
    config: BoardConfig | None = None,
    *,
    sort: str = "rank",
    text: str = "",
    figures: Sequence[str] = (),
    export: Sequence[str] = (),
) -> Leaderboard:
    """Compare what lies at `paths` (sweep folders, results files of the harness) and write it to `output_path`.

    The page is leaderboard.html; leaderboard.md, .csv, .parquet and .json hold the same numbers. `sort` and `text`
    arrange the Markdown (see `records.arranged`); `figures` are file formats, `export` names of `exports.EXPORTS`.
    Raises PruneError.
    """
    config = config or BoardConfig()
    for given, known, name in ((figures, FIGURE_FORMATS, "figures"), (export, tuple(EXPORTS), "export")):
        if unknown := [value for value in given if value not in known]:
            raise ArgumentError(f"{name} {', '.join(unknown)}: unknown; expected some of {', '.join(known)}")
    folder = Path(output_path)
    collection = read_collection(paths)
    board = compare(collection, config)
    arranged(board, sort=sort)  # an unknown column is said before anything is written
    written = write_tables(board, folder, sort=sort, text=text)
    if config.flips:
        written.append(write_flips(board, folder))
    from lm_eval_prune.report.figures import all_figures, write_figures
    from lm_eval_prune.report.page import write_page

    drawn = all_figures(board, collection)
    written.insert(0, write_page(board, collection, drawn, folder / "leaderboard.html"))
    written += write_figures(drawn, folder / "figures", figures)
    written += write_exports(board, folder, export)
    return Leaderboard(board, written)
