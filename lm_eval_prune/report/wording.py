"""How numbers and verdicts are worded, the same in the terminal, in Markdown and on the page."""

from __future__ import annotations

import math

from lm_eval_prune.report.board import About, Average, Board, Cell, Column, Difference, Entry
from lm_eval_prune.report.runs import Sequential

__all__ = [
    "UNPAIRED",
    "VERDICT_MEANINGS",
    "VERDICT_SIGNS",
    "about_text",
    "about_texts",
    "brief_cell",
    "chance_levels",
    "chance_text",
    "decided_text",
    "describe_cell",
    "describe_difference",
    "digits_of",
    "explain_difference",
    "fixed",
    "heads_and_ffns",
    "legend",
    "lowest",
    "notes_of",
    "percent",
    "percent_of_text",
    "probability_text",
    "signed",
    "value_text",
    "verdicts_on",
]

VERDICT_SIGNS = {
    "worse": "▼",
    "better": "▲",
    "identical": "=",
    "within the margin": "≈",
    "not shown": "?",
    "too few documents": "∅",
    "dense is at chance": "⊥",
    "": "",
}
"""Beside a difference. Of what lower is better of, too, ▼ is worse."""
VERDICT_MEANINGS = {
    "worse": "a loss is shown (corrected p below 0.05)",
    "better": "a gain is shown (corrected p below 0.05)",
    "identical": "no answer changed, and documents enough to say so",
    "within the margin": "a loss, if there is one, is shown to be smaller than {margin:g}",
    "not shown": "neither a difference, nor that a loss is within the margin",
    "too few documents": "for the margin, even if no answer had changed",
    "dense is at chance": "the dense model is not shown to be above chance: there is nothing to lose",
}
DECIDED = (
    "Rows that the question did not need have few documents. Intervals and p-values of differences hold over all looks "
    "together: an interval is wider than one of 95 % at a fixed number of documents, and verdicts keep their error "
    "rates."
)
UNPAIRED = "*"
"""Beside the difference of runs that could not be paired."""


def percent(share: float | None) -> str:
    """A share left, in whole percent where it is one."""
    return "" if share is None else f"{100 * share:.1f} %".replace(".0 %", " %")


def fixed(value: float, digits: int = 4, sign: str = "") -> str:
    """A value with that many decimals; what is rounded to 0 has no minus."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def digits_of(documents: int | None) -> int:
    """Decimals that so many documents fill: as many as it takes to see one of them, 2 to 4; 4 where unknown."""
    return 4 if not documents else min(4, max(2, math.ceil(math.log10(documents))))


def signed(value: float, digits: int = 4) -> str:
    """A difference."""
    return fixed(value, digits, sign="+")


def _digits(holder: Cell | Average | None) -> int:
    """Of its value; those of a metric without bounds do not depend on the number of documents."""
    return digits_of(holder.num_documents) if holder is not None and 0 <= holder.value <= 1 else 4


def lowest(margin: float) -> str:
    """The difference to dense that is still acceptable."""
    return f"{0 - margin:+g}"


def percent_of_text(share: str) -> str:
    return f"{100 * float(share):.4g} %"


def heads_and_ffns(entry: Entry) -> tuple[str, str]:
    """What is pruned."""
    return percent_of_text(entry.prune_heads), percent_of_text(entry.prune_ffns)


def value_text(holder: Cell | Average) -> str:
    """The value with its standard error, or the spread over seeds."""
    digits = _digits(holder)
    value = fixed(holder.value, digits)
    if holder.spread is not None:
        return f"{value} ±{holder.spread:.{digits}f} over seeds"
    if isinstance(holder, Average):
        interval = fixed(holder.low, min(digits, 3)), fixed(holder.high, min(digits, 3))
        return value if math.isnan(holder.low) else f"{value} [{interval[0]}, {interval[1]}]"
    return value if holder.stderr is None else f"{value} ±{holder.stderr:.{digits}f}"


def describe_difference(holder: Cell | Average | None) -> str:
    """The difference to dense with the verdict's sign, and UNPAIRED where the two runs could not be paired."""
    if holder is None or holder.difference is None:
        return ""
    unpaired = "" if holder.difference.paired else UNPAIRED
    return f"{signed(holder.difference.value, _digits(holder))}{unpaired} {VERDICT_SIGNS[holder.verdict]}".rstrip()


