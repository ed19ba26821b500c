"""Which direction of a metric is better, the same for all runs of a task: what most files say, over what none says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from lm_eval_prune.report.runs import Problem, Run

__all__ = ["with_directions"]


def with_directions(runs: Sequence[Run]) -> tuple[list[Run], list[Problem]]:
    """The runs with one direction for each task's metric; a problem for each on which files contradict one another."""
    said: dict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
    for run in runs:
        for name, value in run.values.items():
            said[run.task, name][value.higher_is_better] += value.is_said
    right = {key: found.most_common(1)[0][0] for key, found in said.items()}
    problems = [
        Problem("different directions", f"{task} {name}: files differ on it; {_direction(right[task, name])} is taken")
        for (task, name), found in said.items()
        if len(+found) > 1
    ]
    return [_directed(run, right) for run in runs], problems


def _directed(run: Run, right: dict[tuple[str, str], bool]) -> Run:
    if all(value.higher_is_better == right[run.task, name] for name, value in run.values.items()):
        return run
    values = {name: value._replace(higher_is_better=right[run.task, name]) for name, value in run.values.items()}
    return replace(run, values=values)


def _direction(higher_is_better: bool) -> str:
    return "higher is better" if higher_is_better else "lower is better"
