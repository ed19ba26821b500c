"""A leaderboard in the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lm_eval_prune.report.board import Average, Board, Cell, Column, Entry
from lm_eval_prune.report.chance import diluted
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.report.tables import side_by_side
from lm_eval_prune.report.wording import about_texts, chance_levels, describe_difference, legend, percent, value_text

__all__ = ["print_board"]

LONGEST = 48
"""Characters of a name."""
PARTS = re.compile(r" (?=[\[±+-])")
"""What stands between a value, its interval and its difference."""
COLOURS = {"worse": "red", "better": "green", "within the margin": "cyan", "identical": "cyan"}
"""Of verdicts; the others have none."""


def print_board(
    board: Board, entries: Sequence[Entry], console: Console | None = None, *, shots_beside: bool = False
) -> None:
    """Print warnings, a table for each number of shots (or one with the averages side by side), and declines.

    Columns that do not fit the terminal's width go to a further table.
    """
    console = console or Console()
    for problem in board.problems:
        console.print(Text.assemble(("Warning: ", "yellow"), f"{problem.kind}: {problem.message}"), soft_wrap=True)
    if shots_beside:
        header, rows = side_by_side(board, entries)
        console.print(_beside(header, rows, board.average_name, console.width))
    else:
        for shots in board.shots:
            for table in _tables(board, [e for e in entries if e.num_fewshot == shots], shots, console.width):
                console.print(table)
    if signs := legend(board):
        console.print(Text(signs))
    if texts := [*about_texts(board), *diluted(board)]:
        console.print(Text("; ".join(texts), style="dim"), soft_wrap=True)
    for decline in board.declines:
        console.print(Text(decline.sentence), soft_wrap=True)


def _beside(header: Sequence[str], rows: Sequence[Sequence[str]], title: str, width: int) -> Table:
    """The averages side by side; value, interval and difference below one another where lines would be too long."""
    lines = [[_short(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in [header, *lines]) + 3 for place in range(len(header))]
    if sum(widths) + 1 > width:
        lines = [[row[0], *(PARTS.sub("\n", cell) for cell in row[1:])] for row in lines]
    return _table(header, [[Text(cell) for cell in row] for row in lines], title)


def _tables(board: Board, entries: Sequence[Entry], shots: int, width: int) -> list[Table]:
    """One table, or several where one would be wider than `width`; the further ones repeat only rank and variant."""
    if not entries:
        return []
    fixed = ["#", "variant", "parameters", "FLOPs", board.average_name]
    first = [_first_cells(entry) for entry in entries]
    levels = chance_levels(board)
    widths = [max(_width(cell) for cell in column) + 3 for column in _columns(fixed, first)]
    pieces: list[list[Column]] = [[]]
    room = width - 1 - sum(widths)
    for column in board.columns:
        need = (
            max(_width(cell) for cell in [Text(str(column)), *(_task_cell(e.cells.get(column)) for e in entries)]) + 3
        )
        if need > room and (pieces[-1] or len(pieces) == 1):
            pieces.append([])
            room = width - 1 - sum(widths[:2])
        pieces[-1].append(column)
        room -= need
    tables = []
    for number, piece in enumerate(pieces):
        shown = len(fixed) if number == 0 else 2
        rows = [
            [*cells[:shown], *(_task_cell(entry.cells.get(column)) for column in piece)]
            for entry, cells in zip(entries, first, strict=True)
        ]
        if levels:
            by_column = dict(zip(board.columns, levels[1:], strict=True))
            chance = ["", "chance", "", "", levels[0]][:shown] + [by_column[column] for column in piece]
            rows.append([Text(text, style="dim") for text in chance])
        title = shots_name(shots) if number == 0 else f"{shots_name(shots)}, continued"
        tables.append(_table([*fixed[:shown], *map(str, piece)], rows, title))
    return tables


def _width(cell: Text) -> int:
    return max(line.cell_len for line in cell.split("\n"))


def _columns(header: Sequence[str], rows: Sequence[Sequence[Text]]) -> list[list[Text]]:
    return [[Text(name), *(row[place] for row in rows)] for place, name in enumerate(header)]


def _first_cells(entry: Entry) -> list[Text]:
    count = "" if entry.cost.parameters is None else f"\n{entry.cost.parameters:,}"
    return [
        Text(str(entry.rank or "")),
        Text(_short(entry.label)),
        Text(percent(entry.parameters_left) + count),
        Text(percent(entry.flops_left)),
        _task_cell(entry.average) if entry.average else Text(""),
    ]


def _task_cell(cell: Cell | Average | None) -> Text:
    """Value and standard error, and the difference to dense below."""
    if cell is None:
        return Text("missing", style="yellow")
    difference = describe_difference(cell)
    below = ("\n" + difference, COLOURS.get(cell.verdict, "")) if difference else ""
    return Text.assemble(value_text(cell).replace(" over seeds", ""), below)


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _table(header: Sequence[str], rows: Sequence[Sequence[Text]], title: str) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", header_style="bold")
    for name in header:
        table.add_column(Text(_short(name)), justify="left" if name == "variant" else "right")
    for row in rows:
        table.add_row(*row)
    return table
