"""A task at a number of shots, under many masks: requests built and encoded once, results those of the harness.

Each mask's results are what `lm_eval --model pruned-hf --tasks TASK` writes for it: the harness's own `evaluate` runs
on the same requests, over answers that were computed for several masks together.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import lm_eval.evaluator
from lm_eval.loggers.utils import add_env_info, add_tokenizer_info
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import handle_non_serializable

from lm_eval_prune.errors import ArgumentError, ScoreError
from lm_eval_prune.files import plain_json
from lm_eval_prune.harness import packed
from lm_eval_prune.harness.chance import chance_levels
from lm_eval_prune.harness.metrics import finite, guarded, is_number, take_failed
from lm_eval_prune.harness.quiet import git_commit, quiet_harness
from lm_eval_prune.harness.releases import sample_size
from lm_eval_prune.harness.replay import Replay, Responses, in_step
from lm_eval_prune.harness.results import pruning_block
from lm_eval_prune.harness.task_identity import fresh_task
from lm_eval_prune.harness.tasks import (
    Member,
    Seeds,
    random_state,
    seeded,
    set_random_state,
)
from lm_eval_prune.harness.wearing import wearing
from lm_eval_prune.limits import checked_limit
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.questions import question_of
from lm_eval_prune.scoring.finite import named
from lm_eval_prune.splits import documents_of
from lm_eval_prune.units import unit_field, unit_of

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["CellResult", "Documents", "Part", "TaskRun"]

SAMPLE_KEYS = ("doc_id", "doc_hash", "prompt_hash", "target_hash", "target", "filter", "filtered_resps", "metrics")


class CellResult(NamedTuple):
    """What the harness finds under one mask."""

    results: dict[str, Any]
    """Its results JSON, with the `pruning` block; plain JSON values."""
    samples: list[dict[str, Any]]
    """A record a document and filter, with the keys of the harness's sample files that need no document's text.

    `unit` names the passage, where documents share one (`units.py`)."""
    failed_metrics: dict[str, str]
    """Metrics that are not in the results, and why: they raised, or are no finite number."""


class Documents(NamedTuple):
    """Some of a task's documents, by their numbers, and what is known of them already."""

    wanted: Sequence[int]
    """All that a result is to be of, sorted."""
    known: Sequence[Mapping[int, Responses]]
    """For each mask: a document's number -> its responses; such documents are not asked again."""

    @property
    def new(self) -> set[int]:
        """Those of which nothing is known, the same ones under every mask. Raises ValueError where they differ."""
        missing = {frozenset(self.wanted).difference(known) for known in self.known or ({},)}
        if len(missing) > 1:
            raise ValueError("masks that grow together have the same documents")
        return set(missing.pop())


class Part(NamedTuple):
    """Which of a task's documents are evaluated (`splits.py`)."""

    name: str
    """`development` or `test`."""
    share: str
    """Of the documents, that is development's."""
    seed: int


