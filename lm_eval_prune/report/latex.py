"""A leaderboard as LaTeX: a `tabular` for each number of shots, to be put into a paper's own `table`."""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_prune.report.board import Board, Entry
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.report.wording import chance_levels, decided_line, describe_cell, legend, percent
from lm_eval_prune.text import latex_text

__all__ = ["latex"]


def latex(board: Board, entries: Sequence[Entry]) -> str:
    """The tables of `entries`, in their order; needs the packages booktabs and, for the verdicts' signs, amssymb."""
    parts = [
        _tabular(board, [entry for entry in entries if entry.num_fewshot == shots], f"{shots_name(shots)}")
        for shots in board.shots
    ]
    signs = "".join(f"% {latex_text(line)}\n" for line in (legend(board), decided_line(board)) if line)
    tables = "\n\n".join(parts)
    fonts = (
        ""
        if tables.isascii()
        else "% of names in other scripts: XeLaTeX or LuaLaTeX sets them, in a font that has them\n"
    )
    return f"% needs \\usepackage{{booktabs,amssymb}}\n{fonts}{signs}\n{tables}\n"


def _tabular(board: Board, entries: Sequence[Entry], shots: str) -> str:
    header = ["variant", "n", "parameters left", board.average_name, *map(str, board.columns)]
    lines = [
        f"% {latex_text(shots)}",
        f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        "\\toprule",
        _line(header),
        "\\midrule",
        *(_line(_row(board, entry)) for entry in entries),
    ]
    if levels := chance_levels(board):
        lines += ["\\midrule", _line(["chance", "", "", *levels])]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _row(board: Board, entry: Entry) -> list[str]:
    cells = [describe_cell(entry.cells.get(column)) or "–" for column in board.columns]
    documents = "" if entry.num_documents is None else f"{entry.num_documents:,}"
    return [entry.label, documents, percent(entry.parameters_left), describe_cell(entry.average) or "–", *cells]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + " \\\\"
