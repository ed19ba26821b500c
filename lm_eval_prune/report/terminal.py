"""A leaderboard in the terminal, right at whatever width there is.

A line a row. Where the whole table fits, cells hold value, error or interval, and difference; where it does not, value
and difference, names are folded, and columns that have no room go to a further table.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lm_eval_prune.report.areas import AREAS_NOTE, AREAS_TITLE, areas_table
from lm_eval_prune.report.board import Average, Board, Cell, Entry
from lm_eval_prune.report.chance import diluted
from lm_eval_prune.report.findings import DECLINE_TITLE, decline_note, findings
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.report.tables import decline_table, side_by_side
from lm_eval_prune.report.wording import (
    about_texts,
    brief_cell,
    chance_levels,
    decided_line,
    describe_cell,
    legend,
    percent,
)

__all__ = ["print_board"]

LONGEST = 48
"""Characters of a name."""
GAP = 2
"""Blanks between columns."""
NARROWEST = 16
"""Characters of a line of a folded name."""
COLOURS = {"worse": "red", "better": "green", "within the margin": "cyan", "identical": "cyan"}
"""Of verdicts; the others have none."""
Describe = Callable[[Cell | Average | None], str]


class _Column(NamedTuple):
    """A column of a table, top to bottom."""

    name: str
    cells: Sequence[Text]
    folds: bool = True
    """Whether its name may be folded at blanks."""

    @property
    def width(self) -> int:
        names = self.name.split() if self.folds else [self.name]
        return max(len(line) for line in (*names, *(line for cell in self.cells for line in cell.plain.split("\n"))))


def print_board(
    board: Board, entries: Sequence[Entry], console: Console | None = None, *, shots_beside: bool = False
) -> None:
    """Print warnings, a table for each number of shots (or one with the averages side by side), and what was found."""
    console = console or Console()
    for problem in board.problems:
        console.print(Text.assemble(("Warning: ", "yellow"), f"{problem.kind}: {problem.message}"), soft_wrap=True)
    if shots_beside:
        _print_beside(board, entries, console)
    else:
        for shots in board.shots:
            _print_shots(board, [entry for entry in entries if entry.num_fewshot == shots], shots, console)
    if signs := legend(board):
        console.print(Text(_in_whole(signs, console.width)))
    if line := decided_line(board):
        console.print(Text(line))
    if texts := [*about_texts(board), *diluted(board)]:
        console.print(Text("; ".join(texts), style="dim"))
    if board.declines:
        _print_declines(board, console)
    if areas_table(board)[1]:
        _print_areas(board, console)
    if found := findings(board):
        console.print()
        for finding in found:
            if finding.num_fewshot == found[0].num_fewshot:
                console.print(Text(finding.sentence, style="bold"))


def _print_shots(board: Board, entries: Sequence[Entry], shots: int, console: Console) -> None:
    if not entries:
        return
    fixed, tasks = _columns(board, entries, describe_cell, whole=True)
    if _natural([*fixed, *tasks]) > console.width:
        fixed, tasks = _columns(board, entries, brief_cell, whole=False)
    for number, piece in enumerate(_pieces(fixed, tasks, console.width)):
        title = shots_name(shots) if number == 0 else f"{shots_name(shots)}, continued"
        console.print(_table(piece, console.width, title, left=2))
        console.print()


def _print_beside(board: Board, entries: Sequence[Entry], console: Console) -> None:
    for describe in (describe_cell, brief_cell):
        header, rows = side_by_side(board, entries, describe)
        columns = [
            _Column(name, [Text(_short(row[place].replace(" over seeds", ""))) for row in rows])
            for place, name in enumerate(header)
        ]
        if _natural(columns) <= console.width:
            break
    console.print(_table(columns, console.width, board.average_name, left=1))


def _print_declines(board: Board, console: Console) -> None:
    """Minimal decline; where the table is too wide, what is unclear goes below what is shown."""
    header, rows = decline_table(board)
    for unclear in (", unclear to", ",\nunclear to", ",\nunclear\nto"):
        columns = [
            _Column(name, [Text(row[place].replace(", unclear to", unclear)) for row in rows])
            for place, name in enumerate(header)
        ]
        if _natural(columns) <= console.width:
            break
    console.print()
    console.print(_table(columns, console.width, DECLINE_TITLE, left=len(header) - len(board.shots)))
    console.print(Text(decline_note(board), style="dim"))


def _print_areas(board: Board, console: Console) -> None:
    """CPR and CMD; where the table is too wide, one below the other."""
    header, rows = areas_table(board)
    for comma in (", ", ",\n"):
        columns = [_Column(name, [Text(row[place].replace(", CMD", f"{comma}CMD")) for row in rows])
                   for place, name in enumerate(header)]  # fmt: skip
        if _natural(columns) <= console.width:
            break
    console.print()
    console.print(_table(columns, console.width, AREAS_TITLE, left=len(header) - len(board.shots)))
    console.print(Text(AREAS_NOTE, style="dim"))


def _columns(
    board: Board, entries: Sequence[Entry], describe: Describe, *, whole: bool
) -> tuple[list[_Column], list[_Column]]:
    """(rank, variant and what else there is of a row; its tasks), with the row of chance levels at the end."""
    levels = chance_levels(board) or [""] * (1 + len(board.columns))
    last = ["", "chance", "", "", *([""] if whole else []), *levels] if any(levels) else None
    named: list[tuple[str, list[Text]]] = [
        ("rank", [Text(str(entry.rank or "")) for entry in entries]),
        ("variant", [Text(_short(entry.label), style="bold" if entry.is_dense else "") for entry in entries]),
        ("n", [Text("" if entry.num_documents is None else f"{entry.num_documents:,}") for entry in entries]),
        ("parameters left", [Text(_parameters(entry, whole)) for entry in entries]),
        *([("FLOPs left", [Text(percent(entry.flops_left)) for entry in entries])] if whole else []),
        (board.average_name, [_cell(entry.average, describe, "") for entry in entries]),
        *((str(c), [_cell(entry.cells.get(c), describe, "missing") for entry in entries]) for c in board.columns),
    ]
    made = [
        _Column(_short(name), [*cells, *([Text(last[place], style="dim")] if last else [])], folds=not whole)
        for place, (name, cells) in enumerate(named)
    ]
    fixed = len(made) - len(board.columns)
    return made[:fixed], made[fixed:]


def _parameters(entry: Entry, whole: bool) -> str:
    share, count = percent(entry.parameters_left), entry.cost.parameters
    return f"{share} ({count:,})" if whole and count is not None and share else share


def _cell(holder: Cell | Average | None, describe: Describe, otherwise: str) -> Text:
    if holder is None:
        return Text(otherwise, style="yellow")
    return Text(describe(holder).replace(" over seeds", ""), style=COLOURS.get(holder.verdict, ""))


def _natural(columns: Sequence[_Column]) -> int:
    """Characters of a line where no name of a row is folded."""
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def _pieces(fixed: Sequence[_Column], tasks: Sequence[_Column], width: int) -> list[list[_Column]]:
    """The columns of each table: the further ones repeat rank and variant."""
    rank, variant = fixed[:2]
    others = _natural([rank, *fixed[2:]]) + GAP
    name = min(variant.width, max(NARROWEST, width - others))
    used = name + others
    pieces = [list(fixed)]
    for task in tasks:
        need = task.width + GAP
        if used + need > width and (len(pieces) == 1 or len(pieces[-1]) > 2):
            pieces.append([rank, variant])
            used = min(variant.width, width // 2) + rank.width + GAP
        pieces[-1].append(task)
        used += need
    return pieces


def _table(columns: Sequence[_Column], width: int, title: str, *, left: int) -> Table:
    """The table; of its first `left` columns the names are left-justified, and the longest is folded to fit."""
    natural = [column.width for column in columns]
    over = _natural(columns) - width
    if over > 0:
        longest = max(range(left), key=natural.__getitem__)
        natural[longest] = max(min(NARROWEST, natural[longest]), natural[longest] - over)
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", header_style="bold", box=box.SIMPLE_HEAD,
        show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0),
    )  # fmt: skip
    for place, (column, room) in enumerate(zip(columns, natural, strict=True)):
        is_name = place < left and column.name != "rank"
        table.add_column(
            Text(_folded(column.name, room)), justify="left" if is_name else "right", width=room, overflow="fold"
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def _in_whole(signs: str, width: int) -> str:
    """The legend in lines of that width, of which none ends between a sign and its word."""
    whole = re.sub(r"(?<=[:,] )(\S) ", "\\1\N{NO-BREAK SPACE}", signs)
    return textwrap.fill(whole, width, break_on_hyphens=False).replace("\N{NO-BREAK SPACE}", " ")


def _folded(name: str, room: int) -> str:
    """The name in lines of at most `room` characters, broken at blanks."""
    words, lines = name.split(), [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if len(longer) <= room else [*lines, word]
    return "\n".join(line for line in lines if line)


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
