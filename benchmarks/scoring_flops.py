"""Floating-point operations of a packed evaluation, counted from its packs: what a mask should save."""

from __future__ import annotations

from typing import Any

from lm_eval_prune import PruningMask
from lm_eval_prune.decoders.opt_forward import OPTForward
from lm_eval_prune.scoring.attention import asked_calls, plan
from lm_eval_prune.scoring.budget import token_budget
from lm_eval_prune.scoring.packing import Pack, build_pack, end_of_pack
from lm_eval_prune.scoring.trie import TokenTrie

__all__ = ["all_packs", "evaluation_flops"]


def all_packs(forward: OPTForward, trie: TokenTrie, batch_size: int | None) -> list[Pack]:
    """The packs that `score` makes of a trie."""
    budget = token_budget(forward, trie.longest, batch_size)
    packs: list[Pack] = []
    while not packs or packs[-1].requests.stop < len(trie):
        first = packs[-1].requests.stop if packs else 0
        packs.append(build_pack(trie, first, end_of_pack(trie, first, budget)))
    return packs


def evaluation_flops(config: Any, packs: list[Pack], mask: PruningMask) -> float:
    """Multiplications and additions of the matrix products, attention included, for all packs under `mask`."""
    return sum(_pack_flops(config, pack, mask) for pack in packs)


def _pack_flops(config: Any, pack: Pack, mask: PruningMask) -> float:
    width, asked, total = config.hidden_size, len(pack.asked), 0.0
    head_dim = width // config.num_attention_heads
    kept = [config.num_attention_heads - len(mask.pruned_heads.get(layer, ())) for layer in range(len(mask.ffn_mask))]
    last = max((layer for layer, heads in enumerate(kept) if heads), default=-1)
    calls = plan(pack)
    for layer, heads in enumerate(kept):
        queries = len(pack) if layer < last else asked
        area = sum(_area(call) for call in (calls if layer < last else asked_calls(calls, pack.asked)))
        if heads:
            total += 2 * width * heads * head_dim * (2 * len(pack) + 2 * queries) + 4 * area * heads * head_dim
        if layer not in mask.pruned_ffns:
            total += 4 * width * config.ffn_dim * queries
    return total + 2 * asked * config.word_embed_proj_dim * config.vocab_size


def _area(call: Any) -> float:
    """(query, key) pairs that a call computes."""
    queries = call.queries[1] - call.queries[0]
    keys = sum(stop - start for start, stop in call.keys)
    return queries * keys / (2 if call.causal else 1)
