"""The page: a template filled in, everything it needs inlined, and a policy that forbids it the network.

Names come from files of strangers. The template engine escapes every one, `_json` those in JSON,
and the page's Content-Security-Policy runs only the scripts whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from lm_eval_prune.files import write_bytes
from lm_eval_prune.report.board import Board
from lm_eval_prune.report.figures import Figure
from lm_eval_prune.report.figures.style import DARK, LIGHT
from lm_eval_prune.report.page import provenance, rows
from lm_eval_prune.report.page.masks import masks_of, packed
from lm_eval_prune.report.page.provenance import Command
from lm_eval_prune.report.records import nested
from lm_eval_prune.report.runs import OWN_SHOTS, shots_name
from lm_eval_prune.report.vega import start_bundling
from lm_eval_prune.report.wording import VERDICT_SIGNS, lowest, notes_of
from lm_eval_prune.version import __version__

__all__ = ["in_script", "render_page", "write_page"]


def write_page(folder: Path, board: Board, figures: Sequence[Figure], commands: Sequence[Command], **view: str) -> Path:
    """Write leaderboard.html; `view` is that of `render_page`."""
    path = folder / "leaderboard.html"
    text = render_page(board, figures, commands, **view)
    write_bytes(path, text.encode(errors="backslashreplace"))  # paths that are no UTF-8
    return path


def render_page(
    board: Board, figures: Sequence[Figure], commands: Sequence[Command] = (), *, sort: str = "rank", text: str = ""
) -> str:
    """The page's HTML. It opens sorted by `sort` and filtered by `text` (see `records.arranged`)."""
    scripts = {"datatables": in_script(_asset("datatables.min.js")), "page": in_script(_asset("page.js"))}
    if figures:
        scripts["vega"] = in_script(start_bundling().result())
    pruned = masks_of(board)
    return _template().render(
        version=__version__,
        policy=_policy(scripts.values()),
        css=_asset("page.css"),
        scripts=scripts,
        title=_title(board),
        summary=_summary(board),
        board=board,
        headings=rows.headings(board),
        lines=rows.lines(board),
        side_headings=rows.side_by_side_headings(board),
        side_lines=rows.side_by_side_lines(board),
        rankings=list(dict.fromkeys(entry.ranking for entry in board.entries)),
        models=list(dict.fromkeys(entry.model for entry in board.entries)),
        signs=VERDICT_SIGNS,
        sort=_column_name(board, sort),
        text=text,
        figures=figures,
        notes=notes_of(board),
        lowest=lowest(board.margin),
        models_listing=provenance.models_listing(board),
        tasks_listing=provenance.tasks_listing(board),
        commands=commands,
        masks=pruned,
        packed_masks=packed(pruned),
        numbers=_json({key: value for key, value in nested(board).items() if key != "flips"}),
        charts=_json({"light": LIGHT, "dark": DARK, "specs": [_spec(figure) for figure in figures]}),
    )


def in_script(source: str) -> str:
    """JavaScript that stands in a script element and means the same there.

    The parser ends a script at `</script` and enters another state at `<!--`; both occur in strings and regular
    expressions alone, where a backslash before `/` and `!` changes nothing.
    """
    return re.sub(r"<(?=/script|!--)", r"<\\", source, flags=re.IGNORECASE)


def _json(content: Mapping[str, Any]) -> str:
    """JSON without the characters that HTML or old JavaScript take for something else."""
    line = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        line = line.replace(character, f"\\u{ord(character):04x}")
    return line


def _policy(scripts: Any) -> str:
    """Scripts that are ours, styles and pictures from within the file, and no network."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _spec(figure: Figure) -> dict[str, Any]:
    """The chart as a Vega-Lite specification; the page gives it the configuration that fits its background."""
    return {key: value for key, value in figure.chart.to_dict(validate=False).items() if key != "config"}


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.globals["shots_name"] = shots_name
    return environment.from_string(_asset("page.html"))


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _column_name(board: Board, sort: str) -> str:
    """`sort` as the page's columns are called: a task stands for its column."""
    return next((str(column) for column in board.columns if column.task == sort), sort)


def _title(board: Board) -> str:
    models = list(dict.fromkeys(entry.model for entry in board.entries))
    return f"Leaderboard: {', '.join(models[:3])}{' and more' if len(models) > 3 else ''}"


def _summary(board: Board) -> str:
    variants = len({entry.label for entry in board.entries})
    shots = "own" if board.shots == [OWN_SHOTS] else ", ".join(map(str, board.shots))
    parts = [_counted(variants, "variant"), _counted(len(board.columns), "task"), f"{shots} shots"]
    return " · ".join([*parts, f"margin {board.margin:g}", "differences paired by document"])


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
