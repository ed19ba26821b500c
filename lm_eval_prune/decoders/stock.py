"""A pruned model as a smaller one of transformers' own class, where that class can be one: same names, fewer of them.

Three things can go: the same number of query heads in every layer, whole key/value groups or as many of each group; a
whole layer whose heads and FFN are all pruned; and nothing else, so that the rest of a mask is left as zeros. What an
output map's bias still gives in a layer that goes, moves to the nearest place before it that adds a constant: the bias
behind the FFN of an earlier layer, or the table of positions. Whether the class can be the model is asked of the class:
one is built on the meta device, and every shape must be the expected one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders.compacted_config import FOREIGN
from lm_eval_prune.decoders.cuts import WHOLE, Cut, cuts_of, tensors_of
from lm_eval_prune.decoders.family import submodule, text_config
from lm_eval_prune.decoders.skeleton import empty_model, skeleton_of
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.text import one_line

if TYPE_CHECKING:
    from lm_eval_prune.decoders.places import Places

__all__ = ["Origin", "StockLayout", "stock_layout"]

INSTEAD = "; layout=ragged (this package loads it) and zeroed (every program does) can hold it"


@dataclass(frozen=True)
class Origin:
    """One weight of the smaller model: what of which weight of the original it is, and the biases added to it."""

    name: str
    cut: Cut
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class StockLayout:
    """How the smaller model comes of the original."""

    config: Any
    """Of the stock class, with what is still there as zeros under `zeroed_mask`."""
    model: Any
    """The smaller model on the meta device."""
    origins: dict[str, Origin]
    """By name in the smaller model."""
    kept_layers: tuple[int, ...]
    """In the original's numbers, ascending."""
    zeros: PruningMask
    """What is there as zeros, in the smaller model's numbers: but for FFNs whose bias holds what is left of a layer."""


def stock_layout(config: Any, mask: PruningMask, layout: str) -> StockLayout:
    """Of the whole model of `config` (a compacted model's: its original) under `mask`, which holds all that is pruned.

    Where the class has no model of as many heads (a Llama's number of heads divides its hidden size), some of the
    pruned ones stay, as zeros. Raises UnsupportedModelError where the mask is not of this layout, or the class has no
    smaller model.
    """
    whole = skeleton_of(config)
    original = whole.model.config
    if text_config(original) is not original:
        raise UnsupportedModelError(f"layout={layout}: {original.model_type} models are more than text{INSTEAD}")
    kept = _kept_layers(whole, mask, layout)
    cut, smaller, model = _smallest(whole, mask, kept, layout)
    origins = _origins(whole, model, kept, cut)
    for dropped in sorted({*range(whole.num_hidden_layers)} - {*kept}):
        _move_bias(whole, origins, kept, dropped, layout)
    constants = {name for name, origin in origins.items() if origin.added}
    zeros = _zeros(mask, kept, cut)
    without = (at for at in zeros.pruned_ffns if _bias_behind_ffn(whole, kept, at) not in constants)
    zeros = replace(zeros, pruned_ffns=tuple(without))
    if not zeros.is_dense:
        smaller.zeroed_mask = zeros.to_dict()
    return StockLayout(smaller, model, origins, kept, zeros)


def _smallest(whole: Places, mask: PruningMask, kept: tuple[int, ...], layout: str) -> tuple[PruningMask, Any, Any]:
    """(the heads that are cut out, the configuration, the model on the meta device) with the fewest heads."""
    nothing, refusal = PruningMask.dense(*mask.shape), None
    for groups, of_each in [(0, 0)] if layout == "layers" else _sizes(whole, mask, kept, layout):
        cut = replace(nothing, pruned_heads={layer: _cut(whole, mask, layer, groups, of_each) for layer in kept})
        cut = nothing if layout == "layers" else cut
        if cut.is_dense and refusal is not None and len(kept) == whole.num_hidden_layers:
            break  # nothing would be smaller
        try:
            smaller = _configuration(whole, kept, cut)
            return cut, smaller, empty_model(smaller)
        except Exception as error:  # of many kinds: whatever a class raises for numbers that it cannot have
            refusal = refusal or _no_such_model(whole, cut, kept, one_line(error))
    assert refusal is not None, "no layout was tried"
    raise refusal


