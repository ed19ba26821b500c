"""A row's average over tasks with its interval, and what is said of differences: verdicts and minimal decline."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from lm_eval_prune.report.board import Average, Cell, Column, Decline, Difference, Entry
from lm_eval_prune.report.cells import Made, difference_of
from lm_eval_prune.report.parts import Part
from lm_eval_prune.report.runs import Run, shots_name
from lm_eval_prune.report.statistics import Estimate
from lm_eval_prune.report.wording import lowest, signed

__all__ = [
    "average_estimate",
    "average_of",
    "averaged_columns",
    "declines",
    "is_at_chance",
    "stays_within",
    "too_few",
    "verdict_of",
]

HALVING = "halving"
"""What a deciding sweep that halves calls itself."""
LEVEL = 0.05
"""Holm-corrected p-values below it are a difference."""


def averaged_columns(columns: Sequence[Column]) -> list[Column]:
    """The columns that an average is over: those where higher is better, if there are any."""
    return [column for column in columns if column.higher_is_better] or list(columns)


def average_of(made: Mapping[Column, Made], columns: Sequence[Column], runs: Sequence[Run]) -> Average | None:
    """The mean over `columns`, without a verdict; None where one is missing."""
    columns = averaged_columns(columns)
    if any(column not in made for column in columns):
        return None
    value = fmean(made[column].cell.value for column in columns)
    low, high, method = _interval([made[column] for column in columns])
    return Average(
        value=value,
        low=low,
        high=high,
        method=method,
        num_documents=_documents([made[column].cell for column in columns]),
        spread=_spread(columns, runs),
        difference=_difference([made[column] for column in columns]),
    )


def is_at_chance(dense: Sequence[Part | None], level: float | None) -> bool:
    """Whether the interval of the dense model's value, the mean of `dense`, reaches the chance level; False if unknown.

    dense: of each task that the value is over.
    """
    parts = [part for part in dense if part is not None]
    if level is None or not parts or len(parts) < len(dense):
        return False
    return Estimate([(1 / len(parts), part) for part in parts]).interval[0] <= level


def _documents(cells: Sequence[Cell]) -> int | None:
    numbers = [cell.num_documents for cell in cells]
    return None if None in numbers else sum(number or 0 for number in numbers)


def average_estimate(made: Mapping[Column, Made], columns: Sequence[Column]) -> Estimate | None:
    """The average's difference to dense; None where a column has none."""
    found = [made[column].difference for column in averaged_columns(columns) if column in made]
    return _mean([one for one in found if one is not None], len(averaged_columns(columns)))


def stays_within(difference: Difference, higher_is_better: bool, margin: float) -> bool:
    """Whether a loss is shown to be smaller than the margin, by documents that could have shown one that is not."""
    low = difference.low if higher_is_better else -difference.high
    return low >= -margin and not too_few(difference, margin)  # never of nan


def too_few(difference: Difference, margin: float) -> bool:
    """Whether documents cannot show the loss to be below the margin, even if none of them had changed."""
    return 0 < margin < difference.least


def verdict_of(difference: Difference, higher_is_better: bool, margin: float, at_chance: bool = False) -> str:
    """What is said of a difference, in this order:

    `better`; `identical` (no document changed) or `within the margin` (a loss, shown or not, is shown to be smaller);
    `worse`; `too few documents` for the margin; else `not shown`. A difference is shown where its Holm-corrected
    p-value is below 0.05 (without one: where its interval leaves 0 out). Without an interval there is no verdict.
    `at_chance`: the dense model is not shown to be above the chance level. Then there is nothing to lose, and
    `dense is at chance` stands for all but `better` and `worse`, which are of a difference that is there.
    """
    if math.isnan(difference.low):
        return ""
    gain = difference.value if higher_is_better else -difference.value
    outside = difference.low > 0 or difference.high < 0
    shown = outside if math.isnan(difference.p_holm) else difference.p_holm < LEVEL
    if shown and gain > 0:
        return "better"
    if at_chance:
        return "worse" if shown and not stays_within(difference, higher_is_better, margin) else "dense is at chance"
    if stays_within(difference, higher_is_better, margin):
        return "identical" if difference.changed == 0 else "within the margin"
    if shown:
        return "worse"
    return "too few documents" if too_few(difference, margin) else "not shown"


