"""What releases of the harness call by different names, looked for when it is used; docs/touching.md is the whole list.

0.4 is what is released and tested; 0.5 is the branch `next0.5` of its repository.
"""

from __future__ import annotations

import inspect
from typing import Any

import lm_eval.api.metrics
import lm_eval.evaluator
from lm_eval.api.instance import Instance

from lm_eval_prune.errors import ArgumentError

__all__ = [
    "answer_prefix",
    "has_several_contexts",
    "request",
    "requests_of",
    "sample_size",
    "share_of_questions",
    "trackio_logger",
]


def sample_size(task: Any, limit: float | None) -> int | None:
    """How many documents of a task `limit` leaves: 0.4's `get_sample_size`, 0.5's `_get_sample_size`."""
    module: Any = lm_eval.evaluator
    function = getattr(module, "get_sample_size", None) or module._get_sample_size
    return function(task, limit)


def answer_prefix(task: Any, doc: dict[str, Any]) -> str | None:
    """What a task puts in front of every answer: 0.4's `doc_to_prefix`; 0.5 has it in the templates."""
    function = getattr(task, "doc_to_prefix", None)
    return None if function is None else function(doc)


def request(
    kind: str,
    doc: dict[str, Any],
    arguments: tuple[Any, ...],
    place: int,
    *,
    task: str = "",
    doc_id: int = 0,
    **said: Any,
) -> Instance:
    """A document's request, the `place`th: 0.4 has task and document in a tuple `metadata`, 0.5 in fields.

    said: what the harness hands to `construct_requests`, in the place of `task` and `doc_id`.
    """
    made: Any = Instance
    named = {"task_name": task, "doc_id": doc_id} if _has_fields() else {"metadata": (task, doc_id, 1)}
    return made(request_type=kind, doc=doc, arguments=arguments, idx=place, **{**named, **said})


def requests_of(task: Any, doc: dict[str, Any], context: Any, doc_id: int) -> Any:
    """What a task asks of one document behind `context`."""
    said = {"doc_id": doc_id} if _has_fields() else {"metadata": (task.task_name, doc_id, 1)}
    return task.construct_requests(doc=doc, ctx=context, **said)


def _has_fields() -> bool:
    """Whether a request cannot be made without naming its task."""
    return inspect.signature(Instance).parameters["task_name"].default is inspect.Parameter.empty


def has_several_contexts(task: Any) -> bool:
    """Whether a task's choices are contexts: 0.4's `multiple_input`, 0.5's setting `multiple_inputs`."""
    found = getattr(task, "multiple_input", None)
    return bool(task.config.multiple_inputs if found is None else found)


def share_of_questions() -> Any:
    """0.4's function `acc_all`: the share of MultiRC's questions all of whose answers are judged right; None in 0.5."""
    return getattr(lm_eval.api.metrics, "acc_all", None)


def trackio_logger() -> Any:
    """0.4's class that logs to trackio. Raises ArgumentError for 0.5, which has none."""
    try:
        from lm_eval.loggers.trackio_logger import TrackioLogger
    except ModuleNotFoundError:
        raise ArgumentError(
            "--trackio_args: this release of lm_eval does not log to trackio; wandb_args remain"
        ) from None
    return TrackioLogger
