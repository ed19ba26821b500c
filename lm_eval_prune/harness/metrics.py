"""One metric's failure is that metric's: the others of the same task stay, and the failed one says why it failed."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import lm_eval.evaluator
import lm_eval.evaluator_utils
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

from lm_eval_prune.text import described, printable

__all__ = ["every_evaluation_guarded", "finite", "guarded", "is_number", "take_failed"]

logger = logging.getLogger(__name__)


@contextmanager
def guarded(*tasks: Task) -> Iterator[dict[str, dict[str, str]]]:
    """Inside, what a metric of `tasks` raises while the harness aggregates it makes that metric not finite.

    Yields task -> metric -> why, filled as metrics fail. Too large for a float is infinity; everything else is NaN.
    """
    failed: dict[str, dict[str, str]] = {task.task_name: {} for task in tasks}
    module: Any = lm_eval.evaluator_utils
    stderr_for_metric: Any = getattr(module, "stderr_for_metric", None)  # 0.5 has none

    def stderr_of(metric: Any, **settings: Any) -> Callable[[Any], Any] | None:
        guard = metric if isinstance(metric, _Guarded) else None
        found = stderr_for_metric(metric=guard.function if guard else metric, **settings)
        return _Guarded(found, f"{guard.name}_stderr", guard.failed) if guard and found else found

    originals = [(task, task.aggregation) for task in tasks]
    for task, original in originals:
        task.aggregation = partial(_Aggregations, original, failed[task.task_name])
    if stderr_for_metric is not None:
        module.stderr_for_metric = stderr_of
    try:
        yield failed
    finally:
        for task, original in originals:
            task.aggregation = original
        if stderr_for_metric is not None:
            module.stderr_for_metric = stderr_for_metric


@contextmanager
def every_evaluation_guarded() -> Iterator[None]:
    """Inside, the harness's `simple_evaluate` guards all tasks, and a warning names each metric that failed."""
    evaluate = lm_eval.evaluator.evaluate

    @wraps(evaluate)
    def evaluate_guarded(*args: Any, **kwargs: Any) -> Any:
        asked = inspect.signature(evaluate).bind(*args, **kwargs).arguments
        with guarded(*asked["task_dict"]["tasks"].values()) as failed:
            results = evaluate(*args, **kwargs)
        for task, metrics in failed.items():
            for metric, why in metrics.items():
                if metric.removesuffix("_stderr") in metrics and metric.endswith("_stderr"):
                    continue  # for the same reason
                logger.warning(printable(f"task {task}: no {metric}: {why}; its other metrics hold"))
        return results

    lm_eval.evaluator.evaluate = evaluate_guarded
    try:
        yield
    finally:
        lm_eval.evaluator.evaluate = evaluate


def take_failed(metrics: dict[str, Any], failed: dict[str, str]) -> dict[str, str]:
    """Remove from a task's `metrics` those that are not finite; returns "metric,filter" -> why."""
    gone: dict[str, str] = {}
    for key, value in list(metrics.items()):
        if key in metrics and isinstance(value, float) and not math.isfinite(value):
            name, _, rest = key.partition(",")
            gone[key] = failed.get(name) or ("NaN" if math.isnan(value) else f"{value}, not finite")
            del metrics[key]
            if not name.endswith("_stderr"):
                metrics.pop(f"{name}_stderr,{rest}", None)
            elif f"{name.removesuffix('_stderr')},{rest}" in metrics:
                metrics[key] = "N/A"  # as the harness says that there is none
    return gone


def is_number(value: Any) -> bool:
    """Whether it is a number, true and false aside."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def finite(value: Any) -> Any:
    """JSON values with None for every number that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list) else value


class _Guarded:
    """A function over a metric's values that notes what it raises."""

    def __init__(self, function: Callable[[Any], Any], name: str, failed: dict[str, str]) -> None:
        self.function, self.name, self.failed = function, name, failed
        self.__name__ = getattr(function, "__name__", name)  # it says whether the metric is a mean

    def __call__(self, items: Any) -> Any:
        try:
            return self.function(items)
        except Exception as error:  # whatever a stranger's metric raises
            self.failed[self.name] = described(error)
            return math.inf if isinstance(error, OverflowError) else math.nan


class _Aggregations(dict[str, Any]):
    """A task's, guarded; the harness takes the mean for a metric that has none."""

    def __init__(self, functions: Callable[[], dict[str, Any]], failed: dict[str, str]) -> None:
        super().__init__({name: _Guarded(function, name, failed) for name, function in functions().items()})
        self.failed = failed

    def __missing__(self, name: str) -> _Guarded:
        return _Guarded(mean, name, self.failed)