def declines(entries: Sequence[Entry], margin: float, higher_is_better: bool = True) -> list[Decline]:
    """For each ranking, component and number of shots: how far it can go with the average above the margin.

    The walk begins at the smallest share and ends at the first that is not shown to stay above: in a fixed sequence
    each test may be made at the full level (Maurer, Hothorn and Lehmacher 1995). Of a deciding sweep that halved, it is
    the largest share that is shown to stay above: the shares that it asked about have the level in common.
    """
    families: dict[tuple[str, str, str, int], list[tuple[float, Entry, Difference]]] = defaultdict(list)
    for entry in entries:
        heads, ffns = float(entry.prune_heads), float(entry.prune_ffns)
        difference = entry.average.difference if entry.average is not None else None
        if entry.is_dense or (heads and ffns) or difference is None or math.isnan(difference.low):
            continue
        for component, fraction in (("heads", heads), ("FFNs", ffns)):
            if fraction:
                families[entry.model, entry.named_ranking, component, entry.num_fewshot].append(
                    (fraction, entry, difference)
                )
    return [
        _decline(*key, sorted(found, key=lambda one: one[0]), margin, higher_is_better)
        for key, found in families.items()
    ]


def _decline(
    model: str,
    ranking: str,
    component: str,
    shots: int,
    found: list[tuple[float, Entry, Difference]],
    margin: float,
    higher_is_better: bool,
) -> Decline:
    stays = [stays_within(one, higher_is_better, margin) for _, _, one in found]
    halved = all(run.sequential and run.sequential.mode == HALVING for _, entry, _ in found for run in entry.runs)
    if halved:
        end = max((place + 1 for place, stay in enumerate(stays) if stay), default=0)
    else:
        end = stays.index(False) if False in stays else len(found)
    best, beyond = found[:end][-1:], found[end : end + 1]
    details = ", ".join(f"at {_percent(e, component)} it is {_described(one)}" for _, e, one in best + beyond)
    fraction = "0"
    for _, entry, _ in best:
        fraction = entry.share(component)
    above = f"the average above dense {lowest(margin)}" if higher_is_better else f"at most {margin:g} lost on average"
    for _, _, one in [] if best else beyond:
        if too_few(one, margin):
            enough = f"; about {one.needed:,} would be the least" if one.needed else ""
            sentence = (
                f"{ranking}, {shots_name(shots)}: too few documents to tell how many {component} can go with {above}"
            )
            counted = f"{one.paired:,} documents" if one.paired else "these documents"
            reason = f"had no answer changed, {counted} would show a loss below {one.least:.4f}{enough}"
            return Decline(model, ranking, component, shots, "0", f"{sentence}: {reason}; {details}", enough=False)
    percent = _percent(best[0][1], component) if best else "0 %"
    sentence = f"{ranking}, {shots_name(shots)}: {percent} of {component} can go with {above}"
    if halved and best:
        sentence += ", found by halving"
    return Decline(model, ranking, component, shots, fraction, f"{sentence}; {details}", halved=halved and bool(best))


def _described(difference: Difference) -> str:
    return f"{signed(difference.value)} [{signed(difference.low)}, {signed(difference.high)}]"


def _percent(entry: Entry, component: str) -> str:
    return f"{100 * float(entry.share(component)):g} %"


def _interval(made: Sequence[Made]) -> tuple[float, float, str]:
    parts = [one.value for one in made]
    if any(part is None for part in parts):
        return math.nan, math.nan, "none"
    estimate = Estimate([(1 / len(parts), part) for part in parts if part is not None])
    return *estimate.interval, "documents" if all(one.has_outcomes for one in made) else "standard errors"


def _difference(made: Sequence[Made]) -> Difference | None:
    differences = [one.cell.difference for one in made if one.cell.difference is not None]
    if len(differences) < len(made):
        return None
    notes = "; ".join(dict.fromkeys(one.note for one in differences if one.note))
    estimate = _mean([one.difference for one in made if one.difference is not None], len(made))
    value = fmean(one.value for one in differences)
    paired = all(one.paired for one in differences)
    method = ", ".join(dict.fromkeys(one.method for one in differences))
    return difference_of(estimate, method, sum(one.paired for one in differences) if paired else 0, notes, value)


def _mean(found: Sequence[Estimate], number: int) -> Estimate | None:
    if len(found) < number or not found:
        return None
    parts = [(weight / number, part) for one in found for weight, part in one.parts]
    return Estimate(parts, max(one.z for one in found), max(one.factor for one in found))


def _spread(columns: Sequence[Column], runs: Sequence[Run]) -> float | None:
    """Standard deviation of the average over seeds; None without several seeds that all have every column."""
    by_seed: dict[tuple[int | None, int | None], dict[str, float]] = defaultdict(dict)
    for run in runs:
        for column in columns:
            if run.task == column.task and column.metric in run.values:
                by_seed[run.variant.seed, run.fewshot_seed][column.task] = run.values[column.metric].value
    averages = [fmean(values.values()) for values in by_seed.values() if len(values) == len(columns)]
    return stdev(averages) if len(averages) > 1 and len(averages) == len(by_seed) else None
