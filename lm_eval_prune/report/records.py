"""A leaderboard as flat records and as nested JSON values, from which every format is written.

Numbers are unrounded; what is unknown is None. `nested` is leaderboard.json, and the page's data:

    margin, reference (what differences are to: dense, or a row's name)
    columns[]        task, metric, higher_is_better, num_fewshot; detectable, units, unit_field, documents;
                     chance {level, by} or null; at_chance[] numbers of shots
    average          name, and the same
    entries[]        a row: rank, variant, model, backend, ranking, prune_heads, prune_ffns (the same shares again
                     as heads_pruned, ffns_pruned, which programs know), oracle, num_seeds,
                     num_fewshot (null: each task its own), documents, parameters, parameters_left, flops_left, seeds[],
                     average and tasks{column name}: value, low/high or stderr, spread, num_documents, verdict,
                     difference {value, low, high, p, p_holm, method, paired, ...} or null; of a task, donor (whose
                     importance the ranking chose); files[]
    findings[]       sentence, and what it is made of; the first is the headline: most shots, heads before FFNs
    declines[]       for each ranking, component and number of shots: fraction, sentence, enough, halved
    decline_table    header[], rows[{model, ranking, component, cells[]}] one cell a number of shots, note
    areas[]          CPR and CMD (areas.py) of each ranking, component and number of shots, on the average and on each
                     task: cpr, cmd (null: why says why), shares[] pruned, empty and empty_by
    verdicts         {verdict: {sign, meaning}}, all there are, in order
    legend           one line: the signs that are on this board
    diluted[]        sentences on tasks where the dense model is at chance
    problems[], flips[]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.report.areas import area_records
from lm_eval_prune.report.board import Average, Board, Cell, Column, Difference, Entry
from lm_eval_prune.report.chance import diluted
from lm_eval_prune.report.findings import decline_header, decline_note, decline_rows, findings
from lm_eval_prune.report.runs import OWN_SHOTS, shots_name
from lm_eval_prune.report.wording import VERDICT_MEANINGS, VERDICT_SIGNS, legend
from lm_eval_prune.text import printable

__all__ = ["FORMAT", "arranged", "flat_records", "nested", "searched"]

FORMAT = "lm-eval-prune-leaderboard"
SORTS = ("rank", "variant", "heads", "ffns", "parameters", "flops", "average")


def arranged(board: Board, *, sort: str = "rank", text: str = "") -> list[Entry]:
    """The entries whose name holds every word of `text`, sorted within each number of shots.

    `sort` is one of `rank`, `variant`, `heads`, `ffns`, `parameters`, `flops`, `average`, or a column (`piqa`,
    `piqa acc`); best first, smallest first for sizes and shares pruned. Raises ArgumentError for another.
    """
    words = text.lower().split()
    entries = [entry for entry in board.entries if all(word in searched(entry) for word in words)]
    columns = {name: column for column in board.columns for name in (column.task, str(column))}
    if sort not in SORTS and sort not in columns:
        raise ArgumentError(
            f"sort {sort}: unknown; expected {', '.join(SORTS)} or a task, such as {board.columns[0].task}"
        )

    def key(entry: Entry) -> tuple[Any, ...]:
        if sort == "variant":
            return (entry.num_fewshot, entry.label)
        if sort in ("heads", "ffns"):
            return (entry.num_fewshot, float(entry.share(sort)))
        if sort in ("parameters", "flops"):
            value = entry.parameters_left if sort == "parameters" else entry.flops_left
            return (entry.num_fewshot, math.inf if value is None else value)
        if sort in columns:
            column = columns[sort]
            cell = entry.cells.get(column)
            sign = -1 if column.higher_is_better else 1
            return (entry.num_fewshot, math.inf if cell is None else sign * cell.value)
        return (entry.num_fewshot, entry.rank or math.inf)

    return sorted(entries, key=key)


def searched(entry: Entry) -> str:
    """What a text filter looks for its words in."""
    verdicts = {cell.verdict for cell in entry.cells.values()}
    return f"{entry.label} {entry.model} {shots_name(entry.num_fewshot)} {' '.join(verdicts)}".lower()


def flat_records(board: Board, entries: Sequence[Entry] | None = None) -> list[dict[str, Any]]:
    """One record an entry, all with the same keys; a column's keys begin with its name, such as `piqa acc stderr`."""
    has_donors = any(cell.donor for entry in board.entries for cell in entry.cells.values())
    return [_flat(board, entry, has_donors) for entry in (board.entries if entries is None else entries)]


