"""The places of one model: its layers, and in each of them the maps to and from its heads and of its FFN.

Of a model with weights as of one on the meta device, which has but names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from lm_eval_prune.decoders import removed_from
from lm_eval_prune.decoders.constant import Constant
from lm_eval_prune.decoders.family import POSITIONS, Family, family_of, is_proven, submodule, text_config
from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.masks import PruningMask

__all__ = ["Layer", "Places", "is_product", "out_dim", "places_of", "weight_of", "width_in", "width_out"]

STOCK = ("transformers.models.", "lm_eval_prune.")
"""Modules of transformers' own classes, and of those that are made of them."""


@dataclass(frozen=True)
class Layer:
    """One layer's modules; linear maps are None where the layer lacks them (compacted models, mixtures of experts)."""

    module: nn.Module
    attention: nn.Module
    queries: Any
    """The one map to queries, keys and values where `keys` and `values` are None and this is not."""
    keys: Any
    """The one map to keys and values where `values` is None and this is not."""
    values: Any
    output: Any
    up: tuple[nn.Module, ...]
    down: nn.Module | None
    ffn: tuple[nn.Module, ...]
    """The modules that the FFN consists of, in the order in which a token passes them."""
    added: nn.Module | None
    """Its output is what the FFN adds."""


@dataclass(frozen=True)
class Places:
    """Of a causal language model, or of its base model alone.

    A compacted model keeps the original's numbers: of layers, of heads in a layer, and of each head.
    """

    model: Any
    base: nn.Module
    family: Family
    layers: tuple[Layer, ...]
    num_attention_heads: int
    """Query heads of a whole layer."""
    num_key_value_heads: int
    """Key/value heads of a whole layer; query heads h with the same h * num_key_value_heads // num_attention_heads
    share one."""
    head_dim: int
    """Width of a head's output."""
    removed: PruningMask
    """What a compacted model lacks; dense for others."""

    @property
    def num_hidden_layers(self) -> int:
        return len(self.layers)

    @property
    def head_outputs(self) -> tuple[nn.Module | None, ...]:
        """Of each layer the map whose input (..., heads * head_dim) is the outputs of the layer's `removed.kept_heads`
        side by side, ascending; None where there is none."""
        return tuple(layer.output if self.removed.kept_heads(at) else None for at, layer in enumerate(self.layers))

    @property
    def ffn_outputs(self) -> tuple[nn.Module | None, ...]:
        """Of each layer the module whose output is what the FFN adds to the residual stream; None where there is
        none."""
        return tuple(layer.added for layer in self.layers)

    @property
    def is_proven(self) -> bool:
        """Whether the tests hold models of this class; code of a checkpoint's own may say that it is of any type."""
        kinds = type(self.model).__mro__
        return is_proven(self.model.config) and any(kind.__module__.startswith(STOCK) for kind in kinds)

    def key_places(self, layer: int) -> tuple[int, ...]:
        """For each query head that is there, the place of its key/value head among those that are."""
        groups = [self.group_of(head) for head in self.removed.kept_heads(layer)]
        places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        return tuple(places[group] for group in groups)

    def attention_norms_behind(self, layer: int) -> list[nn.Module]:
        """Norms between a layer's attention and the residual stream."""
        block = self.layers[layer].module
        return [norm for path in self.family.attention_norms_behind if (norm := submodule(block, path)) is not None]

    @property
    def share_of_experts(self) -> float:
        """Of a mixture's experts, the share that one token meets; 1 without a mixture."""
        config = text_config(self.model.config)
        config = getattr(config, "ffn_config", config)
        names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
        experts = next((count for name in names if (count := getattr(config, name, None))), None)
        met = getattr(config, "num_experts_per_tok", None) or getattr(config, "moe_top_k", None)
        return met / experts if met and experts else 1.0

    @cached_property
    def configurations(self) -> list[Any]:
        """Every configuration that a module of the model reads its attention implementation from."""
        found = [getattr(module, "config", None) for module in self.model.modules()]
        return list({id(each): each for each in found if hasattr(each, "_attn_implementation_internal")}.values())

    @cached_property
    def names(self) -> dict[int, str]:
        """id of a module -> its name in the model."""
        return {id(module): name for name, module in self.model.named_modules()}

    def path(self, layer: int) -> str:
        """The name of a layer in the model."""
        return self.names[id(self.layers[layer].module)]

    @property
    def positions(self) -> nn.Embedding | None:
        """The table of learned positions, beside the layers; most families compute theirs."""
        holder = submodule(self.base, self.family.layers.rpartition(".")[0])
        table = next((found for name in POSITIONS if (found := getattr(holder, name, None)) is not None), None)
        return table if isinstance(table, nn.Embedding) else None

    @cached_property
    def layer_of_attention(self) -> dict[int, int]:
        """id of an attention module -> its layer."""
        return {id(layer.attention): index for index, layer in enumerate(self.layers)}

    def group_of(self, head: int) -> int:
        """The key/value head that query head `head` attends with."""
        return head * self.num_key_value_heads // self.num_attention_heads


def places_of(model: nn.Module) -> Places:
    """Raises UnsupportedModelError saying what was not found."""
    try:
        return _places(model)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{type(model).__name__}: not supported: {error}") from error


