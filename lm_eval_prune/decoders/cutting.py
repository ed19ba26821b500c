"""Heads and FFNs taken out of a model of transformers' own classes, layer by layer.

What is there computes as those classes do. A layer without heads keeps its output map's bias; a layer without FFN lets
the residual stream pass by, through a norm behind it where that is part of the stream. With grouped keys a key/value
head stays while any of its query heads does; where groups keep unlike numbers, keys are repeated by `ragged.py`.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from lm_eval_prune.decoders.constant import Constant
from lm_eval_prune.decoders.cuts import cuts_of
from lm_eval_prune.decoders.family import submodule, text_config
from lm_eval_prune.decoders.places import width_out
from lm_eval_prune.decoders.ragged import OwnHeads
from lm_eval_prune.decoders.skeleton import skeleton_of
from lm_eval_prune.decoders.slices import norms_over_heads

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.places import Places
    from lm_eval_prune.masks import PruningMask

__all__ = ["cut"]

QUERY_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_q_heads")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
"""Names by which modules of attention know how many heads they have."""
WIDTHS = ("split_size", "embed_dim", "all_head_size", "hidden_size")
"""Names by which they know the width of all heads together."""


def cut(model: Any) -> None:
    """Take out of a whole model, or of a base model alone, what its configuration says is removed."""
    removed, whole = model.config.removed, skeleton_of(model.config)
    constants = model.config.pruning_means is not None
    is_base = not isinstance(model, type(whole.model))
    prefix = f"{whole.model.base_model_prefix}." if is_base else ""
    for name, left in cuts_of(whole, removed, constants=constants).items():
        path, _, kind = name.removeprefix(prefix).rpartition(".")
        if not left.is_empty:
            _shorten(model.get_submodule(path), kind, left.of(getattr(model.get_submodule(path), kind).detach()))
    for index in range(removed.num_hidden_layers):
        block = model.get_submodule(whole.path(index).removeprefix(prefix))
        _cut_layer(block, whole, index, removed, constants=constants)


def _shorten(module: Any, kind: str, weight: Tensor) -> None:
    old = getattr(module, kind)
    setattr(module, kind, nn.Parameter(weight.contiguous(), requires_grad=old.requires_grad))
    if kind == "weight" and weight.dim() == 2:
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif hasattr(module, "nf"):  # transformers' Conv1D
            module.nx, module.nf = weight.shape


def _cut_layer(block: Any, whole: Places, index: int, removed: PruningMask, *, constants: bool) -> None:
    family, layer = whole.family, whole.layers[index]
    headless, without_ffn = not removed.kept_heads(index), index in removed.pruned_ffns
    gone: list[str] = []
    output = block.get_submodule(family.output)
    if constants and index in removed.pruned_heads and getattr(output, "bias", None) is None:
        output.bias = nn.Parameter(torch.zeros(width_out(layer.output)))
    if headless:
        gone += family.attention_norms
        if getattr(output, "bias", None) is None:
            gone += family.attention_norms_behind
        _make_headless(block, whole, index)
    elif index in removed.pruned_heads:
        _make_fewer(block, whole, index, removed)
    if without_ffn:
        gone += (*family.ffn[:-1], *family.ffn_norms)
        _replace(block, family.ffn[-1], nothing_routed if _hands_on_routing(layer.ffn[-1]) else nothing)
        if headless:
            gone += family.shared_norms
        if constants:
            routed = family.added == family.ffn[-1] and _hands_on_routing(layer.ffn[-1])
            width = text_config(whole.model.config).hidden_size
            _replace(block, family.added, Constant(width, routed=routed))
            gone = [path for path in gone if path != family.added]
    for path in gone:
        if submodule(block, path) is not None:
            _replace(block, path, passed)


def _replace(block: Any, path: str, function: Any) -> None:
    """Mostly by a function, not a module: adapters and others who look for modules find none."""
    parent, _, name = path.rpartition(".")
    delattr(block.get_submodule(parent), name)
    setattr(block.get_submodule(parent), name, function)


def passed(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In the place of a norm, or of an FFN's first map, that is gone."""
    return hidden_states


