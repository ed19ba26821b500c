"""A task at a number of shots, under many masks: requests built and encoded once, results those of the harness.

Each mask's results are what `lm_eval --model pruned-hf --tasks TASK` writes for it: the harness's own `evaluate` runs
on the same requests, over answers that were computed for several masks together.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import lm_eval.evaluator
import torch
from lm_eval.api.model import LM
from lm_eval.loggers.utils import add_env_info, add_tokenizer_info
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import handle_non_serializable

from lm_eval_prune.errors import ScoreError
from lm_eval_prune.files import plain_json
from lm_eval_prune.harness import packed
from lm_eval_prune.harness.chance import chance_levels
from lm_eval_prune.harness.metrics import finite, guarded, is_number, take_failed
from lm_eval_prune.harness.quiet import git_commit, quiet_harness
from lm_eval_prune.harness.releases import sample_size
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
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.limits import checked_limit
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.questions import question_of
from lm_eval_prune.scoring.finite import named
from lm_eval_prune.units import unit_field, unit_of

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["CellResult", "TaskRun"]

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
    ) -> None:
        """`num_fewshot` None is the task's own; `metadata` is what `task_metadata` makes."""
        self.lm, self.limit, self.seeds, self.bootstrap_iters = lm, checked_limit(limit), seeds, bootstrap_iters
        with seeded(seeds):
            self.task = fresh_task(name, num_fewshot, seeds.fewshot, include_path, include_defaults, metadata)
            with quiet_harness():
                self.task.build_all_requests(
                    limit=sample_size(self.task, self.limit),
                    rank=lm.rank,
                    world_size=lm.world_size,
                )
            self._drawn = random_state()
        self.task.build_all_requests = lambda **settings: None
        with _drawing_on(self._drawn), quiet_harness():
            self._chance = chance_levels(self.task, lm)
        self.fixed = _Fixed(lm)

    def results(
        self, masks: Sequence[PruningMask], progress: Callable[[float], None] = lambda share: None
    ) -> Iterator[CellResult | ScoreError | None]:
        """The result of each mask, in order; None in all but the first of several launched processes.

        `progress` is told of shares of one mask's work as they are done. A ScoreError stands where a log-likelihood is
        not a number, or no metric is. Raises in all processes what the model raises in one.
        """
        answers = self.answers(masks, progress)
        for number, mask in enumerate(masks):
            start = time.time()
            with wearing(self.lm, mask), _drawing_on(self._drawn), quiet_harness(), guarded(self.task) as failed:
                replay = _Replay(self.lm, answers[number] if answers is not None else None)
                for instance in self.task.instances:
                    instance.resps, instance.filtered_resps = [], {}
                found = lm_eval.evaluator.evaluate(
                    replay,
                    {"tasks": {self.task.task_name: self.task}, "groups": {}},
                    limit=self.limit,
                    bootstrap_iters=self.bootstrap_iters,
                    log_samples=True,
                )
                outcome = None if found is None else self._result(found, start, failed[self.task.task_name])
            if answers is None:
                progress(1.0)
            yield outcome

    def answers(
        self, masks: Sequence[PruningMask], progress: Callable[[float], None]
    ) -> Sequence[Sequence[tuple[float, bool]]] | None:
        """Per mask, the answer to each request; None where each mask is to be computed by the model's own methods."""
        kinds = {instance.request_type for instance in self.task.instances}
        if any((instance.repeats or 1) > 1 for instance in self.task.instances):
            return None
        if kinds != {"loglikelihood"} or self.lm.scorer != "packed" or packed.why_padded(self.lm) is not None:
            return None
        if not hasattr(self, "_trie"):
            self._trie = packed.trie_of(self.lm, self.task.instances)
        with _in_step(self.lm):
            return packed.answers_under(self.lm, self._trie, masks, progress)

    def _result(self, found: dict[str, Any], start: float, failed: dict[str, str]) -> CellResult | ScoreError:
        lm = self.lm
        field = unit_field(self.task.task_name, self.task.config.metadata)
        asked = lm.mask.is_dense  # what was asked is the same under every mask
        samples = [_slim(sample, field, asked) for sample in found.pop("samples")[self.task.task_name]]
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
            "limit": self.limit,
            "bootstrap_iters": self.bootstrap_iters,
            "random_seed": self.seeds.python,
            "numpy_seed": self.seeds.numpy,
            "torch_seed": self.seeds.torch,
            "fewshot_seed": self.seeds.fewshot,
        }
        results = {**found, "config": config, "date": start, **self.fixed.about}
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
        self.about = dict(_environment())
        add_tokenizer_info(self.about, lm)


def _environment() -> dict[str, Any]:
    if not _ENVIRONMENT:
        _ENVIRONMENT["git_hash"] = git_commit()
        add_env_info(_ENVIRONMENT)
    return _ENVIRONMENT


_ENVIRONMENT: dict[str, Any] = {}
"""The harness asks several programs for it, which takes seconds."""


class _Replay(LM):
    """A harness model whose log-likelihoods have been computed; other requests go to the model itself."""

    def __init__(self, lm: PrunedModel, answers: Sequence[tuple[float, bool]] | None) -> None:
        super().__init__()
        self._lm, self._answers = lm, answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    @property
    def rank(self) -> int:
        return self._lm.rank

    @property
    def world_size(self) -> int:
        return self._lm.world_size

    def barrier(self) -> None:
        self._lm.barrier()

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._lm.all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> Any:
        return self._lm.gather_object(obj, dst)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        if self._answers is None:
            with _in_step(self._lm):
                return self._lm.loglikelihood(requests, disable_tqdm=True)
        # With several processes the harness repeats the last request, so that all have as many.
        return [*self._answers, *[self._answers[-1]] * (len(requests) - len(self._answers))]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return self._lm.loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self._lm.generate_until(requests, disable_tqdm=True)


@contextlib.contextmanager
def _drawing_on(state: tuple[Any, ...]) -> Iterator[None]:
    """Inside, random draws go on from `state`, as they do in a run of the harness for one mask."""
    before = random_state()
    set_random_state(state)
    try:
        yield
    finally:
        set_random_state(before)


def _slim(sample: dict[str, Any], unit_field: str, asked: bool) -> dict[str, Any]:
    """A sample as a sweep keeps it; with the end of the prompt and the choices, if `asked`."""
    kept = {key: sample[key] for key in SAMPLE_KEYS}
    if asked and (question := question_of(sample.get("arguments"))) is not None:
        kept |= question._asdict()
    if (unit := unit_of(sample["doc"], unit_field)) is not None:
        kept["unit"] = unit
    kept |= {metric: sample[metric] for metric in sample["metrics"]}
    return plain_json(kept, handle_non_serializable)


@contextlib.contextmanager
def _in_step(lm: PrunedModel) -> Iterator[None]:
    """An error in one of several processes is raised in all: those without it would wait for that one for ever."""
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    failed = Processes.current().sum(torch.tensor(float(error is not None))) if lm.world_size > 1 else error is not None
    if error is not None:
        raise error
    if failed:
        raise RuntimeError("another process of this launch failed at it")


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
