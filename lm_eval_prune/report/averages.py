"""A row's average over tasks with its interval, and what is said of differences: verdicts and minimal decline."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np

from lm_eval_prune.report.board import Average, Column, Decline, Difference, Entry
from lm_eval_prune.report.cells import Made
from lm_eval_prune.report.runs import Run
from lm_eval_prune.report.statistics import interval
from lm_eval_prune.report.wording import lowest, signed

__all__ = ["average_of", "averaged_columns", "declines", "verdict_of"]

LEVEL = 0.05
"""Holm-corrected p-values below it are a difference."""
REACH = 1.959963984540054
"""Of a 95 % interval, in standard errors."""


def averaged_columns(columns: Sequence[Column]) -> list[Column]:
    """The columns that an average is over: those where higher is better, if there are any."""
    return [column for column in columns if column.higher_is_better] or list(columns)


def average_of(
    made: Mapping[Column, Made], columns: Sequence[Column], runs: Sequence[Run], margin: float
) -> Average | None:
    """The mean over `columns`; None where one is missing."""
    columns = averaged_columns(columns)
    if any(column not in made for column in columns):
        return None
    cells = [made[column].cell for column in columns]
    value = fmean(cell.value for cell in cells)
    low, high, method = _interval(value, columns, made)
    difference = _difference([made[column] for column in columns])
    better = columns[0].higher_is_better
    return Average(
        value=value,
        low=low,
        high=high,
        method=method,
        spread=_spread(columns, runs),
        difference=difference,
        verdict=verdict_of(difference, better, margin) if difference else "",
    )


def verdict_of(difference: Difference, higher_is_better: bool, margin: float) -> str:
    """`better` and `worse` are shown, `within the margin` says that the loss is shown to be smaller; else `tied`.

    A loss that is both shown and shown to be smaller than the margin is within the margin. A difference counts as shown
    where its Holm-corrected p-value is below 0.05 (for an average: where its interval leaves 0 out). Without an
    interval there is no verdict.
    """
    if math.isnan(difference.low):
        return ""
    low, high = (difference.low, difference.high) if higher_is_better else (-difference.high, -difference.low)
    gain = difference.value if higher_is_better else -difference.value
    shown = difference.p_holm < LEVEL if not math.isnan(difference.p_holm) else low > 0 or high < 0
    if shown and gain > 0:
        return "better"
    if low == high == 0:
        return "tied"
    if low >= -margin:
        return "within the margin"
    return "worse" if shown else "tied"


def declines(entries: Sequence[Entry], margin: float) -> list[Decline]:
    """For each ranking, component and number of shots: how far it can go with the average above the margin."""
    families: dict[tuple[str, str, str, int], list[tuple[float, Entry]]] = defaultdict(list)
    for entry in entries:
        heads, ffns = float(entry.prune_heads), float(entry.prune_ffns)
        if entry.is_dense or entry.average is None or (heads and ffns) or entry.average.difference is None:
            continue
        for component, fraction in (("heads", heads), ("FFNs", ffns)):
            if fraction:
                ranking = entry.ranking + (", oracle" if entry.oracle else "")
                families[entry.model, ranking, component, entry.num_fewshot].append((fraction, entry))
    return [
        _decline(*key, sorted(found, key=lambda pair: pair[0]), margin)
        for key, found in families.items()
        if not math.isnan(found[0][1].average.difference.low)  # type: ignore[union-attr]
    ]


def _decline(
    model: str, ranking: str, component: str, shots: int, found: list[tuple[float, Entry]], margin: float
) -> Decline:
    best: Entry | None = None
    beyond: Entry | None = None
    for _, entry in found:
        if _low(entry) < -margin:
            beyond = entry
            break
        best = entry
    percent = _percent(best, component) if best else "0 %"
    sentence = f"{ranking}, {shots}-shot: {percent} of {component} can go with the average above dense {lowest(margin)}"
    details = [f"at {_percent(entry, component)} it is {_described(entry)}" for entry in (best, beyond) if entry]
    fraction = (best.prune_heads if component == "heads" else best.prune_ffns) if best else "0"
    return Decline(model, ranking, component, shots, fraction, f"{sentence}; {', '.join(details)}")


def _low(entry: Entry) -> float:
    assert entry.average is not None
    assert entry.average.difference is not None
    return entry.average.difference.low


def _described(entry: Entry) -> str:
    assert entry.average is not None
    assert entry.average.difference is not None
    difference = entry.average.difference
    return f"{signed(difference.value)} [{signed(difference.low)}, {signed(difference.high)}]"


def _percent(entry: Entry, component: str) -> str:
    return f"{100 * float(entry.prune_heads if component == 'heads' else entry.prune_ffns):g} %"


def _interval(value: float, columns: Sequence[Column], made: Mapping[Column, Made]) -> tuple[float, float, str]:
    means = [made[column].value_means for column in columns]
    if all(found is not None for found in means):
        return *interval(np.mean(np.array(means), axis=0)), "bootstrap"
    errors = [made[column].error for column in columns]
    if any(error is None for error in errors):
        return math.nan, math.nan, "none"
    reach = REACH * math.hypot(*(error or 0 for error in errors)) / len(errors)
    return value - reach, value + reach, "standard errors"


def _difference(made: Sequence[Made]) -> Difference | None:
    found = [one.cell.difference for one in made]
    if any(difference is None for difference in found):
        return None
    differences = [difference for difference in found if difference is not None]
    value = fmean(difference.value for difference in differences)
    notes = "; ".join(dict.fromkeys(difference.note for difference in differences if difference.note))
    paired = sum(difference.paired for difference in differences)
    means = [one.difference_means for one in made]
    if all(one is not None for one in means):
        low, high = interval(np.mean(np.array(means), axis=0))
        return Difference(value, low, high, math.nan, math.nan, "bootstrap", paired, notes)
    reach = math.hypot(*((difference.high - difference.low) / 2 for difference in differences)) / len(differences)
    method = "none" if math.isnan(reach) else "standard errors"
    return Difference(value, value - reach, value + reach, math.nan, math.nan, method, 0, notes)


def _spread(columns: Sequence[Column], runs: Sequence[Run]) -> float | None:
    """Standard deviation of the average over seeds; None without several seeds that all have every column."""
    by_seed: dict[tuple[int | None, int | None], dict[str, float]] = defaultdict(dict)
    for run in runs:
        for column in columns:
            if run.task == column.task and column.metric in run.values:
                by_seed[run.variant.seed, run.fewshot_seed][column.task] = run.values[column.metric].value
    averages = [fmean(values.values()) for values in by_seed.values() if len(values) == len(columns)]
    return stdev(averages) if len(averages) > 1 and len(averages) == len(by_seed) else None
