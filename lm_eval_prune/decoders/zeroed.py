"""Heads and FFNs that are there as zeros, as `compact --zeroed` writes them: named by the configuration, held to the
weights, since whoever trains such a model on may have brought some of them back."""

from __future__ import annotations

from typing import Any

from accelerate.utils import align_module_device
from torch import nn
from transformers.pytorch_utils import Conv1D

from lm_eval_prune.decoders import shape_of, unwrapped
from lm_eval_prune.decoders.places import Places, places_of, weight_of
from lm_eval_prune.errors import PruneError
from lm_eval_prune.masks import PruningMask

__all__ = ["zeroed_in"]


def zeroed_in(model: nn.Module) -> PruningMask:
    """The heads and FFNs of the configuration's `zeroed_mask` that add nothing, by their weights; dense for others.

    With the mask's provenance where all of them do. Raises UnsupportedModelError.
    """
    inner = unwrapped(model)
    nothing = PruningMask.dense(*shape_of(inner.config))
    try:
        said = PruningMask.from_dict(getattr(inner.config, "zeroed_mask", None) or {}, "zeroed_mask")
    except PruneError:  # none, or a field of another program
        return nothing
    if said.shape != nothing.shape:
        return nothing
    places = places_of(inner)
    found = PruningMask(
        num_hidden_layers=said.num_hidden_layers,
        num_attention_heads=said.num_attention_heads,
        pruned_heads={layer: _zero_heads(places, layer, heads) for layer, heads in said.pruned_heads.items()},
        pruned_ffns=tuple(layer for layer in said.pruned_ffns if _is_zero_map(places.layers[layer].down)),
    )
    return said if found == said else found


def _zero_heads(places: Places, layer: int, heads: tuple[int, ...]) -> tuple[int, ...]:
    module = places.layers[layer].output
    if not _is_plain(module):
        return ()
    with align_module_device(module):
        columns = weight_of(module).detach()
        width = places.head_dim
        return tuple(head for head in heads if not columns[:, head * width : (head + 1) * width].any())


def _is_zero_map(module: Any) -> bool:
    """Whether a map's outputs are all zero."""
    if not _is_plain(module):
        return False
    with align_module_device(module):
        return not any(parameter.detach().any() for parameter in module.parameters())


def _is_plain(module: Any) -> bool:
    """Neither quantised nor with an adapter, which would add something."""
    return type(module) in (nn.Linear, Conv1D)