class TaskRun:
    """One task, its requests built once. Raises PruneError for an unknown task, what the harness raises otherwise."""

    def __init__(
        self,
        lm: PrunedModel,
        name: str | Member,
        *,
        num_fewshot: int | None,
        limit: float | None,
        seeds: Seeds,
        bootstrap_iters: int = 100_000,
        include_path: str | None = None,
        include_defaults: bool = True,
        metadata: Mapping[str, Any] | None = None,
        part: Part | None = None,
    ) -> None:
        """`num_fewshot` None is the task's own; `metadata` is what `task_metadata` makes; `part` of the documents."""
        self.lm, self.limit, self.seeds, self.bootstrap_iters = lm, checked_limit(limit), seeds, bootstrap_iters
        with seeded(seeds):
            self.task = fresh_task(name, num_fewshot, seeds.fewshot, include_path, include_defaults, metadata)
            with quiet_harness():
                self._size = sample_size(self.task, self.limit)
                self._samples = None if part is None else self._documents(part)
                self.task.build_all_requests(
                    limit=self._size if part is None else None,
                    samples=self._samples,
                    rank=lm.rank,
                    world_size=lm.world_size,
                )
            self._drawn = random_state()
        self.task.build_all_requests = lambda **settings: None
        self.num_documents = len(self.task.eval_docs)
        self._requests: list[Instance] = self.task.instances
        self._all_documents = self.task.doc_iterator
        with _drawing_on(self._drawn), quiet_harness():
            self._chance = chance_levels(self.task, lm)
        self.fixed = _Fixed(lm)
        self._trie: tuple[frozenset[int] | None, Any] | None = None

    def _documents(self, part: Part) -> list[int]:
        """Of those within the limit. Raises ArgumentError where there are none."""
        field = unit_field(self.task.task_name, self.task.config.metadata)
        found = documents_of(list(self.task.eval_docs)[: self._size], field, part.name, Fraction(part.share), part.seed)
        if not found:
            raise ArgumentError(f"task {self.task.task_name}: none of its documents are in the {part.name} part")
        return found

    def results(
        self,
        masks: Sequence[PruningMask],
        progress: Callable[[float], None] = lambda share: None,
        documents: Documents | None = None,
    ) -> Iterator[CellResult | ScoreError | None]:
        """The result of each mask, in order; None in all but the first of several launched processes.

        `documents`: the result is of these alone, with the prompts that they have among all of the task's; samples then
        hold the responses (`resps`) too, from which the result can grow on.
        `progress` is told of shares of one mask's work as they are done. A ScoreError stands where a log-likelihood is
        not a number, or no metric is. Raises in all processes what the model raises in one.
        """
        self._take(documents)
        answers = self.answers(masks, progress, documents)
        for number, mask in enumerate(masks):
            start = time.time()
            known = documents.known[number] if documents is not None and documents.known else {}
            with wearing(self.lm, mask), _drawing_on(self._drawn), quiet_harness(), guarded(self.task) as failed:
                replay = Replay(self.lm, answers[number] if answers is not None else None, known)
                for instance in self.task.instances:
                    instance.resps, instance.filtered_resps = [], {}
                found = lm_eval.evaluator.evaluate(
                    replay,
                    {"tasks": {self.task.task_name: self.task}, "groups": {}},
                    limit=None if self._samples else self.limit if documents is None else len(documents.wanted),
                    samples=None if self._samples is None else {self.task.task_name: self._samples},
                    bootstrap_iters=self.bootstrap_iters,
                    log_samples=True,
                )
                failures = failed[self.task.task_name]
                outcome = None if found is None else self._result(found, start, failures, documents)
            if answers is None:
                progress(1.0)
            yield outcome

    def _take(self, documents: Documents | None) -> None:
        """From now on the harness sees these documents of the task alone, under their own numbers."""
        if documents is None:
            self.task._instances, self.task.doc_iterator = self._requests, self._all_documents
            return
        if self.lm.world_size > 1:
            raise ArgumentError("some documents of a task: not in several launched processes")
        wanted = set(documents.wanted)
        self.task._instances = [instance for instance in self._requests if instance.doc_id in wanted]
        docs = self.task.eval_docs
        self.task.doc_iterator = lambda **settings: ((number, docs[number]) for number in sorted(wanted))

    def answers(
        self, masks: Sequence[PruningMask], progress: Callable[[float], None], documents: Documents | None = None
    ) -> Sequence[Sequence[tuple[float, bool]]] | None:
        """Per mask, the answer to each request that is new; None where the model's own methods are to compute each
        mask."""
        kinds = {instance.request_type for instance in self.task.instances}
        if any((instance.repeats or 1) > 1 for instance in self.task.instances):
            return None
        if kinds != {"loglikelihood"} or self.lm.scorer not in packed.SCORERS or packed.why_padded(self.lm) is not None:
            return None
        new = None if documents is None else frozenset(documents.new)
        if new is not None and not new:
            return [[] for _ in masks]
        if self._trie is None or self._trie[0] != new:
            asked = [instance for instance in self.task.instances if new is None or instance.doc_id in new]
            self._trie = new, packed.trie_of(self.lm, asked)
        with in_step(self.lm):
            return packed.answers_under(self.lm, self._trie[1], masks, progress)

    def _result(
        self, found: dict[str, Any], start: float, failed: dict[str, str], documents: Documents | None
    ) -> CellResult | ScoreError:
        lm = self.lm
        field = unit_field(self.task.task_name, self.task.config.metadata)
        asked = lm.mask.is_dense  # what was asked is the same under every mask
        keep = ("resps",) if documents is not None else ()
        samples = [_slim(sample, field, asked, keep) for sample in found.pop("samples")[self.task.task_name]]
        block = pruning_block(lm, self.fixed.num_parameters)
        found.pop("chance", None)  # the hook's, where it is installed
        if self._chance:
            block["chance"] = {self.task.task_name: self._chance}
        config = {
            "model": lm.harness_name,
            "model_args": {"pretrained": lm.model_name},
            **self.fixed.info,
            "model_num_parameters": block["num_parameters_left"],
            "batch_size": lm.batch_size_per_gpu if lm.batch_size != "auto" else "auto",
            "device": str(lm.device),
            "limit": self.limit if documents is None else len(documents.wanted),
            "bootstrap_iters": self.bootstrap_iters,
            "random_seed": self.seeds.python,
            "numpy_seed": self.seeds.numpy,
            "torch_seed": self.seeds.torch,
            "fewshot_seed": self.seeds.fewshot,
        }
        results = {**found, "config": config, "date": start, **self.fixed.about()}
        results = plain_json({**results, "pruning": block}, handle_non_serializable)
        name = self.task.task_name
        gone = take_failed(results["results"][name], failed)
        problem = _not_a_number(results, samples, gone, name)
        return problem or CellResult(finite(results), [finite(sample) for sample in samples], gone)


