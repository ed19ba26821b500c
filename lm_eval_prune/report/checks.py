"""What must be alike before numbers are compared, and is named where it is not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.report.runs import Missing, Problem, Run

__all__ = ["listed", "problems_of_missing", "problems_of_runs", "require_none"]

SHOWN = 6
"""Names listed in one problem; the rest are counted."""


def _documents(run: Run) -> int | None:
    """None of a deciding sweep: its rows each take as many as they need, also where more are planned for some."""
    return run.num_documents if run.sequential is None else None


def problems_of_runs(runs: Sequence[Run]) -> list[Problem]:
    """One problem for each task (and number of shots) on which runs are not alike."""
    by_task: dict[str, list[Run]] = defaultdict(list)
    by_shots: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_task[run.task].append(run)
        by_shots[f"{run.task}, {run.num_fewshot}-shot"].append(run)
    problems: list[Problem] = []
    problems += _mixed("mixed limits", "documents", by_shots, _documents)
    problems += _mixed("different task versions", "version", by_task, lambda run: run.task_version)
    problems += _mixed("different task definitions", "definition", by_task, lambda run: run.task_config)
    problems += _mixed("mixed precision", "dtype", {"all runs": list(runs)}, lambda run: run.dtype)
    problems += _mixed("different harness versions", "lm_eval", {"all runs": list(runs)}, lambda run: run.lm_eval)
    return problems


def problems_of_missing(missing: Iterable[Missing], absent: Iterable[tuple[str, str]]) -> list[Problem]:
    """Cells of a plan without a result, and (row, column) pairs of the table that nothing answers."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for cell in missing:
        by_reason[cell.reason].append(f"{cell.variant} on {cell.task}, {cell.num_fewshot}-shot")
    problems = [Problem("missing cells", f"{reason}: {listed(names)}") for reason, names in by_reason.items()]
    by_row: dict[str, list[str]] = defaultdict(list)
    for row, column in absent:
        by_row[row].append(column)
    grouped: dict[str, list[str]] = defaultdict(list)
    for row, columns in by_row.items():
        grouped[listed(columns)].append(row)
    return problems + [
        Problem("missing results", f"{columns}: none for {listed(rows)}; these have no average and no rank")
        for columns, rows in grouped.items()
    ]


def require_none(problems: Sequence[Problem]) -> None:
    """Raise ArgumentError naming every kind of problem, and the first of all."""
    if problems:
        kinds = ", ".join(dict.fromkeys(problem.kind for problem in problems))
        first = problems[0]
        raise ArgumentError(f"not comparable ({kinds}); the first: {first.message}; without --strict this is a warning")


def _mixed(kind: str, noun: str, groups: dict[str, list[Run]], of: Callable[[Run], object]) -> Iterable[Problem]:
    """A problem for each group whose runs have several values; unknown values (None) are no difference.

    Groups with the same message are one problem.
    """
    named: dict[str, list[str]] = defaultdict(list)
    for name, runs in groups.items():
        found: dict[object, list[Run]] = defaultdict(list)
        for run in runs:
            if of(run) is not None:
                found[of(run)].append(run)
        if len(found) > 1:
            rarest = min(found.values(), key=len)
            example = f"such as {rarest[0].variant} ({rarest[0].path.name})"
            values = ", ".join(str(value)[:16] for value in sorted(found, key=str))
            named[f"{noun} {values}; the rarest {example}"].append(name)
    for message, names in named.items():
        yield Problem(kind, f"{listed(names)}: {message}")


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "; ".join(names[:SHOWN]) + more