def _sizes(whole: Places, mask: PruningMask, kept: tuple[int, ...], layout: str) -> list[tuple[int, int]]:
    """(key/value heads of a layer, query heads of each) that hold what the mask leaves, fewest heads first."""
    least, of_each = _require_regular(whole, mask, kept, layout)
    size = whole.num_attention_heads // whole.num_key_value_heads
    found = [
        (groups, queries)
        for groups in range(least, whole.num_key_value_heads + 1)
        for queries in range(of_each, size + 1)
        if layout == "uniform" or queries == size
    ]
    return sorted(found, key=lambda each: (each[0] * each[1], each))


def _cut(whole: Places, mask: PruningMask, layer: int, groups: int, of_each: int) -> tuple[int, ...]:
    """The heads to cut out of a layer, so that `groups` key/value heads with `of_each` query heads stay."""
    size = whole.num_attention_heads // whole.num_key_value_heads
    left = mask.kept_heads(layer)
    there = {whole.group_of(head) for head in left}
    padding = [group for group in range(whole.num_key_value_heads) if group not in there]
    stay: set[int] = set()
    for group in {*there, *padding[: groups - len(there)]}:
        heads = range(group * size, (group + 1) * size)
        stay |= {*sorted(heads, key=lambda head: (head not in left, head))[:of_each]}
    return tuple(head for head in range(whole.num_attention_heads) if head not in stay)


def _kept_layers(whole: Places, mask: PruningMask, layout: str) -> tuple[int, ...]:
    kept = tuple(
        layer for layer in range(whole.num_hidden_layers) if mask.kept_heads(layer) or layer not in mask.pruned_ffns
    )
    if not kept:
        raise UnsupportedModelError(f"layout={layout}: every layer is pruned, and no model has none{INSTEAD}")
    if len(kept) < whole.num_hidden_layers and any(whole.family.norms_in_stream):
        dropped = next(layer for layer in range(whole.num_hidden_layers) if layer not in kept)
        raise UnsupportedModelError(
            f"layout={layout}: layer {dropped} is pruned whole, but its norms stand in the residual stream and stay"
            f"{INSTEAD}"
        )
    if layout == "layers" and len(kept) == whole.num_hidden_layers:
        raise UnsupportedModelError(
            f"layout=layers: the mask leaves something of every layer; expected layers whose heads and FFN are all "
            f"pruned{INSTEAD}"
        )
    return kept


def _require_regular(whole: Places, mask: PruningMask, kept: tuple[int, ...], layout: str) -> tuple[int, int]:
    """(key/value heads, query heads of each) that the mask leaves in every layer.

    Raises UnsupportedModelError where layers or groups differ.
    """
    counts = {layer: _per_group(whole, mask, layer) for layer in kept}
    first = counts[kept[0]]
    size = whole.num_attention_heads // whole.num_key_value_heads
    by = f"; masks ranked with layout={layout} are so"
    for layer, of_groups in counts.items():
        if not of_groups:
            raise UnsupportedModelError(
                f"layout={layout}: layer {layer} keeps its FFN and no head; expected a mask that leaves as many heads "
                f"in every layer, or nothing of it{by}"
            )
        if len(set(of_groups)) > 1:
            raise UnsupportedModelError(
                f"layout={layout}: the key/value heads of layer {layer} keep unlike numbers of query heads, "
                f"{', '.join(map(str, of_groups))}; expected a mask that leaves as many in each{by}"
            )
        if of_groups != first:
            raise UnsupportedModelError(
                f"layout={layout}: layer {layer} keeps {sum(of_groups)} heads and layer {kept[0]} {sum(first)}; "
                f"expected a mask that leaves as many in every layer{by}"
            )
        if layout == "kv-groups" and of_groups[0] != size:
            raise UnsupportedModelError(
                f"layout=kv-groups: layer {layer} keeps {of_groups[0]} of a key/value head's {size} query heads; "
                f"expected a mask of whole groups{by}"
            )
    return len(first), first[0]


def _per_group(whole: Places, mask: PruningMask, layer: int) -> list[int]:
    """Query heads that stay of each key/value head that stays."""
    groups = [whole.group_of(head) for head in mask.kept_heads(layer)]
    return [groups.count(group) for group in dict.fromkeys(groups)]


def _zeros(mask: PruningMask, kept: tuple[int, ...], cut: PruningMask) -> PruningMask:
    """What is pruned of the layers that stay, and is not cut out: in the smaller model's numbers."""
    heads = {}
    for place, layer in enumerate(kept):
        gone = mask.pruned_heads.get(layer, ())
        heads[place] = tuple(at for at, head in enumerate(cut.kept_heads(layer)) if head in gone)
    return PruningMask(
        num_hidden_layers=len(kept),
        num_attention_heads=len(cut.kept_heads(kept[0])),
        pruned_heads=heads,
        pruned_ffns=tuple(place for place, layer in enumerate(kept) if layer in mask.pruned_ffns),
    )