class _Fixed:
    """What is the same in all results of a model: looked up once."""

    def __init__(self, lm: PrunedModel) -> None:
        self.num_parameters = lm.model.num_parameters()
        self.info = HFLM.get_model_info(lm)
        self.tokenizer: dict[str, Any] = {}
        add_tokenizer_info(self.tokenizer, lm)
        self._environment = _environment()

    def about(self) -> dict[str, Any]:
        """The machine, its software and the model's tokenizer."""
        return {**self._environment.result(), **self.tokenizer}


@functools.cache
def _environment() -> Future[dict[str, Any]]:
    """The harness asks several programs for it, which takes seconds: meanwhile the model answers."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(_asked_environment)
    finally:
        pool.shutdown(wait=False)


def _asked_environment() -> dict[str, Any]:
    found: dict[str, Any] = {"git_hash": git_commit()}
    add_env_info(found)
    return found


@contextlib.contextmanager
def _drawing_on(state: tuple[Any, ...]) -> Iterator[None]:
    """Inside, random draws go on from `state`, as they do in a run of the harness for one mask."""
    before = random_state()
    set_random_state(state)
    try:
        yield
    finally:
        set_random_state(before)


def _slim(sample: dict[str, Any], unit_field: str, asked: bool, more: Sequence[str] = ()) -> dict[str, Any]:
    """A sample as a sweep keeps it; with the end of the prompt and the choices, if `asked`."""
    kept = {key: sample[key] for key in (*SAMPLE_KEYS, *more)}
    if asked and (question := question_of(sample.get("arguments"))) is not None:
        kept |= question._asdict()
    if (unit := unit_of(sample["doc"], unit_field)) is not None:
        kept["unit"] = unit
    kept |= {metric: sample[metric] for metric in sample["metrics"]}
    return plain_json(kept, handle_non_serializable)


def _not_a_number(
    results: dict[str, Any], samples: list[dict[str, Any]], failed: dict[str, str], task: str
) -> ScoreError | None:
    """Why there is no result at all: a log-likelihood is no number, or every metric failed."""
    for sample in samples:
        for answer in sample["filtered_resps"]:
            value = answer[0] if isinstance(answer, list) else answer
            if isinstance(value, float) and not math.isfinite(value):
                return ScoreError(f"task {task}: document {sample['doc_id']}: a log-likelihood is {named(value)}")
    if failed and not any(is_number(value) for key, value in results["results"][task].items() if "," in key):
        metric, why = next(iter(failed.items()))
        return ScoreError(f"task {task}: {metric}: {why}" if ":" in why else f"task {task}: {metric} is {why}")
    return None
