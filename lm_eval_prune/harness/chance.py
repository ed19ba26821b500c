"""What a task's metrics come to by chance: a uniformly random choice, or the best answer that is always the same.

Taken from the documents that were evaluated, through the task's own `process_results`: each choice of a document is
picked in turn, and the metrics that this gives are averaged. So the level is that of the task's own metric (several
right choices, ReCoRD's `em`), and no metric is defined twice. Answers are classes where all documents have the same
choices, such as yes and no; then one that never reads the document gets the share of the most frequent class. Nothing
is said of metrics that are no mean over documents, of generated text, and of likelihoods.
"""

from __future__ import annotations

import logging
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task

__all__ = ["chance_levels", "chance_of_tasks"]

logger = logging.getLogger(__name__)

METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "em", "f1")
"""Metrics that depend on nothing but which choice is picked."""
LOSING = (-1e6, False)
"""The answer (log-likelihood, whether it is the greedy one) of a choice that is not picked; 0 is that of the picked."""


class _Document(NamedTuple):
    """One document's metrics under each pick."""

    choices: tuple[str, ...]
    """Texts of the continuations."""
    by_pick: list[dict[str, float]]
    """Metrics where that choice is picked."""


def chance_of_tasks(tasks: Mapping[str, Any], lm: LM) -> dict[str, dict[str, dict[str, Any]]]:
    """Task -> its levels, of all in the harness's dictionary of tasks that `lm` answered; empty for models not ours."""
    if not isinstance(getattr(lm, "mask", None), PruningMask):
        return {}
    found = {task.task_name: chance_levels(task, lm) for task in _tasks_in(tasks)}
    return {name: levels for name, levels in found.items() if levels}


def chance_levels(task: Task, lm: LM) -> dict[str, dict[str, Any]]:
    """Metric -> its level on the documents that `task` has built requests for; JSON values. Empty where it has none.

    `level` is the metric's value, `by` is `choices` (a random one) or `majority class` (the more frequent, which
    `class` names, where that is higher), `choices` the smallest and the largest number of choices. Every process of a
    launch has to call it; the first one's is of all documents.
    """
    known = _KNOWN.get(task)
    if known is None or known[0] is not task.instances:
        documents = _documents(task)
        if lm.world_size > 1:
            gathered = lm.gather_object(documents)
            documents = [one for part in gathered or () for one in part]
        known = _KNOWN[task] = task.instances, _levels(documents)
    return known[1]


_KNOWN: weakref.WeakKeyDictionary[Task, tuple[Any, dict[str, dict[str, Any]]]] = weakref.WeakKeyDictionary()
"""Task -> its requests, and the levels: a sweep evaluates the same requests under many masks."""


def _tasks_in(tasks: Mapping[str, Any]) -> Iterator[Task]:
    """The tasks of the harness's nested dictionary, each once."""
    found: dict[int, Task] = {}
    for value in tasks.get("tasks", tasks).values():
        for task in _tasks_in(value) if isinstance(value, Mapping) else [value]:
            if hasattr(task, "process_results"):
                found[id(task)] = task
    yield from found.values()


def _documents(task: Task) -> list[_Document]:
    """Each document's metrics; none where the task has no choices, or does not take made-up answers."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return []
    by_document: dict[Any, list[Instance]] = defaultdict(list)
    for instance in task.instances:
        by_document[instance.doc_id].append(instance)
    names = _means(task)
    try:
        return [_document(task, sorted(own, key=lambda one: one.idx), names) for own in by_document.values()]
    except Exception as error:  # whatever a stranger's task raises
        logger.debug("%s: no chance level: %s", task.task_name, error)
        return []


def _means(task: Task) -> list[str]:
    """Metrics that are means over documents, where more is better; the harness takes the mean where none is named."""
    aggregations, directions = task.aggregation(), task.higher_is_better()
    return [
        name
        for name in METRICS
        if getattr(aggregations.get(name), "__name__", "mean") == "mean" and directions.get(name) is not False
    ]


def _document(task: Task, instances: Sequence[Instance], names: Sequence[str]) -> _Document:
    number = len(instances)
    if "acc_mutual_info" in task.aggregation():  # the second half are likelihoods of the choices alone
        number //= 2
    by_pick = []
    for pick in range(number):
        answers = [LOSING] * number + [(0.0, False)] * (len(instances) - number)
        answers[pick] = (0.0, True)
        found = task.process_results(instances[0].doc, answers)
        by_pick.append({name: float(found[name]) for name in names if isinstance(found.get(name), int | float)})
    return _Document(tuple(str(one.arguments[1]) for one in instances[:number]), by_pick)


def _levels(documents: Sequence[_Document]) -> dict[str, dict[str, Any]]:
    if not documents:
        return {}
    first, sizes = documents[0].choices, [len(one.choices) for one in documents]
    are_classes = len(documents) > 1 and len(set(first)) == len(first) and all(d.choices == first for d in documents)
    levels: dict[str, dict[str, Any]] = {}
    for name in documents[0].by_pick[0]:
        if not all(name in pick for one in documents for pick in one.by_pick):
            continue
        by_document = [[pick[name] for pick in one.by_pick] for one in documents]
        level = sum(sum(values) / len(values) for values in by_document) / len(documents)
        said: dict[str, Any] = {"level": level, "by": "choices", "choices": [min(sizes), max(sizes)]}
        if are_classes:
            constant = [sum(values) / len(documents) for values in zip(*by_document, strict=True)]
            best = max(range(len(first)), key=constant.__getitem__)
            if constant[best] > level + 1e-9:
                said |= {"level": constant[best], "by": "majority class", "class": first[best].strip()}
        levels[name] = said
    return levels
