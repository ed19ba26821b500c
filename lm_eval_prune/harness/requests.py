"""Harness tasks as what importance needs: calibration examples with gold answers, and a metric over answers.

Everything a prompt is made of is the harness's own: few-shot context, request arguments, and the encoding of a context
with its continuation (trailing spaces move to the continuation; both are tokenised as one text). Added here: few-shot
draws are seeded by document, so that neither order nor the number of processes matters, and no document is shown in
its own context.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.task import Task

from lm_eval_prune.errors import ArgumentError, ExampleError, PruneError
from lm_eval_prune.harness.gold import gold_pair
from lm_eval_prune.harness.packed import EncodingOnly
from lm_eval_prune.harness.releases import answer_prefix, request, requests_of
from lm_eval_prune.harness.shuffling import shuffled_answers
from lm_eval_prune.limits import SPLITS, checked_limit, number_limited
from lm_eval_prune.text import described

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from lm_eval_prune.importance.knockout import Answer

__all__ = [
    "Calibration",
    "Documents",
    "TaskObjective",
    "build_documents",
    "calibration",
    "num_documents",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Documents:
    """Some documents of a task, and the harness's requests for each."""

    task: Task
    split: str
    """One of SPLITS."""
    num_fewshot: int
    doc_ids: tuple[int, ...]
    """Places in the split, as the task reads it, counted from 0."""
    docs: tuple[Any, ...]
    instances: tuple[tuple[Instance, ...], ...]
    """For each document the requests that `construct_requests` made: for multiple choice one a choice."""

    @property
    def name(self) -> str:
        return self.task.task_name


@dataclass(frozen=True)
class Calibration:
    """Gold answers as token ids, and what identifies them."""

    examples: tuple[tuple[list[int], list[int]], ...]
    """(context_ids, continuation_ids), a pair a document, cut to the model's length."""
    prompts_sha256: str
    """Over the texts of all contexts and continuations."""
    tokens_sha256: str
    """Over the token ids that are really used: tokenizer, BOS and truncation included."""


def build_documents(
    task: Task,
    *,
    num_fewshot: int,
    split: str | None = None,
    limit: float | None = None,
    seed: int = 1234,
    shuffled: bool = False,
) -> Documents:
    """The first `limit` documents (a share of all below 1, as in the harness) of the task's split, with their requests.

    The split is training, validation where there is none (with a warning), or what `split` says. With `shuffled`, the
    answers in each few-shot context are those of its other examples. Raises ExampleError.
    """
    split = chosen_split(task, split)
    docs = _documents_of(task, split)
    limit = checked_limit(limit)
    # A number needs no length, which documents of the older kind of task may not have.
    number = limit if limit is None or isinstance(limit, int) else number_limited(len(docs), limit)
    chosen = list(enumerate(islice(docs, number)))
    if not chosen:
        raise ExampleError(f"task {task.task_name}: its {split} split has no documents")
    before = task.get_config("num_fewshot")
    task.set_config("num_fewshot", num_fewshot)
    try:
        instances = [_requests(task, doc, doc_id, num_fewshot, seed, shuffled) for doc_id, doc in chosen]
    finally:
        task.set_config("num_fewshot", before)
    ids, docs = zip(*chosen, strict=True)
    return Documents(task, split, num_fewshot, ids, docs, tuple(map(tuple, instances)))


def num_documents(task: Task, split: str | None = None, limit: float | None = None) -> int:
    """How many documents `build_documents` would take."""
    docs = _documents_of(task, chosen_split(task, split))
    return number_limited(len(docs), checked_limit(limit))


def calibration(lm: HFLM, documents: Documents) -> Calibration:
    """The gold answers of `documents`, encoded for `lm`. Raises ExampleError where a document has none."""
    pairs = []
    for doc_id, doc, instances in zip(documents.doc_ids, documents.docs, documents.instances, strict=True):
        pair = gold_pair(documents.task, doc, instances)
        if pair is None or not pair[1].strip():
            raise ExampleError(
                f"task {documents.name}: document {doc_id} of its {documents.split} split has no gold answer "
                f"({documents.task.OUTPUT_TYPE}); expected a task and split with known answers"
            )
        pairs.append(pair)
    examples = encoded(lm, pairs)
    return Calibration(tuple(examples), _sha256(pairs), _sha256(examples))