def _places(model: Any) -> Places:
    config = text_config(model.config)
    whole = None
    if getattr(model.config, "removed", None) is not None:
        from lm_eval_prune.decoders.skeleton import skeleton_of

        whole = skeleton_of(model.config)
    base = getattr(model, "base_model", model)
    if base is model:  # a part of a model of text and more whose name for its base is another's
        base = submodule(model, "model") or model
    family = whole.family if whole else family_of(model.config, base)
    blocks = submodule(base, family.layers)
    for name in ("num_hidden_layers", "num_attention_heads"):
        if not isinstance(getattr(config, name, None), int):
            raise UnsupportedModelError(f"its configuration has no one {name}")
    if len(blocks) != config.num_hidden_layers:
        raise UnsupportedModelError(f"{len(blocks)} layers found, but {config.num_hidden_layers} in its configuration")
    heads = config.num_attention_heads
    layers = tuple(_layer(block, family, index) for index, block in enumerate(blocks))
    if whole:
        groups, head_dim = whole.num_key_value_heads, whole.head_dim
    else:
        head_dim = _head_dim(heads, family, blocks)
        groups = _key_value_heads(layers, family, heads, head_dim)
    places = Places(model, base, family, layers, heads, groups, head_dim, removed_from(model.config))
    for index, layer in enumerate(() if whole else layers):
        _check(places, index, layer)
    return places


def _head_dim(heads: int, family: Family, blocks: Any) -> int:
    output = submodule(blocks[0], family.output)
    if output is None:
        raise UnsupportedModelError(f"layer 0 has no heads: it is a {type(blocks[0]).__name__} without {family.output}")
    width, rest = divmod(width_in(output), heads)
    if rest:
        raise UnsupportedModelError(f"{heads} heads do not divide {family.output}'s input")
    return width


def _key_value_heads(layers: tuple[Layer, ...], family: Family, heads: int, head_dim: int) -> int:
    first = layers[0]
    if family.is_latent:
        return heads
    if family.fused:
        return (width_out(first.queries) // head_dim - heads) // 2
    return width_out(first.keys) // head_dim


def _layer(block: Any, family: Family, index: int) -> Layer:
    def at(path: str) -> Any:
        return submodule(block, path) if path else None

    attention = at(family.attention)
    if attention is None:
        raise UnsupportedModelError(
            f"layer {index} has no heads: it is a {type(block).__name__} without {family.attention}"
        )
    return Layer(
        module=block,
        attention=attention,
        queries=at(family.queries),
        keys=at(family.keys),
        values=at(family.values),
        output=at(family.output),
        up=tuple(filter(None, map(at, family.up))),
        down=None if isinstance(down := at(family.down), Constant) else down,
        ffn=tuple(filter(None, map(at, family.ffn))),
        added=at(family.added),
    )


def _check(places: Places, index: int, layer: Layer) -> None:
    """Every layer must have the shape that heads of one width, and one FFN, give it."""
    heads, groups, width = places.num_attention_heads, places.num_key_value_heads, places.head_dim
    if groups < 1 or heads % groups:
        raise UnsupportedModelError(f"{heads} query heads cannot share {groups} key/value heads")
    if layer.added is None or not layer.ffn:
        raise UnsupportedModelError(f"layer {index} has no FFN at {places.family.added}")
    if places.family.fused:
        expected = {"queries": heads + 2 * groups}
    elif places.family.is_latent:
        expected = {}
        for kind in ("queries", "keys"):
            module = getattr(layer, kind)
            if module is None or width_out(module) % heads:
                raise UnsupportedModelError(f"layer {index}: {getattr(places.family, kind)} has no {heads} heads")
    else:
        expected = {"queries": heads, "keys": groups, "values": groups}
    for kind, count in expected.items():
        module = getattr(layer, kind)
        if module is None:
            raise UnsupportedModelError(f"layer {index} has no map to {kind} at {getattr(places.family, kind)}")
        if width_out(module) != count * width:
            raise UnsupportedModelError(
                f"layer {index}: {getattr(places.family, kind)} has {width_out(module)} outputs; "
                f"expected {count} heads of {width}"
            )
    if layer.output is None or width_in(layer.output) != heads * width:
        raise UnsupportedModelError(f"layer {index}: {places.family.output} does not read {heads} heads of {width}")


def out_dim(module: nn.Module) -> int:
    """The dimension of a map's weight that its outputs lie along."""
    return 1 if isinstance(module, Conv1D) else 0


def width_out(module: Any) -> int:
    """Outputs of a linear map."""
    return _width(module, "out_features", out_dim(module))


def width_in(module: Any) -> int:
    """Inputs of a linear map."""
    return _width(module, "in_features", 1 - out_dim(module))


def weight_of(module: Any) -> Tensor:
    """A linear map's weight as [outputs, inputs], a view."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def is_product(module: nn.Module) -> bool:
    """Whether a module's weight is multiplied with every token: linear maps, not embeddings or norms."""
    weight = getattr(module, "weight", None)
    return weight is not None and not isinstance(module, nn.Embedding) and weight.dim() == 2


def _width(module: Any, name: str, dim: int) -> int:
    width = getattr(module, name, None)
    if isinstance(width, int):
        return width
    weight = getattr(module, "weight", None)
    if weight is None or weight.dim() != 2:
        raise UnsupportedModelError(f"a {type(module).__name__} is no linear map")
    return weight.shape[dim]