def _configuration(whole: Places, kept: tuple[int, ...], heads: PruningMask) -> Any:
    original = whole.model.config
    content = {key: value for key, value in original.to_dict().items() if key not in FOREIGN}
    for key, value in content.items():
        # One entry a layer, such as `layer_types`; other lists may be as long by chance.
        if isinstance(value, list) and "layer" in key and len(value) == whole.num_hidden_layers:
            content[key] = [value[layer] for layer in kept]
    own: dict[str, Any] = {"num_hidden_layers": len(kept)}
    if heads.pruned_heads:
        left = heads.kept_heads(kept[0])
        own |= {"num_attention_heads": len(left), "head_dim": whole.head_dim}
        if hasattr(original, "num_key_value_heads"):
            own["num_key_value_heads"] = len({whole.group_of(head) for head in left})
    names = getattr(original, "attribute_map", {})
    content |= {names.get(name, name): value for name, value in own.items()}
    smaller = type(original)(**content, architectures=[type(whole.model).__name__])
    smaller.dtype = original.dtype
    return smaller


def _origins(whole: Places, model: Any, kept: tuple[int, ...], heads: PruningMask) -> dict[str, Origin]:
    """Raises UnsupportedModelError where a weight of the stock class is not what the mask leaves."""
    cuts, there = cuts_of(whole, heads), tensors_of(whole.model)
    prefix = whole.path(0).removesuffix("0")
    found, smaller = {}, tensors_of(model)
    for name, tensor in smaller.items():
        of = name
        if name.startswith(prefix):
            place, _, rest = name.removeprefix(prefix).partition(".")
            of = f"{prefix}{kept[int(place)]}.{rest}"
        cut = cuts.get(of, WHOLE)
        if of not in there or _shape(there[of], cut) != tuple(tensor.shape):
            raise _no_such_model(whole, heads, kept, f"its {name} would be {tuple(tensor.shape)}")
        found[name] = Origin(of, cut)
    return found


def _no_such_model(whole: Places, cut: PruningMask, kept: tuple[int, ...], reason: str) -> UnsupportedModelError:
    count = len(cut.kept_heads(kept[0]))
    return UnsupportedModelError(
        f"transformers' {whole.model.config.model_type} class has no model of {len(kept)} layers with {count} heads of "
        f"width {whole.head_dim}: {reason.strip()}{INSTEAD}"
    )


def _shape(tensor: torch.Tensor, cut: Cut) -> tuple[int, ...]:
    shape = list(tensor.shape)
    if cut.dim is not None:
        shape[cut.dim] = sum(stop - start for start, stop in cut.ranges)
    return tuple(shape)


def _move_bias(whole: Places, origins: dict[str, Origin], kept: tuple[int, ...], dropped: int, layout: str) -> None:
    """Let the output map's bias of a layer that goes be added where a constant is, before it."""
    layer = whole.layers[dropped]
    if getattr(layer.output, "bias", None) is None:
        return  # nothing times anything, through a norm of it or not, is nothing
    before = [place for place, kept_layer in enumerate(kept) if kept_layer < dropped]
    target = None
    if not whole.attention_norms_behind(dropped):
        target = _bias_behind_ffn(whole, kept, before[-1]) if before else _positions(whole)
    if target is None or target not in origins:
        raise UnsupportedModelError(
            f"layout={layout}: layer {dropped} is pruned whole, but the bias of its {whole.family.output} stays, and "
            f"nothing before it takes a constant{INSTEAD}"
        )
    origin, bias = origins[target], f"{whole.names[id(layer.output)]}.bias"
    origins[target] = replace(origin, added=(*origin.added, bias))


def _bias_behind_ffn(whole: Places, kept: tuple[int, ...], place: int) -> str | None:
    """The name, in the smaller model, of the bias that ends what the layer adds to the stream."""
    layer = whole.layers[kept[place]]
    down = layer.down
    if (
        down is None
        or getattr(down, "bias", None) is None
        or any(submodule(layer.module, path) is layer.added for path in whole.family.ffn_norms)
    ):
        return None
    path = whole.path(kept[place])
    return f"{path.removesuffix(str(kept[place]))}{place}{whole.names[id(down)].removeprefix(path)}.bias"


def _positions(whole: Places) -> str | None:
    return None if whole.positions is None else f"{whole.names[id(whole.positions)]}.weight"
