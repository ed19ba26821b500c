"""The report's figures: the leaderboard's own where it has them, and those that only the paper draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lm_eval_prune.analysis import retained_capacity
from lm_eval_prune.errors import ScoreError
from lm_eval_prune.paper.evidence import Evidence
from lm_eval_prune.report.figures.curves import curve_figures
from lm_eval_prune.report.figures.form import Figure, unique_names
from lm_eval_prune.report.figures.marks import lines, panels, rounded
from lm_eval_prune.report.figures.scores import score_figures
from lm_eval_prune.report.runs import shots_name

__all__ = ["paper_figures"]

KINDS = {"figure-18": "prefix-matching", "figure-19": "copying"}
STEPS = tuple(f"{share / 20:g}" for share in range(21))
"""Shares pruned at which retained capacity is drawn."""


def paper_figures(evidence: Evidence) -> dict[str, list[Figure]]:
    """Key of a section -> its figures; names are unique over all. Needs altair (`vega.why_no_charts`)."""
    found: list[tuple[str, Figure]] = [*_curves(evidence), *_maps(evidence)]
    names = unique_names(figure for _, figure in found)
    by_section: dict[str, list[Figure]] = {}
    for (section, _), figure in zip(found, names, strict=True):
        by_section.setdefault(section, []).append(figure)
    return by_section


def _curves(evidence: Evidence) -> Iterator[tuple[str, Figure]]:
    """Accuracy against what is pruned."""
    wanted = {
        "heads": ("figure-5", ("heads-rankings", "heads-tasks-own")),
        "ffns": ("figure-6", ("ffns-rankings", "ffns-tasks-own")),
        "combined": ("figure-7", ("combined-",)),
        "transfer": ("figure-9", ("heads-transfer",)),
        "unseen": ("figure-9d", ("heads-tasks-",)),
    }
    for part, (section, names) in wanted.items():
        board = evidence.boards.get(part)
        if board is None:
            continue
        for figure in curve_figures(board, board.entries):
            if figure.name.startswith(names):
                yield section, figure


def _maps(evidence: Evidence) -> Iterator[tuple[str, Figure]]:
    """What importance and induction scores say."""
    shots = evidence.score_shots("heads")
    tasks = list(dict.fromkeys(task for number in shots for task in evidence.by_task("heads", number)))
    sections = {
        "importance-heads-gradient": "figure-3",
        "importance-ffns-knockout": "figure-4",
        "induction": "figure-10",
        "retained-capacity-gradient": "figure-11",
    }
    kept = _one_of_each(evidence)
    variance = {name: grid for name, grid in evidence.scores.variance.items() if name in kept}
    whole = replace(evidence.scores, induction=kept, variance=variance)
    for figure in score_figures(whole, tasks, shots):
        if figure.name in sections:
            yield sections[figure.name], figure
        elif figure.name.startswith("importance-heads-gradient-"):
            yield "figure-12", figure
    for number in shots:
        yield from (("figure-8", figure) for figure in _agreement(evidence, number))
    for section, kind in KINDS.items():
        yield from ((section, figure) for figure in _retained_by_task(evidence, kind, shots))


def _one_of_each(evidence: Evidence) -> dict[str, np.ndarray]:
    """Prefix matching, and one definition of copying."""
    kept = [evidence.induction_of(kind) for kind in KINDS.values()]
    return {name: np.array(file.scores) for name, file in evidence.induction.items() if file in kept}


def _agreement(evidence: Evidence, num_fewshot: int) -> Iterator[Figure]:
    """The matrix of one number of shots."""
    key = ("heads", "gradient")
    every = evidence.scores.importance.get(key, {})
    own = {name: scores for name, scores in every.items() if name[1] == num_fewshot}
    if len(own) < 2:
        return
    one = replace(evidence.scores, importance={key: own}, induction={}, variance={})
    for figure in score_figures(one, [], []):
        if figure.name.startswith("agreement-heads"):
            title = f"Do rankings of heads agree? {shots_name(num_fewshot)}"
            yield figure._replace(name=f"{figure.name}-{num_fewshot}shot", title=title)


def _retained_by_task(evidence: Evidence, kind: str, shots: Sequence[int]) -> Iterator[Figure]:
    """Capacity against the share of heads pruned, a line a task, a panel a number of shots."""
    capacity = evidence.capacity(kind)
    if capacity is None:
        return
    points: list[dict[str, Any]] = []
    series: dict[str, None] = {}
    for number in shots:
        for task, scores in evidence.by_task("heads", number).items():
            try:
                kept = retained_capacity(scores, capacity, STEPS)
            except ScoreError:  # all zero: there is no capacity to retain
                return
            series[task] = None
            points += [
                {"panel": shots_name(number), "series": task, "share": 100 * float(one.fraction),
                 "value": rounded(100 * one.retained)} for one in kept
            ]  # fmt: skip
    if not points:
        return
    chance = "at random (expected)"
    points += [
        {"panel": shots_name(number), "series": chance, "share": 100 * float(step), "value": 100 * (1 - float(step))}
        for number in shots
        for step in (0, 1)
    ]
    names = [*series, chance]
    said = kind.replace("-", " ")
    chart = lines(points, names, name="task", x="heads pruned (%)", y=f"{said} retained (%)", domain=names)
    caption = (
        f"The share of the model's total {said} score that the kept heads hold when each task's least important heads "
        "go. Above the straight line of random choices, the heads that the task needs do more than their share of it."
    )
    made = panels(chart, "panel", [shots_name(number) for number in shots])
    yield Figure(f"retained-{kind}-by-task", f"{said.capitalize()} retained under each task's ranking", caption, made)
