"""The page: a template filled in, everything it needs inlined, and a policy that forbids it the network.

Names come from files of strangers. The template engine escapes every one, `_json` those in JSON,
and the page's Content-Security-Policy runs only the scripts whose hashes it names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_prune.files import write_bytes
from lm_eval_prune.report.agreement import AGREEMENT_NOTE, Family, agreement_table
from lm_eval_prune.report.areas import AREAS_NOTE, AREAS_TITLE, areas_table
from lm_eval_prune.report.board import Board
from lm_eval_prune.report.figures import Figure, main_figure
from lm_eval_prune.report.figures.style import DARK, LIGHT
from lm_eval_prune.report.findings import DECLINE_TITLE, decline_note, findings
from lm_eval_prune.report.page import provenance
from lm_eval_prune.report.page.answers import packed_answers
from lm_eval_prune.report.page.documents import MOST_CHARACTERS, documents_of, write_documents
from lm_eval_prune.report.page.masks import mask_data
from lm_eval_prune.report.page.packing import packed, packed_bytes
from lm_eval_prune.report.page.provenance import Command, Listing
from lm_eval_prune.report.page.rows import left_names, table_data
from lm_eval_prune.report.page.templates import in_script, joined_scripts, joined_styles, policy, template
from lm_eval_prune.report.runs import OWN_SHOTS
from lm_eval_prune.report.tables import decline_table
from lm_eval_prune.report.vega import start_bundling
from lm_eval_prune.report.wording import decided_line, legend, notes_of
from lm_eval_prune.version import __version__

__all__ = ["chart_spec", "charts_of", "render_page", "write_page"]


def write_page(
    folder: Path,
    board: Board,
    figures: Sequence[Figure],
    commands: Sequence[Command],
    agreement: Sequence[Family] = (),
    **view: str,
) -> list[Path]:
    """Write leaderboard.html, and where flipped documents are too many for it a file with those of each row.

    `view` is that of `render_page`. Returns the page, then the others.
    """
    path, beside = folder / "leaderboard.html", list[Path]()
    documents = documents_of(board)
    shown = documents.packed() if documents.rows else ""
    if len(shown) > MOST_CHARACTERS:
        shown, beside = write_documents(folder, board, documents)
    text = render_page(board, figures, commands, agreement, documents=shown, **view)
    write_bytes(path, text.encode(errors="backslashreplace"))  # paths that are no UTF-8
    return [path, *beside]


def render_page(
    board: Board,
    figures: Sequence[Figure],
    commands: Sequence[Command] = (),
    agreement: Sequence[Family] = (),
    *,
    documents: str = "",
    sort: str = "rank",
    text: str = "",
) -> str:
    """The page's HTML. It opens at the largest number of shots, sorted by `sort` and filtered by `text`.

    Both are those of `records.arranged`. documents: the flipped ones (`documents.py`), packed.
    """
    script = joined_scripts()
    data = {"table": packed(table_data(board)), "masks": packed(mask_data(board))}
    data |= packed_answers(board) | ({"documents": documents} if documents else {})
    figures = _with_main(board, figures)
    charts, library = charts_of(figures)
    opening = {"shots": str(board.shots[-1]), "sort": _column_name(board, sort), "text": text}
    return template("page.html").render(
        version=__version__,
        policy=policy([script, *library]),
        css=joined_styles(),
        script=script,
        title=_title(board),
        summary=_summary(board),
        found=findings(board),
        board=board,
        declines=board.declines,
        decline_listing=Listing(*decline_table(board)),
        decline_title=DECLINE_TITLE,
        decline_note=decline_note(board),
        areas=Listing(*listed) if (listed := areas_table(board))[1] else None,
        areas_title=AREAS_TITLE,
        areas_note=AREAS_NOTE,
        rankings=list(dict.fromkeys(entry.ranking for entry in board.entries)),
        models=board.models,
        left=left_names(board),
        legend=legend(board),
        decided=decided_line(board),
        figures=figures,
        agreement=Listing(*agreement_table(agreement)) if agreement else None,
        agreement_note=AGREEMENT_NOTE,
        notes=notes_of(board),
        models_listing=provenance.models_listing(board),
        tasks_listing=provenance.tasks_listing(board),
        commands=commands,
        opening=_json(opening),
        packed=data | charts,
    )


def _json(content: Mapping[str, Any]) -> str:
    """JSON without the characters that HTML or old JavaScript take for something else."""
    line = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        line = line.replace(character, f"\\u{ord(character):04x}")
    return line


def charts_of(figures: Sequence[Figure]) -> tuple[dict[str, str], list[str]]:
    """(the page's data `charts` and `vega`, the script in it); nothing without figures."""
    if not figures:
        return {}, []
    vega = in_script(start_bundling().result())
    charts = {"light": LIGHT, "dark": DARK, "specs": [chart_spec(figure) for figure in figures]}
    return {"charts": packed(charts), "vega": packed_bytes(vega.encode())}, [vega]


def chart_spec(figure: Figure) -> dict[str, Any]:
    """The chart as a Vega-Lite specification; the page gives it the configuration that fits its background."""
    return {key: value for key, value in figure.chart.to_dict(validate=False).items() if key != "config"}


def _with_main(board: Board, figures: Sequence[Figure]) -> list[Figure]:
    """The figures, the first of which is beside what was found: that of the finding, where there is a curve."""
    finding = next(iter(findings(board)), None)
    if not figures or finding is None:
        return list(figures)
    main = main_figure(board, finding.model, finding.num_fewshot, finding.component)
    return [*([main] if main else []), *figures]


def _column_name(board: Board, sort: str) -> str:
    """`sort` as the page's columns are called: a task stands for its column."""
    return next((str(column) for column in board.columns if column.task == sort), sort)


def _title(board: Board) -> str:
    return f"Leaderboard: {', '.join(board.models[:3])}{' and more' if len(board.models) > 3 else ''}"


def _summary(board: Board) -> str:
    variants = len({entry.label for entry in board.entries})
    shots = "own" if board.shots == [OWN_SHOTS] else ", ".join(map(str, board.shots))
    parts = [_counted(variants, "variant"), _counted(len(board.columns), "task"), f"{shots} shots"]
    return " · ".join([*parts, f"margin {board.margin:g}", "differences paired by document"])


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