def explain_difference(holder: Cell | Average | None) -> str:
    """The difference in full: interval, tests, number of documents."""
    if holder is None or holder.difference is None:
        return ""
    difference, digits = holder.difference, _digits(holder)
    parts = [f"{signed(difference.value, digits)} to dense"]
    if not math.isnan(difference.low):
        parts[0] += f" [{signed(difference.low, digits)}, {signed(difference.high, digits)}]"
    if not math.isnan(difference.p_holm):
        parts.append(f"p = {difference.p:.2g}, Holm {difference.p_holm:.2g} ({difference.method})")
    elif difference.method != "none":
        parts.append(difference.method)
    parts.append(f"{difference.paired} documents paired" if difference.paired else "not paired")
    if not math.isnan(difference.changed):
        parts.append(f"{percent(difference.changed) or '0 %'} of the answers changed")
    if not math.isnan(difference.draws):
        parts.append(f"{100 * difference.draws:.0f} % of the interval's width are draws")
    if isinstance(holder, Cell) and holder.donor:
        parts.append(f"pruned by the importance to {holder.donor}")
    if isinstance(holder, Cell) and holder.sequential is not None:
        parts.append(decided_text(holder.sequential))
    parts += [difference.note] if difference.note else []
    if holder.verdict == "too few documents":
        parts.append(_why_too_few(difference))
    return "; ".join([*parts, *([holder.verdict] if holder.verdict else [])])


def decided_text(sequential: Sequential) -> str:
    """How far a deciding sweep went."""
    return (
        f"decided after {sequential.documents:,} of {sequential.planned:,} documents, look {sequential.look + 1}"
        f" (interval of {sequential.z:.2f} standard errors)"
    )


def decided_line(board: Board) -> str:
    """That documents grew until a question was answered, which one, and what `n` then is; empty without such rows."""
    rows = [
        [cell.sequential for cell in entry.cells.values() if cell.sequential is not None] for entry in board.entries
    ]
    if not any(rows):
        return ""
    asked = dict.fromkeys(f"{one.mode}, margin {one.margin:g}" for row in rows for one in row)
    planned = max(sum(one.planned for one in row) for row in rows)
    return (
        f"Decided as documents came ({'; '.join(asked)}): n is how many a row took until its question was answered, of "
        f"up to {planned:,}."
    )


def _why_too_few(difference: Difference) -> str:
    needed = f", at least {difference.needed:,} are needed" if difference.needed else ""
    return f"had no answer changed, they would show a loss below {difference.least:.4f}{needed}"


def about_text(about: About) -> str:
    """What a column can detect, and what its documents share."""
    parts = [f"chance {chance_text(about)}"] if about.chance else []
    parts += [] if math.isnan(about.detectable) else [f"detects {about.detectable:.3f}"]
    if about.units:
        parts.append(f"{about.units:,} x {about.unit_field}, {about.documents:,} documents")
    elif about.unit_field:
        parts.append(f"no {about.unit_field} in the samples: documents count one by one")
    return "; ".join(parts)


def about_texts(board: Board) -> list[str]:
    """What each column and the average can detect, a sentence a column."""
    named: list[tuple[str, Column | None]] = [(str(column), column) for column in board.columns]
    named.append((board.average_name, None))
    found = [(name, about_text(board.about[column])) for name, column in named if column in board.about]
    return [f"{name}: {text}" for name, text in found if text]


def chance_text(about: About | None) -> str:
    """A chance level, and what it is from; empty where it is not known."""
    return "" if about is None or about.chance is None else f"{fixed(about.chance.level, 3)} ({about.chance.by})"