def nested(board: Board) -> dict[str, Any]:
    """The whole leaderboard as JSON values."""
    return {
        "format": FORMAT,
        "version": 1,
        "margin": board.margin,
        "reference": board.reference,
        "columns": [{**column._asdict(), **_about(board, column)} for column in board.columns],
        "average": {"name": board.average_name, **_about(board, None)},
        "entries": [_nested_entry(board, entry) for entry in board.entries],
        "findings": [{key: _clean(value) for key, value in finding._asdict().items()} for finding in findings(board)],
        "declines": [decline._asdict() for decline in board.declines],
        "decline_table": {
            "header": decline_header(board),
            "rows": [row._asdict() for row in decline_rows(board)],
            "note": decline_note(board),
        },
        "areas": list(area_records(board)),
        "verdicts": {
            verdict: {"sign": VERDICT_SIGNS[verdict], "meaning": meaning.format(margin=board.margin)}
            for verdict, meaning in VERDICT_MEANINGS.items()
        },
        "legend": legend(board),
        "diluted": diluted(board),
        "problems": [problem._asdict() for problem in board.problems],
        "flips": [flip._asdict() for flip in board.flips],
    }


def _about(board: Board, column: Column | None) -> dict[str, Any]:
    about = board.about.get(column)
    if about is None:
        return {}
    chance = about.chance._asdict() if about.chance else None
    return {**{key: _clean(value) for key, value in about._asdict().items()}, "chance": chance}


def _identity(entry: Entry) -> dict[str, Any]:
    return {
        "rank": entry.rank,
        "variant": entry.label,
        "model": entry.model,
        "backend": entry.backend,
        "ranking": entry.ranking,
        "prune_heads": _number(entry.prune_heads),
        "prune_ffns": _number(entry.prune_ffns),
        "heads_pruned": _number(entry.prune_heads),
        "ffns_pruned": _number(entry.prune_ffns),
        "oracle": entry.oracle,
        "num_seeds": len(entry.seeds),
        "num_fewshot": None if entry.num_fewshot == OWN_SHOTS else entry.num_fewshot,
        "documents": entry.num_documents,
        "parameters": entry.cost.parameters,
        "parameters_left": entry.parameters_left,
        "flops_left": entry.flops_left,
    }


def _flat(board: Board, entry: Entry, has_donors: bool) -> dict[str, Any]:
    record = _identity(entry)
    name, average = board.average_name, entry.average
    record[name] = average.value if average else None
    for key in ("low", "high", "spread"):
        record[f"{name} {key}"] = _clean(getattr(average, key)) if average else None
    record |= _flat_difference(name, average)
    for column in board.columns:
        cell = entry.cells.get(column)
        record[str(column)] = cell.value if cell else None
        if has_donors:
            record[f"{column} donor"] = cell.donor if cell else None
        record[f"{column} stderr"] = cell.stderr if cell else None
        record[f"{column} spread"] = cell.spread if cell else None
        record[f"{column} documents"] = cell.num_documents if cell else None
        if any(column in one.cells and one.cells[column].sequential for one in board.entries):
            record[f"{column} documents planned"] = cell.sequential.planned if cell and cell.sequential else None
        record[f"{column} units"] = cell.num_units if cell else None
        record[f"{column} chance"] = about.chance.level if (about := board.about.get(column)) and about.chance else None
        record |= _flat_difference(str(column), cell)
    return record


def _flat_difference(name: str, holder: Cell | Average | None) -> dict[str, Any]:
    difference = holder.difference if holder else None
    record: dict[str, Any] = {f"{name} difference": difference.value if difference else None}
    for key in ("low", "high", "p", "p_holm", "changed", "draws", "least", "detectable"):
        record[f"{name} difference {key}"] = _clean(getattr(difference, key)) if difference else None
    record[f"{name} difference method"] = difference.method if difference else None
    record[f"{name} needed"] = difference.needed or None if difference else None
    record[f"{name} paired"] = difference.paired if difference else None
    record[f"{name} note"] = difference.note or None if difference else None
    record[f"{name} verdict"] = holder.verdict or None if holder else None
    return record


def _nested_entry(board: Board, entry: Entry) -> dict[str, Any]:
    return {
        **_identity(entry),
        "seeds": list(entry.seeds),
        "average": _nested_value(entry.average),
        "tasks": {str(column): _nested_value(entry.cells[column]) for column in board.columns if column in entry.cells},
        "files": sorted({printable(str(run.path)) for run in entry.runs}),
    }


def _nested_value(holder: Cell | Average | None) -> dict[str, Any] | None:
    if holder is None:
        return None
    values = {key: _clean(value) for key, value in vars(holder).items() if key not in ("difference", "sequential")}
    decided = holder.sequential if isinstance(holder, Cell) else None
    if decided is not None:
        values["decided"] = decided._asdict()
    return {**values, "difference": _nested_difference(holder.difference)}


def _nested_difference(difference: Difference | None) -> dict[str, Any] | None:
    return {key: _clean(value) for key, value in difference._asdict().items()} if difference else None


def _clean(value: Any) -> Any:
    """None for what is no finite number, which JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(text: str) -> float:
    return float(text)
