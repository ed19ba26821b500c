"""Runs -> rows: which runs are one variant, and which metric a column shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.model_names import ANY_FAMILY
from lm_eval_prune.report.board import Column
from lm_eval_prune.report.runs import Problem, Run
from lm_eval_prune.variants import Variant

__all__ = [
    "METRICS",
    "NATIVE",
    "RowKey",
    "at_own_shots",
    "columns_of",
    "grouped",
    "have_shots_of_their_own",
    "labels",
    "without_repeats",
]

METRICS = ("acc", "em", "exact_match")
"""The first of these that a task has is its column; tasks with none of them show their first metric."""
NATIVE = ANY_FAMILY
"""The backend of our own runs, by whichever of its names they were made."""


class RowKey(NamedTuple):
    """What one row of the table is; its runs differ in task, random seed and few-shot draw."""

    model: str
    backend: str
    variant: Variant
    """Without the seed."""
    num_fewshot: int
    apart: str = ""
    """As in its runs: how they were computed, where that alone tells rows apart."""


def have_shots_of_their_own(runs: Sequence[Run]) -> bool:
    """Whether tasks differ in their number of shots, and none has several: then no row would hold all of them."""
    pairs = {(run.task, run.num_fewshot) for run in runs}
    return len(pairs) == len({task for task, _ in pairs}) and len({shots for _, shots in pairs}) > 1


def at_own_shots(runs: Sequence[Run]) -> list[Run]:
    """The runs for a board with one row a variant. Raises ArgumentError for a task with several numbers of shots."""
    found: dict[str, set[int]] = defaultdict(set)
    for run in runs:
        found[run.task].add(run.num_fewshot)
    for task, shots in found.items():
        if len(shots) > 1:
            listed = " and ".join(map(str, sorted(shots)))
            raise ArgumentError(
                f"shots own: {task} was evaluated at {listed} shots; expected one number a task (choose by --tasks, or "
                "by naming files and folders)"
            )
    return [replace(run, at_own_shots=True) for run in runs]


def without_repeats(runs: Iterable[Run]) -> tuple[list[Run], list[Problem]]:
    """One run for each variant, task, shots, few-shot seed, backend and way: the newest of repeated ones."""
    found: dict[tuple[object, ...], Run] = {}
    problems: dict[Problem, None] = {}
    for run in sorted(runs, key=lambda run: run.date):
        key = (run.model, run.backend, run.variant, run.task, run.num_fewshot, run.fewshot_seed, run.apart)
        older = found.get(key)
        if older is not None and older.path != run.path:
            where = f"{run.variant} of {run.model} on {run.task}, {run.num_fewshot}-shot"
            if older.values != run.values or older.num_documents != run.num_documents:
                message = f"{where}: {older.path} and {run.path} differ; the newer, {run.path.name}, is shown"
                problems[Problem("repeated runs", message)] = None
        found[key] = run
    return list(found.values()), list(problems)


def grouped(runs: Iterable[Run]) -> dict[RowKey, dict[str, list[Run]]]:
    """Row -> task -> its runs (several for random seeds and few-shot draws), rows in order of appearance.

    A ranking that is an oracle on some tasks and none on the others is one row.
    """
    rows: dict[RowKey, dict[str, list[Run]]] = {}
    for run in runs:
        key = RowKey(run.model, run.backend, run.variant._replace(seed=None), run.row_shots, run.apart)
        rows.setdefault(key, {}).setdefault(run.task, []).append(run)
    for key in [key for key in rows if key.variant.oracle]:
        plain = key._replace(variant=key.variant._replace(oracle=False))
        if plain in rows and not rows[plain].keys() & rows[key].keys():
            rows[plain] |= rows.pop(key)
    return rows


def labels(rows: Mapping[RowKey, Mapping[str, Sequence[Run]]]) -> dict[RowKey, str]:
    """Row -> its name: the variant; with the model where there are several, and the backend where it is not ours."""
    several = len({key.model for key in rows}) > 1
    named = {}
    for key, by_task in rows.items():
        oracles = [task for task, runs in by_task.items() if any(run.variant.oracle for run in runs)]
        name = str(key.variant)
        if oracles and not key.variant.oracle:
            name += f", oracle on {', '.join(oracles)}"
        if described := [text for text in (key.backend if key.backend != NATIVE else "", key.apart) if text]:
            name += f" ({', '.join(described)})"
        named[key] = f"{key.model}: {name}" if several else name
    return named


def columns_of(
    runs: Sequence[Run], tasks: Sequence[str] | None = None, metrics: Sequence[str] = METRICS
) -> list[Column]:
    """One column a task, in order of appearance (or of `tasks`). Raises ArgumentError for a task nobody evaluated."""
    found: dict[str, dict[str, bool]] = {}
    for run in runs:
        for name, value in run.values.items():
            found.setdefault(run.task, {}).setdefault(name, value.higher_is_better)
    if unknown := [task for task in tasks or () if task not in found]:
        raise ArgumentError(f"tasks: {', '.join(unknown)} not evaluated; there are {', '.join(found)}")
    columns = []
    for task in tasks or found:
        there = found[task]
        name = next((name for name in (*metrics, *METRICS) if name in there), next(iter(there)))
        own = next((run.num_fewshot for run in runs if run.task == task and run.at_own_shots), None)
        columns.append(Column(task, name, there[name], own))
    return columns
