"""Weights of a smaller model of the stock class (`decoders/stock.py`), and the trial that it computes the masked model.

The trial writes a small random model of the same class and settings in the same layout and loads it as a stranger
would: what a class makes of a layer's number, or of the number of heads, shows there.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from lm_eval_prune.compaction.shards import NewWeight
from lm_eval_prune.compaction.trial import why_not
from lm_eval_prune.compaction.weights import Weights
from lm_eval_prune.compaction.zeroed import zeroed_weights
from lm_eval_prune.decoders.cuts import tensors_of
from lm_eval_prune.decoders.family import kind_and_settings
from lm_eval_prune.decoders.places import places_of
from lm_eval_prune.decoders.skeleton import skeleton_of
from lm_eval_prune.decoders.stock import Origin, StockLayout, stock_layout
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    from lm_eval_prune.decoders.places import Places

__all__ = ["require_stock", "stock_weights"]


def stock_weights(
    weights: Weights, config: Any, mask: PruningMask, layout: StockLayout, where: str | os.PathLike[str]
) -> dict[str, NewWeight]:
    """By name in the smaller model, its weights. Raises FileFormatError for those that are missing or misshapen."""
    zeroed = zeroed_weights(weights, config, mask, where)

    def made(origin: Origin) -> torch.Tensor:
        found = origin.cut.of(zeroed[origin.name].read())
        if origin.added:
            whole = sum((zeroed[bias].read().float() for bias in origin.added), found.float())
            found = whole.to(zeroed[origin.name].dtype)
        return found.clone(memory_format=torch.contiguous_format)

    return {
        name: NewWeight(tensor.shape, zeroed[layout.origins[name].name].dtype, partial(made, layout.origins[name]))
        for name, tensor in tensors_of(layout.model).items()
    }


def require_stock(config: Any, mask: PruningMask, layout: str) -> StockLayout:
    """The layout of the masked model. Raises UnsupportedModelError unless its stock class computes just that."""
    found = stock_layout(config, mask, layout)
    original = getattr(config, "original_config", config)
    gone = [layer for layer in range(mask.num_hidden_layers) if layer not in found.kept_layers]
    leading = next((at for at, layer in enumerate(gone) if layer != at), len(gone))
    lost = layout != "layers" and any(mask.pruned_heads.get(layer) for layer in found.kept_layers)
    whole = _keeps_groups_whole(config, mask, found)
    if reason := _refusal(*kind_and_settings(original), layout, leading > 0, len(gone) > leading, lost, whole):
        raise UnsupportedModelError(f"layout={layout}: {original.model_type}: {reason}; ragged and zeroed remain")
    return found


def _keeps_groups_whole(config: Any, mask: PruningMask, layout: StockLayout) -> bool:
    whole = skeleton_of(config)
    first = [whole.group_of(head) for head in mask.kept_heads(layout.kept_layers[0])]
    return len(first) == len(set(first)) * (whole.num_attention_heads // whole.num_key_value_heads)


@functools.cache
def _refusal(kind: Any, settings: str, layout: str, first: bool, inner: bool, lost: bool, groups: bool) -> str | None:
    """Why a small model of this kind and these settings cannot be written so; None where it can."""

    def compact(model: Any) -> tuple[PruningMask, Any]:
        mask = _mask(places_of(model), first, inner, lost, groups)
        with tempfile.TemporaryDirectory() as folder:
            held = {name: each.detach().clone() for name, each in tensors_of(model).items()}
            save_file(held, Path(folder, "model.safetensors"))
            found = stock_layout(model.config, mask, layout)
            parts = stock_weights(Weights.of(folder), model.config, mask, found, folder)
            smaller = type(model)(found.config)
            smaller.load_state_dict({name: part.read() for name, part in parts.items()}, strict=False)
        smaller.tie_weights()
        return mask, smaller.eval()

    return why_not(
        kind,
        settings,
        compact,
        fails="its class does not run in this layout",
        differs="a small model of its class computes something else in this layout",
    )


def _mask(whole: Places, first: bool, inner: bool, lost: bool, groups: bool) -> PruningMask:
    """Layers that go, and heads of every other one, as in the mask that is asked for; and the last one's FFN."""
    layers, heads = whole.num_hidden_layers, whole.num_attention_heads
    size = heads // whole.num_key_value_heads
    dropped = {0} if first else set()
    if inner and layers > 1 + first:
        dropped.add(max(layers - 2, first + (layers == 2)))
    some: Iterable[int] = range(0, heads, size)
    if groups:
        some = range(size if heads > size else 0)
    every = {layer: range(heads) if layer in dropped else some if lost else () for layer in range(layers)}
    return PruningMask(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pruned_heads={layer: tuple(of) for layer, of in every.items()},
        pruned_ffns=tuple(sorted(dropped | ({layers - 1} if layers > 1 else set()))),
    )
