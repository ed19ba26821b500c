"""A pack's attention calls, many in one kernel: for devices on which starting a call costs more than its arithmetic.

Calls of like size are padded to the largest among them and stacked. What is padded is masked out, and its outputs are
thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from lm_eval_prune.scoring.attention import AttentionCall, sees

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.attention import Attention
    from lm_eval_prune.scoring.packing import Pack

__all__ = ["Batch", "attend_in_batches", "batches_of"]


@dataclass(frozen=True)
class Batch:
    """B calls of at most Q query rows and K keys, on the device that computes them."""

    queries: Tensor
    """[B, Q] query rows; padded with a row of the same call."""
    keys: Tensor
    """[B, K] tokens of the pack; padded with the call's first key."""
    mask: Tensor
    """[B, 1, Q, K] zero or minus infinity, to be added to scores. No row is all minus infinity."""
    source: Tensor
    """[rows] which of the B * Q outputs are rows of a call."""
    target: Tensor
    """[rows] the query rows that these are."""


def batches_of(
    calls: Sequence[AttentionCall],
    pack: Pack,
    tokens: np.ndarray,
    *,
    window: int | None,
    most: int,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Batch]:
    """The calls as batches of at most `most` (query, key) pairs, or one call.

    `tokens` [query rows] says which token of the pack each query row is; a token sees `window` tokens at most.
    """
    rows, ends, positions = (torch.from_numpy(part).to(device) for part in (tokens, pack.ends, pack.positions))

    def seen(queries: Tensor, keys: Tensor) -> Tensor:
        """bool [B, Q, K]: whether query row queries[b, q] attends to token keys[b, k]."""
        found: Tensor = sees(rows[queries][:, :, None], keys[:, None], ends, positions, window)
        return found

    return [_batch(part, seen, device, dtype) for part in _of_like_size(calls, most)]


def attend_in_batches(
    batches: Sequence[Batch],
    attention: Attention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_places: Sequence[int],
) -> Tensor:
    """[rows, heads, head_dim]: the attention outputs of queries (heads, rows, head_dim).

    keys and values are the pack's (key/value heads, N, head_dim); `key_places` says for each head which of these is its
    own. `attention` says how scores become weights, of the same heads.
    """
    own = torch.tensor(key_places, device=keys.device)[:, None, None]
    outputs = queries.new_empty(queries.shape[1], queries.shape[0], values.shape[-1])
    for batch in batches:
        rows = queries[:, batch.queries].transpose(0, 1)
        seen = keys[own, batch.keys].transpose(0, 1)
        told = values[own, batch.keys].transpose(0, 1)
        if attention.softcap is None and attention.sinks is None:
            found = F.scaled_dot_product_attention(rows, seen, told, attn_mask=batch.mask, scale=attention.scaling)
        else:
            found = attention.weights(attention.scores(rows, seen) + batch.mask).to(told.dtype) @ told
        outputs[batch.target] = found.transpose(1, 2).flatten(0, 1)[batch.source]
    return outputs


def _of_like_size(calls: Sequence[AttentionCall], most: int) -> Iterator[list[AttentionCall]]:
    """The calls by the powers of two that their numbers of queries and keys lie between, in lists that fit a batch."""
    groups: dict[tuple[int, int], list[AttentionCall]] = {}
    for call in calls:
        num_queries, num_keys = _size(call)
        groups.setdefault((num_queries.bit_length(), num_keys.bit_length()), []).append(call)
    for (queries, keys), group in groups.items():
        number = max(1, most >> (queries + keys))
        yield from (group[first : first + number] for first in range(0, len(group), number))


def _batch(
    calls: Sequence[AttentionCall],
    sees: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> Batch:
    sizes = np.array([_size(call) for call in calls])
    num_queries, num_keys = sizes.max(0)
    queries = np.empty((len(calls), num_queries), dtype=np.int64)
    keys = np.empty((len(calls), num_keys), dtype=np.int64)
    for index, call in enumerate(calls):
        start, stop = call.queries
        queries[index, : stop - start], queries[index, stop - start :] = np.arange(start, stop), start
        own = np.concatenate([np.arange(*part) for part in call.keys])
        keys[index, : len(own)], keys[index, len(own) :] = own, own[0]
    of_calls = np.arange(num_queries) < sizes[:, :1]
    query, key = torch.from_numpy(queries).to(device), torch.from_numpy(keys).to(device)
    there = torch.from_numpy(np.arange(num_keys) < sizes[:, 1:]).to(device)
    seen = sees(query, key) & there[:, None]
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)
    return Batch(
        queries=query,
        keys=key,
        mask=mask[:, None],
        source=torch.from_numpy(np.flatnonzero(of_calls)).to(device),
        target=torch.from_numpy(queries[of_calls]).to(device),
    )


def _size(call: AttentionCall) -> tuple[int, int]:
    """Its query rows, and its keys."""
    return call.queries[1] - call.queries[0], sum(stop - start for start, stop in call.keys)