def encoded(lm: HFLM, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """(context_ids, continuation_ids) of each (context, continuation), as the harness encodes and cuts them."""
    requests = [request("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    triples = TemplateLM.loglikelihood(EncodingOnly(lm), requests, disable_tqdm=True)
    result = []
    for _, context, continuation in triples:
        if not continuation or len(continuation) > lm.max_length:
            raise ExampleError(
                f"a continuation of {len(continuation)} tokens; expected 1 to {lm.max_length}, the model's length"
            )
        result.append((context[-(lm.max_length + 1 - len(continuation)) :], continuation))
    return result


class TaskObjective:
    """A task's metric over answers to all its requests, through the task's own filters, results and aggregation.

    The metric is `acc`, `em` where the task has no `acc` (ReCoRD), or the one named. A metric of which less is better
    counts negatively. Raises ExampleError for tasks whose answers are generated, ArgumentError for unknown metrics.
    """

    def __init__(self, lm: HFLM, documents: Documents, metric: str | None = None) -> None:
        self.documents = documents
        self.metric = chosen_metric(documents.task, metric)
        self._instances = [instance for group in documents.instances for instance in group]
        if kinds := {instance.request_type for instance in self._instances} - {"loglikelihood"}:
            raise ExampleError(
                f"task {documents.name}: its answers come from {kinds.pop()}, not from likelihoods; its metric can "
                "only be loss"
            )
        self.requests = encoded(lm, [instance.args[:2] for instance in self._instances])

    def value(self, answers: Sequence[Answer]) -> float:
        task = self.documents.task
        for instance, answer in zip(self._instances, answers, strict=True):
            instance.resps, instance.filtered_resps = [answer], {}
        task._instances = self._instances
        task.apply_filters()
        name = next(iter(self._instances[0].filtered_resps))
        values = [
            task.process_results(doc, [instance.filtered_resps[name] for instance in group])[self.metric]
            for doc, group in zip(self.documents.docs, self.documents.instances, strict=True)
        ]
        value = float(task.aggregation()[self.metric](values))
        return value if task.higher_is_better().get(self.metric, True) else -value


# -- documents ----------------------------------------------------------------------------------------------------


def chosen_split(task: Task, split: str | None) -> str:
    """`split` itself, or without it training, or else validation. Raises ArgumentError, ExampleError."""
    has = {
        "training": task.has_training_docs(),
        "validation": task.has_validation_docs(),
        "test": task.has_test_docs(),
    }
    present = " and ".join(name for name in SPLITS if has[name]) or "none"
    if split is not None:
        if split not in SPLITS:
            raise ArgumentError(f"split {split!r}: unknown; expected one of {', '.join(SPLITS)}")
        if not has[split]:
            raise ExampleError(f"task {task.task_name} has no {split} split; it has {present}")
        return split
    if has["training"]:
        return "training"
    if has["validation"]:
        log.warning("task %s has no training split: using validation, an oracle if evaluated too", task.task_name)
        return "validation"
    raise ExampleError(
        f"task {task.task_name} has neither a training nor a validation split; its test split is taken only where it "
        "is named: as split, in a sweep as importance_split"
    )


def _documents_of(task: Task, split: str) -> Any:
    return {"training": task.training_docs, "validation": task.validation_docs, "test": task.test_docs}[split]()


def _requests(task: Task, doc: Any, doc_id: int, num_fewshot: int, seed: int, shuffled: bool = False) -> list[Instance]:
    own_seed = _document_seed(seed, doc_id)

    def prompt() -> Any:
        with _own_fewshot(task, doc, num_fewshot, own_seed):
            return task.fewshot_context(doc, num_fewshot=num_fewshot, gen_prefix=answer_prefix(task, doc))

    try:
        context = shuffled_answers(task, num_fewshot, own_seed, prompt) if shuffled else prompt()
        made = requests_of(task, doc, context, doc_id)
    except PruneError:
        raise
    except Exception as error:  # whatever a stranger's task raises: the harness has no shots of several gold answers
        raise ExampleError(
            f"task {task.task_name}: no prompt of document {doc_id} with {num_fewshot} shots: {described(error)}"
        ) from error
    return made if isinstance(made, list) else [made]


def _document_seed(seed: int, doc_id: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{doc_id}".encode()).digest()[:8], "big")


@contextmanager
def _own_fewshot(task: Task, doc: Any, num_fewshot: int, seed: int) -> Iterator[None]:
    """Inside, few-shot examples are drawn with `seed`, and none of them is `doc`."""
    task.set_fewshot_seed(seed)
    if not num_fewshot:
        yield
    elif hasattr(task, "sampler"):
        sampler = task.sampler
        task.sampler = _WithoutDocument(sampler, seed, _same_document(task, doc), task.task_name)
        try:
            yield
        finally:
            task.sampler = sampler
    else:  # a task class of the older kind draws from this list
        task._training_docs = [other for other in task.training_docs() if other != doc]
        try:
            yield
        finally:
            task._training_docs = None


class _WithoutDocument:
    """A task's sampler, but a draw that shows the document itself is drawn again from the others.

    The harness leaves the document out only where the few-shot split is the test split.
    """

    def __init__(self, sampler: Any, seed: int, same: Callable[[Any], bool], where: str) -> None:
        self.sampler, self.seed, self.same, self.where = sampler, seed, same, where

    def sample(self, n: int, eval_doc: Any = None, **kwargs: Any) -> Any:
        pool = list(self.sampler.fewshot_docs())
        if n > len(pool):
            raise ExampleError(f"task {self.where}: {n} shots, but only {len(pool)} documents to draw them from")
        drawn = self.sampler.sample(n=n, **kwargs)
        if not any(map(self.same, drawn)):
            return drawn
        others = [other for other in pool if not self.same(other)]
        if n > len(others):
            raise ExampleError(f"task {self.where}: {n} shots, but only {len(others)} other documents to draw from")
        return type(self.sampler)(others, rnd=self.seed).sample(n=n, **kwargs)


def _same_document(task: Task, doc: Any) -> Callable[[Any], bool]:
    """Whether a few-shot document is `doc`, or reads like it (splits and processing may differ)."""

    def rendered(document: Any) -> Any:
        choices = task.doc_to_choice(document) if task.config.doc_to_choice else None
        return task.doc_to_text(document), choices

    own = rendered(doc)
    return lambda other: other == doc or rendered(other) == own


def chosen_metric(task: Task, metric: str | None) -> str:
    """`metric` itself, or without it `acc`, or else `em`. Raises ArgumentError where the task has none such."""
    if metric == "loss":
        return metric
    known = list(task.aggregation())
    for name in ("acc", "em") if metric is None else (metric,):
        if name in known:
            return name
    wanted = metric or "acc or em"
    raise ArgumentError(f"task {task.task_name} has no metric {wanted}; it has {', '.join(known)}, and loss")


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
