"""A pack's attention as one call of PyTorch's flex attention, a kernel that leaves out blocks that no query sees.

Which blocks these are follows from the trie: token q attends to token k exactly if k <= q < ends[k], so the extremes of
a block of queries and of a block of keys say whether none, all or some of their pairs are seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention as flex

from lm_eval_prune.scoring.attention import sees

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.attention import Attention
    from lm_eval_prune.scoring.packing import Pack

__all__ = ["attend_by_blocks", "block_mask", "blocks_seen"]

BLOCK = 128
"""Queries, and keys, of a block: what the kernel takes by default."""
FEWEST_BLOCKS = 2
"""Of queries, and of keys: code that is compiled for any number is not for one."""


def block_mask(pack: Pack, tokens: np.ndarray, window: int | None, device: torch.device) -> flex.BlockMask:
    """The mask of query rows that are the pack's `tokens` [rows], ascending, over all its N tokens.

    A token sees `window` tokens at most. Rows and keys are padded to whole blocks: a padded row is the last one again,
    and no row sees a padded key.
    """
    tokens = np.pad(tokens, (0, _padding(len(tokens))), mode="edge")
    ends, positions = (np.pad(part, (0, _padding(len(part)))) for part in (pack.ends, pack.positions))
    seen, whole = blocks_seen(tokens, ends, positions, window)
    rows, last, depth = (torch.from_numpy(part).to(device) for part in (tokens, ends, positions))
    return flex.BlockMask.from_kv_blocks(
        *_listed(seen & ~whole, device),
        *_listed(whole, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=lambda batch, head, query, key: sees(rows[query], key, last, depth, window),
    )


def blocks_seen(
    tokens: np.ndarray, ends: np.ndarray, positions: np.ndarray, window: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """bool [blocks of queries, blocks of keys]: where some pair may be seen, and where every pair is.

    tokens [Q] are the queries' tokens; ends and positions [K] the keys'. Q and K are whole blocks.
    """

    def lowest(values: np.ndarray) -> np.ndarray:
        return np.asarray(values.reshape(-1, BLOCK).min(1))

    def highest(values: np.ndarray) -> np.ndarray:
        return np.asarray(values.reshape(-1, BLOCK).max(1))

    keys = np.arange(len(ends))
    seen = (lowest(keys) <= highest(tokens)[:, None]) & (lowest(tokens)[:, None] < highest(ends))
    whole = (highest(keys) <= lowest(tokens)[:, None]) & (highest(tokens)[:, None] < lowest(ends))
    if window is not None:
        asking = positions[tokens]
        seen &= lowest(asking)[:, None] - highest(positions) < window
        whole &= highest(asking)[:, None] - lowest(positions) < window
    return seen, whole


def attend_by_blocks(
    mask: flex.BlockMask, attention: Attention, queries: Tensor, keys: Tensor, values: Tensor, places: Sequence[int]
) -> Tensor:
    """[rows, heads, head_dim]: the attention outputs of queries (heads, rows, head_dim).

    keys and values are the pack's (key/value heads, N, head_dim); `places` says for each head which of these is its
    own. `attention` says how scores become weights, of the same heads.
    """
    if list(places) != list(range(len(keys))):
        keys, values = keys[list(places)], values[list(places)]
    rows = queries.shape[1]
    # Heads in the place of the batch: compiled code is for one number of heads, and masks leave any number of them.
    parts = (F.pad(part, (0, 0, 0, _padding(part.shape[1])))[:, None] for part in (queries, keys, values))
    settings: dict[str, Any] = {"block_mask": mask, "scale": attention.scaling}
    if attention.softcap is not None:
        settings["score_mod"] = _capped(attention.softcap)
    kernel = _kernel(queries.device)
    if attention.sinks is None:
        outputs = kernel(*parts, **settings)
    else:
        outputs, weights = _with_weights(kernel, *parts, **settings)
        # A sink is one more score in the denominator: exp(weights) becomes exp(weights) + exp(sink).
        share = torch.sigmoid(weights - attention.sinks.to(weights).view(-1, 1, 1))
        outputs = outputs * share[..., None].to(outputs.dtype)
    return outputs[:, 0, :rows].transpose(0, 1)


def _kernel(device: torch.device) -> Any:
    """On a GPU compiled; as it is written, all scores are held."""
    return _compiled() if device.type == "cuda" else flex.flex_attention


@functools.cache
def _compiled() -> Any:
    """For all lengths at once."""
    return torch.compile(flex.flex_attention, dynamic=True)


def _with_weights(kernel: Any, *parts: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    """The outputs, and the log of the sum of each query's exponentiated scores, (heads, 1, rows)."""
    if hasattr(flex, "AuxRequest"):
        outputs, more = kernel(*parts, **settings, return_aux=flex.AuxRequest(lse=True))
        return outputs, more.lse
    outputs, weights = kernel(*parts, **settings, return_lse=True)  # torch before 2.9
    return outputs, weights


def _padding(size: int) -> int:
    """How many rows are lacking to whole blocks, and enough of them."""
    return max(-size % BLOCK, FEWEST_BLOCKS * BLOCK - size)


def _listed(blocks: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """bool [Q, K] -> how many of each row are true [1, 1, Q], and their places, before the others', [1, 1, Q, K]."""
    number = torch.from_numpy(blocks.sum(1, dtype=np.int32))
    places = torch.from_numpy(np.argsort(~blocks, axis=1, kind="stable").astype(np.int32))
    return number[None, None].to(device), places[None, None].to(device)


def _capped(most: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return most * torch.tanh(score / most)

    return capped
