"""Importance and induction scores, as they were read, by model: what figures and tables of rankings are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.text import printable

__all__ = ["AGGREGATE", "ScoreSet", "is_aggregate", "score_sets"]

AGGREGATE = "aggregate"


@dataclass
class ScoreSet:
    """The scores of one model."""

    model: str
    importance: dict[tuple[str, str], dict[tuple[str, int | None], np.ndarray]] = field(default_factory=dict)
    """(component, method) -> (task, shots) -> scores; of means over tasks the task is `aggregate`, or
    `aggregate:TASK+TASK` where a ranking named them."""
    metrics: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)
    """(component, method) -> what was measured, where the files say it: metrics of tasks, or `loss`."""
    induction: dict[str, np.ndarray] = field(default_factory=dict)
    """Method, such as `prefix-matching` -> scores of the heads."""
    variance: dict[str, np.ndarray] = field(default_factory=dict)
    """The same of their variance over sequences, where the files say it."""

    def aggregates(self, component: str, method: str) -> dict[int | None, np.ndarray]:
        """Shots -> the aggregate in the files, else the mean over the tasks."""
        by_name = self.importance[component, method]
        found: dict[int | None, np.ndarray] = {}
        for shots in sorted({shots for _, shots in by_name}, key=lambda shots: -1 if shots is None else shots):
            tasks = [scores for (task, k), scores in by_name.items() if k == shots and not is_aggregate(task)]
            own = by_name.get((AGGREGATE, shots))
            found[shots] = np.mean(tasks, axis=0) if own is None else own
        return found


def score_sets(files: Iterable[tuple[Path, ImportanceScores]]) -> list[ScoreSet]:
    """The files by model; of two with the same task, shots and method the later is taken.

    Scores of a model that a ranking had pruned in part (`under`) are left out: they rank what was left.
    """
    sets: dict[tuple[Any, ...], ScoreSet] = {}
    for _, file in files:
        settings = file.settings
        if settings.get("under"):
            continue
        model, method = _name(settings, "model", "unknown model"), _name(settings, "method", "scores")
        found = sets.setdefault((model, file.shape), ScoreSet(model))
        scores = np.array(file.scores)
        if file.component == "heads" and method.startswith(("prefix-matching", "copying")):
            found.induction[method] = scores
            found.variance.pop(method, None)
            if (variance := _like(settings.get("variance"), scores)) is not None:
                found.variance[method] = variance
        else:
            task, shots = _name(settings, "task", AGGREGATE), settings.get("num_fewshot")
            if task == AGGREGATE:
                task = _name(settings, "aggregate", AGGREGATE)
            named = task, shots if isinstance(shots, int) else None
            found.importance.setdefault((file.component, method), {})[named] = scores
            if metric := _name(settings, "metric", ""):
                found.metrics.setdefault((file.component, method), {})[metric] = None
    return list(sets.values())


def is_aggregate(task: str) -> bool:
    """Whether scores by this name are a mean over tasks."""
    return task.partition(":")[0] == AGGREGATE


def _like(values: Any, scores: np.ndarray) -> np.ndarray | None:
    """`values` as an array of the scores' shape; None where a file has none, or something else."""
    try:
        found = np.asarray(values, dtype=float)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.shape == scores.shape and np.isfinite(found).all() else None


def _name(settings: Mapping[str, Any], key: str, otherwise: str) -> str:
    return printable(str(settings.get(key) or otherwise))
