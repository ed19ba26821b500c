"""The gold answer of a harness task's document, taken from the task's own requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.task import ConfigurableTask, Task

from lm_eval_prune.harness.releases import answer_prefix, has_several_contexts

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

__all__ = ["gold_pair"]


def gold_pair(task: Task, doc: Any, instances: Sequence[Instance]) -> tuple[str, str] | None:
    """The (context, continuation) of the gold answer, from the task's own requests; None without one."""
    kind = instances[0].request_type
    if kind == "generate_until":
        return _generated_pair(task, doc, instances[0].args[0])
    if kind != "loglikelihood":
        return None
    index = 0 if len(instances) == 1 else _gold_choice(task, doc, instances)
    return None if index is None else tuple(instances[index].args[:2])


def _gold_choice(task: Task, doc: Any, instances: Sequence[Instance]) -> int | None:
    if not isinstance(task, ConfigurableTask):
        target = doc.get("gold") if isinstance(doc, dict) and "gold" in doc else task.doc_to_target(doc)
        choices: list[Any] = [instance.args[1] for instance in instances]
    elif task.config.doc_to_choice is None:  # several requests, none of which is the answer
        return None
    else:
        target = task.doc_to_text(doc) if has_several_contexts(task) else task.doc_to_target(doc)
        choices = task.doc_to_choice(doc)
    if isinstance(target, list | tuple):
        target = target[0] if target else None
    if isinstance(target, str):
        return choices.index(target) if target in choices else None
    # A hidden label is -1, which as an index would be the last choice.
    return int(target) if isinstance(target, int) and 0 <= target < len(choices) else None


def _generated_pair(task: Task, doc: Any, context: str) -> tuple[str, str] | None:
    """The gold answer behind the prompt, joined as the task's few-shot examples join them."""
    target = task.doc_to_target(doc)
    if isinstance(target, list | tuple):
        target = target[0] if target else None
    if isinstance(target, int) and task.get_config("doc_to_choice") is not None:
        choices = task.doc_to_choice(doc)
        target = choices[target] if 0 <= target < len(choices) else None
    if target is None or not str(target).strip():
        return None
    text = str(target)
    if not isinstance(task, ConfigurableTask):
        return context, text
    if answer_prefix(task, doc):
        delimiter = "" if context[-1:].isspace() or text[0].isspace() else " "
    else:
        delimiter = task.config.target_delimiter
    return context, delimiter + text
