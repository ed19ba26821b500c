"""How numbers and verdicts are worded, the same in the terminal, in Markdown and on the page."""

from __future__ import annotations

import math

from lm_eval_prune.report.board import Average, Board, Cell, Difference, Entry
from lm_eval_prune.report.statistics import RESAMPLES

__all__ = [
    "VERDICT_SIGNS",
    "describe_average",
    "describe_cell",
    "describe_difference",
    "explain_difference",
    "fixed",
    "heads_and_ffns",
    "lowest",
    "notes_of",
    "percent",
    "percent_of_text",
    "probability_text",
    "signed",
    "value_text",
]

VERDICT_SIGNS = {"worse": "▼", "better": "▲", "tied": "=", "within the margin": "≈", "": ""}
VERDICTS = {"tied": "tied (equal, or no difference is shown)"}
"""What a verdict means, where its name alone does not say."""


def percent(share: float | None) -> str:
    """A share left, in whole percent where it is one."""
    return "" if share is None else f"{100 * share:.1f} %".replace(".0 %", " %")


def fixed(value: float, digits: int = 4, sign: str = "") -> str:
    """A value with that many decimals; what is rounded to 0 has no minus."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def signed(value: float) -> str:
    """A difference."""
    return fixed(value, sign="+")


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
    if holder.spread is not None:
        return f"{fixed(holder.value)} ±{holder.spread:.4f} over seeds"
    if isinstance(holder, Average):
        between = "" if math.isnan(holder.low) else f" [{fixed(holder.low, 3)}, {fixed(holder.high, 3)}]"
        return fixed(holder.value) + between
    return fixed(holder.value) + ("" if holder.stderr is None else f" ±{holder.stderr:.4f}")


def describe_difference(difference: Difference | None, verdict: str) -> str:
    """The difference to dense with the verdict's sign; `?` where the two runs could not be paired."""
    if difference is None:
        return ""
    unpaired = "?" if not difference.paired else ""
    return f"{signed(difference.value)}{unpaired} {VERDICT_SIGNS[verdict]}".rstrip()


def explain_difference(difference: Difference | None, verdict: str) -> str:
    """The difference in full: interval, tests, number of documents."""
    if difference is None:
        return ""
    parts = [f"{signed(difference.value)} to dense"]
    if not math.isnan(difference.low):
        parts[0] += f" [{signed(difference.low)}, {signed(difference.high)}]"
    if not math.isnan(difference.p_holm):
        parts.append(f"p = {difference.p:.2g}, Holm {difference.p_holm:.2g} ({difference.method})")
    elif difference.method != "none":
        parts.append(difference.method)
    parts.append(f"{difference.paired} documents paired" if difference.paired else "not paired")
    parts += [difference.note] if difference.note else []
    return "; ".join([*parts, *([verdict] if verdict else [])])


def probability_text(difference: Difference | None) -> str:
    """The corrected p-value; empty where none was computed."""
    if difference is None or math.isnan(difference.p_holm):
        return ""
    return "p < 0.001" if difference.p_holm < 0.001 else f"p {difference.p_holm:.3f}"


def describe_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return " ".join(part for part in (value_text(cell), describe_difference(cell.difference, cell.verdict)) if part)


def describe_average(entry: Entry) -> str:
    average = entry.average
    if average is None:
        return ""
    return " ".join(
        part for part in (value_text(average), describe_difference(average.difference, average.verdict)) if part
    )


def notes_of(board: Board) -> list[str]:
    """What the numbers are."""
    signs = ", ".join(f"{sign} {VERDICTS.get(verdict, verdict)}" for verdict, sign in VERDICT_SIGNS.items() if verdict)
    return [
        "± is the standard error as the results file has it; for random rankings the value is the mean over seeds and "
        "± the standard deviation over them.",
        f"After it, the difference to the dense model at the same number of shots, and a verdict: {signs}.",
        "Differences are paired on the hashes of document and prompt: McNemar's exact test for metrics of 0 and 1, "
        "a paired bootstrap for others and for means over seeds (where no resample reaches 0, the paired t-test, but "
        "nothing smaller than a sign test can give). p-values are Holm-corrected over the variants of a task at one "
        "number of shots; worse and better mean a corrected p below 0.05.",
        f"Within the margin: the 95 % interval of the difference does not go below {lowest(board.margin)}. A sign with "
        "? comes from runs that could not be paired, by their standard errors.",
        f"Intervals are percentiles of {RESAMPLES} bootstrap resamples (seed {board.seed}) of the documents; the "
        "average's of documents within tasks. They are about other documents, not about other seeds.",
        "FLOPs are those of the linear maps for one token, output layer included. An oracle was selected on the "
        "documents that it is evaluated on.",
    ]
