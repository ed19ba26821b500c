"""What releases of the harness call by different names, looked for when it is used; docs/touching.md is the whole list.

0.4 is what is released and tested; 0.5 is the branch `next0.5` of its repository.
"""

from __future__ import annotations

from typing import Any

import lm_eval.evaluator

from lm_eval_prune.errors import ArgumentError

__all__ = ["answer_prefix", "sample_size", "trackio_logger"]


def sample_size(task: Any, limit: float | None) -> int | None:
    """How many documents of a task `limit` leaves: 0.4's `get_sample_size`, 0.5's `_get_sample_size`."""
    module: Any = lm_eval.evaluator
    function = getattr(module, "get_sample_size", None) or module._get_sample_size
    return function(task, limit)


def answer_prefix(task: Any, doc: dict[str, Any]) -> str | None:
    """What a task puts in front of every answer: 0.4's `doc_to_prefix`; 0.5 has it in the templates."""
    function = getattr(task, "doc_to_prefix", None)
    return None if function is None else function(doc)


def trackio_logger() -> Any:
    """0.4's class that logs to trackio. Raises ArgumentError for 0.5, which has none."""
    try:
        from lm_eval.loggers.trackio_logger import TrackioLogger
    except ModuleNotFoundError:
        raise ArgumentError(
            "--trackio_args: this release of lm_eval does not log to trackio; wandb_args remain"
        ) from None
    return TrackioLogger
