"""Floating-point operations of a packed evaluation, counted from its packs: what a mask saves, and what masks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lm_eval_prune.budget import token_budget
from lm_eval_prune.decoders import shape_of
from lm_eval_prune.decoders.forward import DecoderForward
from lm_eval_prune.decoders.skeleton import LinearWeights, layers_divide, linear_weights
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.scoring.attention import AttentionCall, asked_calls, plan
from lm_eval_prune.scoring.packing import Pack, build_pack, end_of_pack
from lm_eval_prune.scoring.trie import TokenTrie

__all__ = ["all_packs", "evaluation_flops", "gradient_flops", "layer_flops", "shared_flops"]


def all_packs(forward: DecoderForward, trie: TokenTrie, batch_size: int | None) -> list[Pack]:
    """The packs that `score` makes of a trie."""
    budget = token_budget(forward, forward.device.type, trie.longest, batch_size)
    packs: list[Pack] = []
    while not packs or packs[-1].requests.stop < len(trie):
        first = packs[-1].requests.stop if packs else 0
        packs.append(build_pack(trie, first, end_of_pack(trie, first, budget)))
    return packs


def evaluation_flops(config: Any, packs: Iterable[Pack], mask: PruningMask) -> float:
    """Multiplications and additions of the matrix products, attention included, for all packs under `mask`."""
    return shared_flops(config, packs, [mask])


def shared_flops(config: Any, packs: Iterable[Pack], masks: Sequence[PruningMask]) -> float:
    """The same for several masks at once, which share what comes before the first difference between them."""
    return sum(_pack_flops(config, _Sizes.of(pack), masks) for pack in packs)


def gradient_flops(config: Any, packs: Iterable[Pack]) -> float:
    """Forwards and backwards through the dense model, activations alone having gradients.

    Backwards each linear map costs what it cost forwards, and attention's two products become four.
    """
    layers, heads = shape_of(config)
    sizes = [_Sizes.of(pack) for pack in packs]
    attended = sum((layers - 1) * each.area + each.asked_area for each in sizes)
    dense = sum(_pack_flops(config, each, [PruningMask.dense(layers, heads)]) for each in sizes)
    return 2 * dense + 4 * heads * linear_weights(config).head_dim * attended


class _Sizes(NamedTuple):
    """Of a pack: all that its cost depends on."""

    tokens: int
    asked: int
    area: float
    """(query, key) pairs that attention computes, for all tokens."""
    asked_area: float
    """The same for the asked-for tokens alone."""

    @classmethod
    def of(cls, pack: Pack) -> _Sizes:
        calls = plan(pack)
        return cls(len(pack), len(pack.asked), sum(map(_area, calls)), sum(map(_area, asked_calls(calls, pack.asked))))


def layer_flops(
    weights: LinearWeights, mask: PruningMask, layer: int, tokens: float, queries: float, pairs: float
) -> tuple[float, float]:
    """A layer's attention and FFN under `mask`: keys and values of `tokens`, all else of `queries` of them, with so
    many (query, key) pairs."""
    heads = mask.kept_heads(layer)
    groups = {head // weights.heads_per_group for head in heads}
    by_head = 2 * weights.head * queries + 4 * pairs * weights.head_dim
    attention = len(heads) * by_head + len(groups) * 2.0 * weights.group * tokens
    return attention, 0.0 if layer in mask.pruned_ffns else 2.0 * weights.ffns[layer] * queries


def _pack_flops(config: Any, sizes: _Sizes, masks: Sequence[PruningMask]) -> float:
    total = 0.0
    places: dict[tuple[int, object], int] = {}  # (place before, what is done there) -> place after
    for mask in masks:
        place = -1
        for stage, flops in _stages(config, sizes, mask):
            if (place, stage) not in places:
                places[place, stage] = len(places)
                total += flops
            place = places[place, stage]
    return total


def _stages(config: Any, sizes: _Sizes, mask: PruningMask) -> Iterable[tuple[object, float]]:
    """What each stage does under `mask`, as a value that is equal for equal computations, and its cost."""
    weights, divide = linear_weights(config), layers_divide(config)
    yield "input", 2.0 * (sizes.tokens + sizes.asked) * weights.projection
    last = max((layer for layer, kept in enumerate(mask.head_mask) if kept.any()), default=-1)
    for layer in range(mask.num_hidden_layers):
        pruned = mask.pruned_heads.get(layer, ())
        narrow = min(max(layer - last, -1), 1)
        queries, area = (sizes.tokens, sizes.area) if layer < last else (sizes.asked, sizes.asked_area)
        attention, ffn = layer_flops(weights, mask, layer, sizes.tokens, queries, area)
        kept_ffn = layer not in mask.pruned_ffns
        yield (layer, pruned, narrow, divide or kept_ffn), attention
        yield (layer, kept_ffn, layer < last), ffn
    yield "output", 2.0 * sizes.asked * (2 * weights.projection + weights.output)  # the model's inputs are made again


def _area(call: AttentionCall) -> float:
    queries = call.queries[1] - call.queries[0]
    keys = sum(stop - start for start, stop in call.keys)
    return queries * keys / (2 if call.causal else 1)
