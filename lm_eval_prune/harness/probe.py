"""What a task costs on this machine, measured on a few of its documents: for plans that are not carried out."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from lm_eval_prune.decoders.forward import forward_of
from lm_eval_prune.harness import packed
from lm_eval_prune.harness.induction import InductionConfig, prefix_matching_of, sequence_lengths
from lm_eval_prune.harness.means import MeansConfig
from lm_eval_prune.harness.releases import sample_size
from lm_eval_prune.harness.requests import (
    TaskObjective,
    build_documents,
    calibration,
    num_documents,
)
from lm_eval_prune.harness.tasks import load_tasks
from lm_eval_prune.importance.knockout import each_alone
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.scoring.flops import all_packs, evaluation_flops, gradient_flops, shared_flops
from lm_eval_prune.scoring.packing import Pack, build_pack
from lm_eval_prune.scoring.trie import TokenTrie, build_trie

if TYPE_CHECKING:
    from lm_eval_prune.harness.cells import TaskRun
    from lm_eval_prune.harness.importance import ImportanceConfig
    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["TaskCost", "importance_documents", "importance_flops", "prefix_matching_cost", "task_cost"]

FORWARDS = {"means": 1, "function_vector": 2, "block_influence": 2}
"""Methods without gradients: how often they see each prompt."""
PROBED_SEQUENCES = 6

PATIENCE_SECONDS = 10.0
"""A first pass that takes longer is not repeated to leave out what only first passes do."""


class TaskCost(NamedTuple):
    """One task at one number of shots."""

    documents: int
    """That the task evaluates."""
    probed: int
    """That were measured."""
    seconds: float
    """To answer the requests of the probed ones, dense."""
    overhead: float
    """Seconds a cell beside that."""
    flops: Callable[[Sequence[PruningMask]], float]
    """To answer the requests of the probed ones under masks that are scored together."""

    def of(self, masks: Sequence[PruningMask]) -> tuple[float, float]:
        """(FLOPs, seconds) of all the task's documents under masks that are scored together.

        The FLOPs are NaN where they cannot be counted, as of generated answers; then each mask costs what dense does.
        """
        share, flops = self.documents / self.probed, self.flops(masks)
        dense = self.flops([PruningMask.dense(*masks[0].shape)])
        times = flops / dense if dense > 0 else float(len(masks))
        return flops * share, self.seconds * share * times + self.overhead * len(masks)


def task_cost(run: TaskRun, limit: float | None) -> TaskCost:
    """Measure `run`, built with few documents, for an evaluation of `limit` of them."""
    lm = run.lm
    asked = sample_size(run.task, limit)
    total = len(run.task.eval_docs)
    dense = PruningMask.dense(*lm.mask.shape)

    def answered() -> float:
        start = time.perf_counter()
        if run.answers([dense], lambda share: None) is None:
            for kind in {instance.request_type for instance in run.task.instances}:
                getattr(lm, kind)([each for each in run.task.instances if each.request_type == kind], disable_tqdm=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds = answered()
    if seconds < PATIENCE_SECONDS:
        seconds = answered()
    start = time.perf_counter()
    list(run.results([dense]))
    overhead = max(0.0, time.perf_counter() - start - seconds)
    documents = total if asked is None else min(asked, total)
    return TaskCost(documents, len({each.doc_id for each in run.task.instances}), seconds, overhead, _flops_of(run))


def importance_flops(config: ImportanceConfig | MeansConfig, lm: PrunedModel) -> tuple[float, int]:
    """(FLOPs of the importance, or the means, of `config.limit` documents of its one task, how many documents).

    Function vectors are counted as two forwards of each prompt, and of its last token once for every head.
    """
    (task,) = load_tasks(config.tasks, config.include_path, config.include_defaults, config.metadata).values()
    (shots,) = config.num_fewshot
    documents = build_documents(task, num_fewshot=shots or 0, split=config.split, limit=config.limit, seed=config.seed)
    layers, heads = lm.mask.shape
    dense = PruningMask.dense(layers, heads)
    method = "means" if isinstance(config, MeansConfig) else config.method
    if method != "knockout":
        packs = _apart(build_trie(calibration(lm, documents).examples, lm.max_length))
        if method not in FORWARDS:
            return gradient_flops(lm.config, packs), len(documents.doc_ids)
        a_token = [1 / len(pack) if method == "function_vector" else 0.0 for pack in packs]
        costs = [evaluation_flops(lm.config, [pack], dense) for pack in packs]
        times = [FORWARDS[method] + layers * heads * share for share in a_token]
        return math.fsum(map(operator.mul, costs, times)), len(documents.doc_ids)
    assert not isinstance(config, MeansConfig)
    trie = build_trie(TaskObjective(lm, documents, config.metric).requests, lm.max_length)
    masks = each_alone(lm.mask.shape, config.component)
    return shared_flops(lm.config, _packs(lm, trie), [dense, *masks]), len(documents.doc_ids)


def prefix_matching_cost(config: InductionConfig, lm: PrunedModel) -> tuple[float, int, float]:
    """(FLOPs, number of sequences, seconds) of prefix matching; the time is that of a few sequences, by tokens."""
    few, lengths = replace(config, num_sequences=PROBED_SEQUENCES), sequence_lengths(config, lm)
    start = time.perf_counter()
    prefix_matching_of(few, lm)
    seconds = time.perf_counter() - start
    sequences = [([0] * config.repeats * length, [0]) for length in lengths]
    packs = _apart(build_trie(sequences, lm.max_length))
    flops = evaluation_flops(lm.config, packs, PruningMask.dense(*lm.mask.shape))
    return flops, len(lengths), seconds * sum(lengths) / sum(lengths[:PROBED_SEQUENCES])


def importance_documents(config: ImportanceConfig | MeansConfig) -> int:
    """How many documents the importance, or the means, of `config`'s one task are of."""
    (task,) = load_tasks(config.tasks, config.include_path, config.include_defaults, config.metadata).values()
    return num_documents(task, config.split, config.limit)


def _flops_of(run: TaskRun) -> Callable[[Sequence[PruningMask]], float]:
    lm = run.lm
    if {instance.request_type for instance in run.task.instances} != {"loglikelihood"}:
        return lambda masks: float("nan")
    trie = packed.trie_of(lm, run.task.instances)
    if lm.scorer in packed.SCORERS and packed.why_padded(lm) is None:
        packs = _packs(lm, trie)
        return lambda masks: shared_flops(lm.config, packs, masks)
    # Padded, every request is computed whole, and pruned components too; padding itself is left out.
    dense = evaluation_flops(lm.config, _apart(trie), PruningMask.dense(*lm.mask.shape))
    return lambda masks: dense * len(masks)


def _packs(lm: PrunedModel, trie: TokenTrie) -> list[Pack]:
    size = lm.batch_size if isinstance(lm.batch_size, int) else None
    return all_packs(forward_of(lm.model), trie, size)


def _apart(trie: TokenTrie) -> list[Pack]:
    """A pack for every request."""
    return [build_pack(trie, index, index + 1) for index in range(len(trie))]
