"""Runs -> rows: which runs are one variant, which dense run it is compared with, which metric a column shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.report.board import Column
from lm_eval_prune.report.runs import Problem, Run
from lm_eval_prune.sweep.folder import Variant

__all__ = [
    "METRICS",
    "NATIVE",
    "RowKey",
    "columns_of",
    "dense_runs",
    "grouped",
    "labels",
    "one_name_a_model",
    "without_repeats",
]

METRICS = ("acc", "em", "exact_match")
"""The first of these that a task has is its column; tasks with none of them show their first metric."""
NATIVE = "pruned-opt"


class RowKey(NamedTuple):
    """What one row of the table is; its runs differ in task, random seed and few-shot draw."""

    model: str
    backend: str
    variant: Variant
    """Without the seed."""
    num_fewshot: int


def one_name_a_model(runs: Sequence[Run]) -> tuple[list[Run], list[Problem]]:
    """The runs, those of different weights under one name told apart by what is known of the weights."""
    by_model: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_model[run.model].append(run)
    several = {model: known for model, own in by_model.items() if (known := _different_weights(own))}
    problems = []
    for model, known in sorted(several.items()):
        listed = ", ".join(weights[:8] for weights in sorted(set(known.values())))
        problems.append(Problem("different models of one name", f"{model}: weights {listed}"))
    return [_with_weights(run, several[run.model]) if run.model in several else run for run in runs], problems


def _different_weights(runs: Sequence[Run]) -> dict[str, str]:
    """Weights as runs of one model know them -> a name for what is the same; empty where nothing shows a difference.

    A fingerprint and a hub commit cannot be compared: a run that has both says which belong together.
    """
    of_commit = {run.commit: run.fingerprint for run in reversed(runs) if run.commit and run.fingerprint}
    named = {weights: of_commit.get(weights, weights) for run in runs if (weights := run.weights)}
    fingerprints = {run.fingerprint for run in runs if run.fingerprint}
    commits = set(named.values()) - fingerprints
    # Of one fingerprint and one commit nothing is known, unless the fingerprint is another commit's.
    differ = len(fingerprints) > 1 or len(commits) > 1 or (commits and of_commit)
    return named if differ else {}


def _with_weights(run: Run, known: Mapping[str, str]) -> Run:
    return replace(run, model=f"{run.model} ({known.get(run.weights or '', 'unknown weights')[:15]})")


def without_repeats(runs: Iterable[Run]) -> tuple[list[Run], list[Problem]]:
    """One run for each variant, task, shots, few-shot seed and backend: the newest of repeated ones."""
    found: dict[tuple[object, ...], Run] = {}
    problems: dict[Problem, None] = {}
    for run in sorted(runs, key=lambda run: run.date):
        key = (run.model, run.backend, run.variant, run.task, run.num_fewshot, run.fewshot_seed)
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
        key = RowKey(run.model, run.backend, run.variant._replace(seed=None), run.num_fewshot)
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
        if key.backend != NATIVE:
            name += f" ({key.backend})"
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
        columns.append(Column(task, name, there[name]))
    return columns


def dense_runs(
    runs: Sequence[Run], baseline: str | None = None
) -> tuple[dict[tuple[str, str, int], list[Run]], list[Problem]]:
    """(model, task, shots) -> the dense runs that its variants are compared with, one a few-shot seed.

    Of several, ours rather than another backend's, then the newest; others whose numbers differ are a problem.
    `baseline` names one model whose dense runs serve all. Raises ArgumentError where it has none.
    """
    candidates: dict[tuple[str, str, int], list[Run]] = defaultdict(list)
    for run in runs:
        if run.is_dense:
            candidates[run.model, run.task, run.num_fewshot].append(run)
    if baseline is not None:
        candidates = _of_baseline(candidates, baseline, {run.model for run in runs})
    chosen: dict[tuple[str, str, int], list[Run]] = {}
    problems: dict[Problem, None] = {}
    for key, found in candidates.items():
        found = sorted(found, key=lambda run: (run.backend == NATIVE, run.date), reverse=True)
        by_seed: dict[int | None, Run] = {}
        for run in found:
            best = by_seed.setdefault(run.fewshot_seed, run)
            if best is not run and best.values != run.values:
                message = (
                    f"{run.model} on {run.task}, {run.num_fewshot}-shot: dense runs {best.path.name} ({best.backend}) "
                    f"and {run.path.name} ({run.backend}) differ; variants are compared with {best.path.name}"
                )
                problems[Problem("different dense baselines", message)] = None
        chosen[key] = list(by_seed.values())
    if baseline is None and len(models := sorted({model for model, _, _ in chosen})) > 1:
        message = f"each model's variants are compared with its own dense runs: {', '.join(models)}"
        problems[Problem("different dense baselines", message)] = None
    return chosen, list(problems)


def _of_baseline(
    candidates: dict[tuple[str, str, int], list[Run]], baseline: str, models: set[str]
) -> dict[tuple[str, str, int], list[Run]]:
    there = {model for model, _, _ in candidates}
    if baseline not in there:
        raise ArgumentError(
            f"baseline {baseline}: no dense runs; there are those of {', '.join(sorted(there)) or 'none'}"
        )
    ours = [(key, found) for key, found in candidates.items() if key[0] == baseline]
    return defaultdict(list, {(model, task, shots): found for (_, task, shots), found in ours for model in models})
