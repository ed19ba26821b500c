"""`score`: log-likelihoods of continuations, under one mask or many."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lm_eval_prune.budget import free_memory, is_out_of_memory, output_rows, token_budget
from lm_eval_prune.decoders import check_fits, trunk_of
from lm_eval_prune.decoders.forward import DecoderForward, forward_of
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.scoring.forward import answer_pack
from lm_eval_prune.scoring.output import OutputLayer
from lm_eval_prune.scoring.packing import Pack, build_pack, end_of_pack
from lm_eval_prune.scoring.trie import TokenRequest, TokenTrie, build_trie

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from lm_eval_prune.means import Means

__all__ = ["Answer", "PackScore", "collected", "score", "score_packs"]

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What the model says to one request."""

    log_likelihood: float
    """Sum over the continuation's tokens, natural logarithm."""
    is_greedy: bool
    """Every token of the continuation is the likeliest at its place."""


class PackScore(NamedTuple):
    """The answers that one pass through the layers gave."""

    indices: list[int]
    """The requests' places in the caller's order."""
    answers: list[list[Answer]]
    """Per mask, one answer for each of `indices`."""
    num_tokens: int
    """Tokens that went through the layers."""


def score(
    model: nn.Module,
    requests: Sequence[TokenRequest],
    masks: Sequence[PruningMask] | None = None,
    *,
    max_length: int | None = None,
    batch_size: int | str = "auto",
    softmax_dtype: torch.dtype | None = None,
    means: Means | None = None,
    flex: bool = False,
) -> list[list[Answer]]:
    """The answers to `requests` under each of `masks` (None: the model as it is), in the order given.

    A request is (context ids, continuation ids); what is longer than `max_length` (default: all positions that the
    model knows) loses its beginning. Masks share the layers below the first difference between them. `batch_size`
    bounds memory: no more than a padded batch of so many of the longest request takes; "auto" takes what is fast, and
    less where memory runs out. What is pruned gives zero, or its `means`. `flex` attends by PyTorch's flex attention,
    which is compiled on a CUDA device and slow elsewhere.
    Raises UnsupportedModelError for a model that is not plain, PruneError.
    """
    trie, forward = build_trie(requests, max_length or trunk_of(model).max_length), forward_of(model, means)
    masks = [PruningMask.dense(forward.num_hidden_layers, forward.num_attention_heads)] if masks is None else masks
    packs = score_packs(forward, trie, masks, batch_size=batch_size, softmax_dtype=softmax_dtype, flex=flex)
    return collected(packs, len(masks), len(requests))


def collected(
    packs: Iterable[PackScore], num_masks: int, num_requests: int, done: Callable[[PackScore], object] = lambda _: None
) -> list[list[Answer]]:
    """Per mask, one answer for each request in the caller's order; `done` is told of each pack as it comes."""
    rows: list[list[Answer]] = [[Answer(0.0, False)] * num_requests for _ in range(num_masks)]
    for pack in packs:
        for row, answers in zip(rows, pack.answers, strict=True):
            for index, answer in zip(pack.indices, answers, strict=True):
                row[index] = answer
        done(pack)
    return rows


def score_packs(
    forward: DecoderForward,
    trie: TokenTrie,
    masks: Sequence[PruningMask],
    *,
    batch_size: int | str = "auto",
    softmax_dtype: torch.dtype | None = None,
    flex: bool = False,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[PackScore]:
    """The same pack by pack, as the answers come; each is computed inside `around()`.

    A pack for which memory does not suffice is halved.
    """
    for mask in masks:
        check_fits(mask, forward.num_hidden_layers, forward.num_attention_heads)
    if not masks:
        return
    masks = [mask | forward.removed for mask in masks]
    size = _size(batch_size)
    budget = token_budget(forward, forward.device.type, trie.longest, size)
    output = OutputLayer(forward, output_rows(forward.output_device.type, trie.longest, size), softmax_dtype)
    first = 0
    while first < len(trie):
        pack = build_pack(trie, first, end_of_pack(trie, first, budget))
        with around():
            answers = _attempt(forward, pack, masks, output, flex)
        if answers is None:
            budget = len(pack) // 2
            free_memory()
            logger.warning("out of memory with %d tokens in one pass; continuing with %d", len(pack), budget)
            continue
        rows = [list(map(Answer, *row)) for row in zip(*(part.tolist() for part in answers), strict=True)]
        yield PackScore(trie.original[pack.requests].tolist(), rows, len(pack))
        first = pack.requests.stop


def _attempt(
    forward: DecoderForward, pack: Pack, masks: Sequence[PruningMask], output: OutputLayer, flex: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """None where memory ran out and a smaller pack is possible."""
    try:
        return answer_pack(forward, pack, masks, output, flex)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or pack.requests.stop - pack.requests.start == 1:
            raise
    return None


def _size(batch_size: int | str) -> int | None:
    """None for "auto" or "auto:N"."""
    if isinstance(batch_size, str) and batch_size.split(":")[0] == "auto":
        return None
    if isinstance(batch_size, int | str) and str(batch_size).isdecimal() and int(batch_size) > 0:
        return int(batch_size)
    raise ArgumentError(f"batch_size={batch_size!r}: expected a whole number from 1, or auto")