def chance_levels(board: Board) -> list[str]:
    """The row `chance`: the level of the average and of each column, empty where not known; none if none is known."""
    found = [board.about.get(column) for column in (None, *board.columns)]
    texts = [fixed(about.chance.level, 3) if about and about.chance else "" for about in found]
    return texts if any(texts) else []


def verdicts_on(board: Board) -> list[str]:
    """The verdicts that the board's cells and averages have, in the order of VERDICT_SIGNS."""
    found = {holder.verdict for entry in board.entries for holder in (*entry.cells.values(), entry.average) if holder}
    return [verdict for verdict in VERDICT_SIGNS if verdict and verdict in found]


def legend(board: Board) -> str:
    """One line: the signs on the board in words, and what a difference is."""
    signs = [f"{VERDICT_SIGNS[verdict]} {verdict}" for verdict in verdicts_on(board)]
    differences = [h.difference for e in board.entries for h in (*e.cells.values(), e.average) if h and h.difference]
    if any(not difference.paired for difference in differences):
        signs.append(f"{UNPAIRED} not paired")
    return f"to {board.reference}, margin {board.margin:g}: {', '.join(signs)}" if signs else ""


def probability_text(difference: Difference | None) -> str:
    """The corrected p-value; empty where none was computed."""
    if difference is None or math.isnan(difference.p_holm):
        return ""
    return "p < 0.001" if difference.p_holm < 0.001 else f"p {difference.p_holm:.3f}"


def describe_cell(holder: Cell | Average | None) -> str:
    """The value, and the difference to dense after it; empty where there is none."""
    if holder is None:
        return ""
    return " ".join(part for part in (value_text(holder), describe_difference(holder)) if part)


def brief_cell(holder: Cell | Average | None) -> str:
    """The value without its error, and the difference to dense."""
    if holder is None:
        return ""
    return " ".join(part for part in (fixed(holder.value, _digits(holder)), describe_difference(holder)) if part)


def notes_of(board: Board) -> list[str]:
    """What the numbers are."""
    signs = "; ".join(
        f"{VERDICT_SIGNS[verdict]} {verdict} ({meaning.format(margin=board.margin)})"
        for verdict, meaning in VERDICT_MEANINGS.items()
    )
    return [
        "± is the standard error as the results file has it (over passages, where documents share them); for random "
        "rankings the value is the mean over seeds and ± the standard deviation over them.",
        f"After it, the difference to the dense model at the same number of shots, and a verdict: {signs}.",
        "Differences are paired on the hashes of document and prompt, with Tango's score interval (95 %), corrected "
        "for continuity by three sixteenths of a document; its p-value is McNemar's. Documents that share a passage "
        "are one unit, and a loss is not excluded that the passages drawn may have missed. Metrics without bounds take "
        "Student's t. "
        "p-values are Holm-corrected over the variants of a task, and over the averages, at one number of shots; "
        "worse and better mean a corrected p below 0.05.",
        f"Within the margin: the interval does not go below {lowest(board.margin)}; that is said wrongly at most "
        "2.5 % of the time. Too few documents: if no answer had changed, the interval would. "
        f"{UNPAIRED} comes from runs that could not be paired, by their standard errors.",
        "Chance: a random choice, or the majority class where all documents have the same choices and one of them is "
        "more often right. Where the dense model's 95 % interval reaches it, the task can show no loss. It stays in "
        "the average, which it dilutes.",
        "The average's difference is judged over all tasks' documents together, however a loss falls on the tasks. "
        "Where a row has several seeds, the intervals are about other seeds too; where it has one, about other "
        "documents only.",
        "Detects: the smallest loss that would be shown as worse four times of five, at the documents of the column "
        "and the answers that changed in its rows (the median).",
        "FLOPs are those of the linear maps for one token, output layer included. An oracle was selected on the "
        "documents that it is evaluated on.",
        *([f"{line} {DECIDED}"] if (line := decided_line(board)) else []),
    ]
