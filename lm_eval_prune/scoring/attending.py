"""The attention of some rows of a pack, as any decoder asks for it: grouped keys, windows, caps and sinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from lm_eval_prune.scoring.attention import QUERIES, AttentionCall, allowed
from lm_eval_prune.scoring.batched import Batch, attend_in_batches, batches_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn.attention.flex_attention import BlockMask

    from lm_eval_prune.decoders.attention import Attention
    from lm_eval_prune.scoring.packing import Pack

__all__ = ["Attending", "in_batches"]


MOST_PAIRS = 2**26
"""(query, key) pairs that a batch of calls holds: its mask is 128 MiB in half precision. Where the scores themselves
are held, of all heads, they are no more."""


def in_batches(device: torch.device) -> bool:
    """Whether many calls go into one kernel on this device: a CPU starts a kernel for next to nothing."""
    return device.type != "cpu"


@dataclass
class Attending:
    """The attention calls of some rows of a pack, with their masks once these have been made."""

    pack: Pack
    calls: list[AttentionCall]
    tokens: np.ndarray
    """The pack's token of every query row."""
    masks: dict[tuple[AttentionCall, int | None, torch.device, torch.dtype], Tensor] = field(default_factory=dict)
    """What was made: zero or minus infinity [queries, keys], to be added to scores."""
    batches: dict[tuple[int | None, bool, torch.device, torch.dtype], list[Batch]] = field(default_factory=dict)
    """The calls, where many go into one kernel."""
    flex: bool = False
    """Whether all is one call of flex attention, whatever the calls are."""
    block_masks: dict[tuple[int | None, torch.device], BlockMask] = field(default_factory=dict)
    """What that leaves out."""

    def outputs(
        self, attention: Attention, keys: Tensor, values: Tensor, heads: Sequence[int], places: Sequence[int]
    ) -> Tensor:
        """[1, rows, all heads, head_dim]: of `heads` the attention output, of the others zeros.

        attention.queries are the rows' (1, all heads, rows, head_dim); keys and values (key/value heads, N, head_dim)
        the pack's; `places` says for each of `heads` which key/value head is its own.
        """
        queries = attention.queries[0]
        if list(heads) != list(range(len(queries))):
            queries = queries[list(heads)]
        window = attention.window
        if window is not None and window > int(self.pack.positions.max()):
            window = None
        plain = window is None and attention.softcap is None and attention.sinks is None
        told = attention if attention.sinks is None else replace(attention, sinks=attention.sinks[list(heads)])
        if self.flex:
            from lm_eval_prune.scoring.flex import attend_by_blocks, block_mask  # imports torch's compiler

            if (key := (window, queries.device)) not in self.block_masks:
                self.block_masks[key] = block_mask(self.pack, self.tokens, window, queries.device)
            found = attend_by_blocks(self.block_masks[key], told, queries, keys, values, places)
        elif in_batches(queries.device):
            batches = self._batches(queries, window, plain=plain)
            found = attend_in_batches(batches, told, queries, keys, values, places)
        else:
            if list(places) != list(range(len(keys))):
                keys, values = keys[list(places)], values[list(places)]
            found = self._one_by_one(told, queries, keys, values, window, plain=plain)
        return _spread(found, heads, attention.queries.shape[1])

    def _one_by_one(
        self, attention: Attention, queries: Tensor, keys: Tensor, values: Tensor, window: int | None, *, plain: bool
    ) -> Tensor:
        outputs = queries.new_empty(queries.shape[1], len(queries), values.shape[-1])
        for call in self.calls if plain else self._in_blocks(window):
            rows = slice(*call.queries)
            asked, seen, told = queries[:, rows], _gathered(keys, call), _gathered(values, call)
            if plain:
                mask = None if call.causal else self._mask(call, None, queries)
                found = F.scaled_dot_product_attention(
                    asked[None], seen[None], told[None], attn_mask=mask, is_causal=call.causal, scale=attention.scaling
                )[0]
            else:
                scores = attention.scores(asked, seen) + self._mask(call, window, queries)
                found = attention.weights(scores).to(told.dtype) @ told
            outputs.transpose(0, 1)[:, rows] = found
        return outputs

    def _batches(self, like: Tensor, window: int | None, *, plain: bool) -> list[Batch]:
        """The calls, for queries `like` (heads, rows, head_dim)."""
        key = (window, plain, like.device, like.dtype)
        if key not in self.batches:
            self.batches[key] = batches_of(
                self.calls if plain else self._in_blocks(window),
                self.pack,
                self.tokens,
                window=window,
                most=MOST_PAIRS if plain else MOST_PAIRS // len(like),
                device=like.device,
                dtype=like.dtype,
            )
        return self.batches[key]

    def _mask(self, call: AttentionCall, window: int | None, like: Tensor) -> Tensor:
        key = (call, window, like.device, like.dtype)
        if key not in self.masks:
            seen = allowed(self.pack, self.tokens[slice(*call.queries)], call.keys, window)
            mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
            self.masks[key] = mask.masked_fill_(torch.from_numpy(~seen).to(like.device), -torch.inf)
        return self.masks[key]

    def _in_blocks(self, window: int | None) -> list[AttentionCall]:
        """The calls, those that a fast path takes whole cut into blocks of queries and the keys that these may see."""
        blocks = []
        for call in self.calls:
            if not call.causal:
                blocks.append(call)
                continue
            (first, stop), start = call.queries, call.keys[0][0]
            for row in range(first, stop, QUERIES):
                end = min(row + QUERIES, stop)
                earliest = start if window is None else max(start, int(self.tokens[row]) - window + 1)
                blocks.append(AttentionCall((row, end), ((earliest, int(self.tokens[end - 1]) + 1),), causal=False))
        return blocks


def _spread(outputs: Tensor, heads: Sequence[int], num_heads: int) -> Tensor:
    """[rows, heads, head_dim] -> [1, rows, num_heads, head_dim], zero for heads that are not there."""
    if len(heads) == num_heads:
        return outputs[None]
    whole = outputs.new_zeros(len(outputs), num_heads, outputs.shape[2])
    whole[:, list(heads)] = outputs
    return whole[None]


def _gathered(tokens: Tensor, call: AttentionCall) -> Tensor:
    """[heads, N, head_dim] -> those of the call's keys."""
    if len(call.keys) == 1:
        return tokens[:, slice(*call.keys[0])]
    return torch.cat([tokens[:, slice(*part)] for part in call.keys], 1)
