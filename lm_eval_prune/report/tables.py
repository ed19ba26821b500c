"""A leaderboard as files: CSV, Parquet, JSON, Markdown, and the harness's own table."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_prune.files import write_bytes, write_csv, write_json
from lm_eval_prune.report.areas import AREAS_NOTE, AREAS_TITLE, areas_table
from lm_eval_prune.report.board import Average, Board, Cell, Entry
from lm_eval_prune.report.chance import diluted
from lm_eval_prune.report.findings import DECLINE_TITLE, decline_header, decline_note, decline_rows, findings
from lm_eval_prune.report.latex import latex
from lm_eval_prune.report.records import arranged, flat_records, nested
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.report.wording import (
    about_texts,
    chance_levels,
    describe_cell,
    fixed,
    heads_and_ffns,
    notes_of,
    percent,
)
from lm_eval_prune.text import markdown_text

__all__ = ["decline_table", "harness_table", "markdown", "side_by_side", "write_against", "write_flips", "write_tables"]


def write_tables(board: Board, folder: Path, *, sort: str = "rank", text: str = "") -> list[Path]:
    """Write leaderboard.csv, .parquet, .json, .md and .tex; `sort` and `text` arrange the last two."""
    import pyarrow
    import pyarrow.parquet

    records = flat_records(board)
    paths = [folder / f"leaderboard.{suffix}" for suffix in ("csv", "parquet", "json", "md", "tex")]
    write_csv(paths[0], records)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), buffer)
    write_bytes(paths[1], buffer.getvalue())
    write_json(paths[2], nested(board))
    entries = arranged(board, sort=sort, text=text)
    write_bytes(paths[3], markdown(board, entries).encode(errors="backslashreplace"))
    write_bytes(paths[4], latex(board, entries).encode(errors="backslashreplace"))
    return paths


def write_against(board: Board, folder: Path) -> list[Path]:
    """Write against.csv and against.json: rows compared with one of them instead of the dense model."""
    paths = [folder / "against.csv", folder / "against.json"]
    write_csv(paths[0], flat_records(board))
    write_json(paths[1], nested(board))
    return paths


def write_flips(board: Board, folder: Path) -> Path:
    """Write flips.csv: the documents that the dense model and a variant answer differently."""
    path = folder / "flips.csv"
    names = ["label", "task", "metric", "num_fewshot", "seed", "doc_id", "doc_hash", "dense", "variant"]
    write_csv(path, [flip._asdict() for flip in board.flips], names)
    return path


def markdown(board: Board, entries: Sequence[Entry] | None = None) -> str:
    """The table, what is to be known before reading it, and the harness's table, as Markdown."""
    entries = board.entries if entries is None else entries
    parts = ["# Leaderboard"]
    parts += [_list(finding.sentence for finding in found)] if (found := findings(board)) else []
    if board.problems:
        parts.append("**Not all of it is comparable:**\n\n" + _list(f"{p.kind}: {p.message}" for p in board.problems))
    for shots in board.shots:
        header = ["rank", "variant", "n", "heads pruned", "FFNs pruned", "parameters left", "", "FLOPs left"]
        header += [board.average_name]
        header += [str(column) for column in board.columns]
        rows = [_markdown_row(board, entry) for entry in entries if entry.num_fewshot == shots]
        rows += [["", "chance", "", "", "", "", "", "", *levels]] if (levels := chance_levels(board)) else []
        parts.append(f"## {shots_name(shots)}\n\n{_table(header, rows)}")
    if len(board.shots) > 1:
        parts.append(f"## Side by side: {board.average_name}\n\n" + _table(*side_by_side(board, entries)))
    if texts := about_texts(board):
        parts.append("## Columns\n\n" + _list([*texts, *diluted(board)]))
    if board.declines:
        parts.append(f"## {DECLINE_TITLE}\n\n{_table(*decline_table(board))}\n\n{decline_note(board)}")
        parts.append(_list(decline.sentence for decline in board.declines))
    if (listed := areas_table(board))[1]:
        parts.append(f"## {AREAS_TITLE}\n\n{_table(*listed)}\n\n{AREAS_NOTE}")
    parts.append("## How to read it\n\n" + _list(notes_of(board)))
    parts.append("## As the harness prints it\n\n" + harness_table(board))
    return "\n\n".join(parts) + "\n"


def side_by_side(
    board: Board,
    entries: Sequence[Entry] | None = None,
    describe: Callable[[Cell | Average | None], str] = describe_cell,
) -> tuple[list[str], list[list[str]]]:
    """(header, rows): every variant's average at each number of shots, its documents, and the chance level."""
    found: dict[str, dict[int, Entry]] = {}
    for entry in board.entries if entries is None else entries:
        found.setdefault(entry.label, {})[entry.num_fewshot] = entry
    rows = [
        [label, _documents(by_shots), *(describe(by_shots[k].average) if k in by_shots else "" for k in board.shots)]
        for label, by_shots in found.items()
    ]
    if levels := chance_levels(board):
        rows.append(["chance", "", *(levels[:1] * len(board.shots))])
    return ["variant", "n", *map(shots_name, board.shots)], rows


def _documents(by_shots: Mapping[int, Entry]) -> str:
    """How many documents a variant's averages are over, at each number of shots where they differ."""
    numbers = dict.fromkeys(entry.num_documents for entry in by_shots.values())
    return ", ".join("?" if number is None else f"{number:,}" for number in numbers)


def decline_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """(header, rows): how far each ranking can go at each number of shots; with the model, where there are several."""
    several = len(board.models) > 1
    rows = [[*([row.model] if several else []), row.ranking, row.component, *row.cells] for row in decline_rows(board)]
    return [*(["model"] if several else []), *decline_header(board)], rows


def harness_table(board: Board) -> str:
    """Every metric of every run in the columns of the harness's `make_table`, with the variant before them."""
    header = ["Variant", "Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"]
    rows = []
    for entry in board.entries:
        for run in entry.runs:
            seed = "" if run.variant.seed is None else f" (seed {run.variant.seed})"
            for name, value in sorted(run.values.items()):
                metric, _, filter_name = name.partition(" (")
                arrow = "↑" if value.higher_is_better else "↓"
                error = "N/A" if value.stderr is None else f"{value.stderr:.4f}"
                filter_name = filter_name.rstrip(")") or "none"
                version = run.task_version.removesuffix(".0")
                shots, number = str(run.num_fewshot), fixed(value.value)
                rows.append(
                    [entry.label + seed, run.task, version, filter_name, shots, metric, arrow, number, "±", error]
                )
    return _table(header, rows)


def _markdown_row(board: Board, entry: Entry) -> list[str]:
    heads, ffns = heads_and_ffns(entry)
    count = "" if entry.cost.parameters is None else f"{entry.cost.parameters:,}"
    sizes = [percent(entry.parameters_left), count, percent(entry.flops_left)]
    cells = [describe_cell(entry.cells.get(column)) for column in board.columns]
    documents = "" if entry.num_documents is None else f"{entry.num_documents:,}"
    return [str(entry.rank or ""), entry.label, documents, heads, ffns, *sizes, describe_cell(entry.average), *cells]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(markdown_text(cell) if cell != "---" else cell for cell in line) + " |" for line in lines
    )


def _list(sentences: Any) -> str:
    return "\n".join(f"- {markdown_text(sentence)}" for sentence in sentences)