def nothing(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In the place of an FFN that is gone."""
    return torch.zeros_like(hidden_states)


def nothing_routed(hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """The same of a mixture of experts that hands on what its router has chosen, too."""
    return torch.zeros_like(hidden_states), None


def _hands_on_routing(ffn: Any) -> bool:
    """Whether a module returns two values; asked of its source, since a module without weights cannot be run."""
    return re.search(r"^\s*return \w+, \w+$", inspect.getsource(type(ffn).forward), re.MULTILINE) is not None


# -- layers with fewer heads ------------------------------------------------------------------------------------------


def _make_fewer(block: Any, whole: Places, index: int, removed: PruningMask) -> None:
    family, attention = whole.family, block.get_submodule(whole.family.attention)
    heads, groups, places = _left(whole, index, removed)
    ratio, rest = divmod(len(heads), len(groups))
    is_ragged = bool(rest) or places != tuple(place // ratio for place in range(len(heads)))
    own = {
        **dict.fromkeys(QUERY_HEADS, (whole.num_attention_heads, len(heads))),
        **dict.fromkeys(KEY_VALUE_HEADS, (whole.num_key_value_heads, len(groups))),
        **dict.fromkeys(WIDTHS, (whole.num_attention_heads * whole.head_dim, len(heads) * whole.head_dim)),
        "num_key_value_groups": (whole.num_attention_heads // whole.num_key_value_heads, 1 if is_ragged else ratio),
    }
    for name, (before, after) in own.items():
        if vars(attention).get(name) == before:
            setattr(attention, name, after)
    if is_ragged or family.fused == "kinds":
        attention.config = OwnHeads(attention.config, len(heads), len(groups), is_ragged)
    for kind, name in norms_over_heads(whole.layers[index], whole.head_dim).items():
        norm = getattr(attention, name)
        norm.chosen = _ranges(heads if kind == "queries" else groups, whole.head_dim)
        norm.__class__ = _joined(_OfSomeHeads, norm.__class__)
    # What latent attention caches is shared by all heads, and stays as it is.
    attention.place, attention.kept_groups = index, None if family.is_latent else groups
    attention.key_places = places
    attention.__class__ = _joined(_FewerHeads, attention.__class__)


def _left(whole: Places, index: int, removed: PruningMask) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(query heads, key/value heads, the place among those of each query head's) that are left of a layer."""
    heads = removed.kept_heads(index)
    groups = tuple(dict.fromkeys(map(whole.group_of, heads)))
    return heads, groups, tuple(groups.index(whole.group_of(head)) for head in heads)


def _ranges(heads: tuple[int, ...], width: int) -> tuple[tuple[int, int], ...]:
    return tuple((head * width, (head + 1) * width) for head in heads)


@functools.cache
def _joined(ours: Any, stock: Any) -> Any:
    """A class of transformers that computes in our way: still one to whoever looks for its kind."""
    return type(f"{ours.__name__.strip('_')}{stock.__name__}", (ours, stock), {"__module__": __name__})


class _FewerHeads(nn.Module):
    """Attention with some of its heads."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        cached = _cached(args, kwargs, self.place)  # type: ignore[arg-type]
        groups: Any = self.kept_groups
        if cached is not None and groups is not None and cached.keys.shape[1] != len(groups):
            # A learned prefix (PEFT's prefix tuning), which knows the configuration's number of heads alone.
            cached.keys, cached.values = (part[:, list(groups)] for part in (cached.keys, cached.values))
        return super().forward(*args, **kwargs)


class _OfSomeHeads(nn.Module):
    """A norm over all heads' queries, or keys, together, of which those of the kept heads go on.

    What it divides by is made of all heads: the maps before it therefore stay whole.
    """

    chosen: tuple[tuple[int, int], ...]

    def forward(self, hidden_states: Tensor) -> Tensor:
        normed = super().forward(hidden_states)
        return torch.cat([normed[..., start:stop] for start, stop in self.chosen], -1)


def _cached(args: tuple[Any, ...], kwargs: dict[str, Any], place: int) -> Any:
    """What the key-value cache among a layer's arguments holds of it already, or None."""
    cache = _cache(args, kwargs)
    layers = getattr(cache, "layers", ())
    return layers[place] if place < len(layers) and layers[place].is_initialized else None


def _cache(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    found = next((each for each in (*args, *kwargs.values()) if isinstance(each, Cache)), None)
    return getattr(found, "self_attention_cache", found)  # beside another, where there is cross-attention


# -- layers without heads ---------------------------------------------------------------------------------------------


def _make_headless(block: Any, whole: Places, index: int) -> None:
    family, layer = whole.family, whole.layers[index]
    attention, name = block.get_submodule(family.attention), family.output.removeprefix(f"{family.attention}.")
    parent, _, last = family.output.rpartition(".")
    bias = getattr(block.get_submodule(family.output), "bias", None)
    for kind in ("_modules", "_parameters", "_buffers"):
        for other in list(vars(attention)[kind]):
            delattr(attention, other)
    setattr(block.get_submodule(parent), last, OutputBias(width_out(layer.output), bias))
    attention.place, attention.output_name = index, None if name == family.output else name
    attention.counts_tokens = _is_asked_for_tokens(text_config(whole.model.config), index)
    attention.__class__ = _joined(_Headless, attention.__class__)


def _is_asked_for_tokens(config: Any, index: int) -> bool:
    """Whether the model asks this layer's cache how many tokens came before: the first of each kind of layer."""
    kinds = getattr(config, "layer_types", None) or [""] * (index + 1)
    return index == 0 or kinds.index(kinds[index]) == index


class OutputBias(nn.Linear):
    """An output map that has lost all its inputs.

    A linear map of one input, always zero, so that adapters (LoRA, DoRA on it) find in it what they look for and change
    nothing. Its weight therefore has no effect and is not stored.
    """

    def __init__(self, width: int, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = 1, width
        self.register_buffer("weight", torch.ones(width, 1), persistent=False)
        self.bias = bias  # type: ignore[assignment]

    def forward(self, zero: Tensor) -> Tensor:
        shape = *zero.shape[:-1], self.out_features  # a tensor of its own: adapters add to it in place
        return zero.new_zeros(shape) if self.bias is None else self.bias.expand(shape).clone()


class _Headless(nn.Module):
    """What stays of an attention whose heads are all gone.

    `output_attentions` has an entry for the layer: of (batch, 0, queries, keys).
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        cache = _cache(args, kwargs)
        if cache is not None and self.counts_tokens:
            cached = _cached(args, kwargs, self.place)
            if cached is not None and cached.keys.shape[3] != 1:
                cached.keys, cached.values = (part[:, :1, :, :1] for part in (cached.keys, cached.values))
            counted = hidden.new_zeros(len(hidden), 1, hidden.shape[1], 1)  # one number a token answers
            cache.update(counted, counted, self.place)
        weights = None
        if (
            getattr(getattr(self, "config", None), "_attn_implementation", None) == "eager"
        ):  # the others give no layer's attention weights
            tokens = hidden.shape[1]
            masks = (each for each in (kwargs.get("attention_mask"), *args[1:]) if isinstance(each, torch.Tensor))
            keys = next((mask.shape[-1] for mask in masks if mask.dim() == 4), tokens)
            weights = hidden.new_empty(len(hidden), 0, tokens, keys)
        nothing = hidden.new_zeros(*hidden.shape[:-1], 1)
        return nothing if self.output_name is None else getattr(self, self.output_name)(nothing), weights
