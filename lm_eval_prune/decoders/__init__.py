"""Where a transformers model keeps its heads, its FFNs and their weights.

The only package that knows: everyone else asks `decoder_of(model)` for a `Decoder`, `trunk_of(model)` for its forward
pass in pieces, and speaks of heads and FFNs. A further model family is a few lines in `family.py`, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval_prune.errors import MaskShapeError, UnsupportedModelError
from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lm_eval_prune.decoders.trunk import Trunk

__all__ = [
    "ORIGINAL_TYPE",
    "Decoder",
    "LinearWeights",
    "check_fits",
    "decoder_of",
    "flops_per_token",
    "input_device",
    "is_offloaded",
    "is_original_family",
    "key_value_heads",
    "layers_divide",
    "learned_positions",
    "linear_weights",
    "num_pruned_parameters",
    "num_removed_parameters",
    "removed_from",
    "require_supported",
    "shape_of",
    "trunk_of",
    "unwrapped",
]


ORIGINAL_TYPE = "opt"
"""The family of the study that this package comes from."""


@dataclass(frozen=True)
class Decoder:
    """The places of one model that masks, scores and importance need; each tuple has one entry a layer.

    A compacted model keeps the original's numbers: of layers, of heads in a layer, and of each head.
    """

    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    """Key/value heads of a whole layer; query heads h with the same h * num_key_value_heads // num_attention_heads
    share one."""
    head_dim: int
    """Width of one head's output."""
    removed: PruningMask
    """What the model lacks; dense but for compacted models."""
    head_outputs: tuple[nn.Module | None, ...]
    """Maps whose input (..., heads * head_dim) is the outputs of the layer's `removed.kept_heads` side by side,
    ascending; None where there is none."""
    ffn_outputs: tuple[nn.Module | None, ...]
    """Modules whose output is what the FFN adds to the residual stream; None where there is none."""
    ffns: tuple[tuple[nn.Module, ...], ...]
    """The modules that the FFN consists of, in the order in which a token passes them; () where there is none."""


class LinearWeights(NamedTuple):
    """Weights of the linear maps, each a multiplication and an addition for every token that passes it."""

    head: int
    """Of one query head: half of them for queries, half for outputs."""
    group: int
    """Of one key/value head: half of them for keys, half for values."""
    ffns: tuple[int, ...]
    """Of each layer's FFN; of a mixture's experts those that a token meets."""
    projection: int
    """From embeddings of another width than the layers', and as many back; else 0."""
    output: int
    """Of the output layer."""
    head_dim: int
    """Width of a head's output."""
    heads_per_group: int
    """Query heads that share a key/value head."""
    hidden_size: int
    """Width of the residual stream."""


def require_supported(config: Any, name: str | None = None) -> None:
    """Raise UnsupportedModelError unless a model of a transformers `config` may be supported, as far as its type tells.

    Whether it is, `decoder_of` says of the model itself.
    """
    from lm_eval_prune.decoders.family import is_known
    from lm_eval_prune.decoders.table import PROVEN, REFUSED

    model_type = getattr(config, "model_type", None)
    name = name or getattr(config, "_name_or_path", "") or "the model"
    if model_type in REFUSED:
        raise UnsupportedModelError(f"{name}: model type {model_type!r} is not supported: {REFUSED[model_type]}")
    if not is_known(config):
        raise UnsupportedModelError(
            f"{name}: model type {model_type!r} is not supported: transformers has no causal language model of it; "
            f"proven: {', '.join(PROVEN)}"
        )


def is_original_family(config: Any) -> bool:
    """Whether a transformers `config` is of the study's family, compacted or not."""
    from lm_eval_prune.decoders.family import model_type_of

    return model_type_of(config) == ORIGINAL_TYPE


def decoder_of(model: nn.Module) -> Decoder:
    """The decoder inside `model`, looked for behind wrappers (PEFT adapters, DataParallel, torch.compile).

    Raises UnsupportedModelError, also where a family that is not proven by tests fails the proof on this model.
    """
    from lm_eval_prune.decoders.places import places_of
    from lm_eval_prune.decoders.proof import require_proof

    inner = unwrapped(model)
    _require_configured(inner, model)
    places = places_of(inner)
    require_proof(places)
    removed = removed_from(inner.config)
    return Decoder(
        num_hidden_layers=places.num_hidden_layers,
        num_attention_heads=places.num_attention_heads,
        num_key_value_heads=places.num_key_value_heads,
        head_dim=places.head_dim,
        removed=removed,
        head_outputs=tuple(
            layer.output if removed.kept_heads(index) else None for index, layer in enumerate(places.layers)
        ),
        ffn_outputs=tuple(layer.added for layer in places.layers),
        ffns=tuple(layer.ffn for layer in places.layers),
    )


def trunk_of(model: nn.Module) -> Trunk:
    """The pieces of the causal language model inside `model`, as `decoder_of`. Raises UnsupportedModelError."""
    from lm_eval_prune.decoders.trunk import Trunk

    inner = unwrapped(model)
    _require_configured(inner, model)
    return Trunk(inner)


def input_device(model: nn.Module) -> torch.device:
    """Where token ids go: the device of the first weights that are loaded; accelerate moves on from there.

    Where all are offloaded, the device that they are brought to.
    """
    import torch
    from accelerate.utils import has_offloaded_params

    from lm_eval_prune.decoders.offloaded import device_of

    loaded = next((parameter.device for parameter in model.parameters() if not parameter.is_meta), None)
    offloaded = (device_of(module) for module in model.modules() if has_offloaded_params(module))
    return loaded or next(offloaded, torch.device("cpu"))


def is_offloaded(model: nn.Module) -> bool:
    """Whether accelerate brings weights in from elsewhere when they are used."""
    return any(parameter.is_meta for parameter in model.parameters())


def removed_from(config: Any) -> PruningMask:
    """What compaction has removed from the model of a transformers `config`, in the original's numbers; or nothing."""
    removed = getattr(config, "removed", None)
    return removed if isinstance(removed, PruningMask) else PruningMask.dense(*shape_of(config))


def shape_of(config: Any) -> tuple[int, int]:
    """(layers, query heads in each) of the model of a transformers `config`. Raises UnsupportedModelError without."""
    from lm_eval_prune.decoders.family import text_config

    config = text_config(config)
    layers, heads = (getattr(config, name, None) for name in ("num_hidden_layers", "num_attention_heads"))
    if not isinstance(layers, int) or not isinstance(heads, int):
        raise UnsupportedModelError(f"model type {config.model_type!r} is not supported: it has no heads to mask")
    return layers, heads


def key_value_heads(config: Any) -> int:
    """Key/value heads in each layer of the model of a transformers `config`. Raises UnsupportedModelError."""
    from lm_eval_prune.decoders.skeleton import skeleton_of

    require_supported(config)
    return skeleton_of(config).num_key_value_heads


def num_pruned_parameters(config: Any, mask: PruningMask) -> int:
    """How many parameters `mask` removes from a model of this config, exactly and with biases.

    A head: its rows of the query map, its columns of the output map (whose bias stays) and, with the last query head of
    its group, its rows of the key and value maps. An FFN: all of its maps. The norm in front of either goes too where
    it serves nothing else. What a compacted model lacks already does not count.
    Raises MaskShapeError, UnsupportedModelError.
    """
    from lm_eval_prune.decoders.skeleton import skeleton_of
    from lm_eval_prune.decoders.slices import num_gone

    require_supported(config)
    check_fits(mask, *shape_of(config))
    removed, places = removed_from(config), skeleton_of(config)
    return num_gone(places, removed | mask) - num_gone(places, removed)


def num_removed_parameters(config: Any) -> int:
    """How many parameters compaction has removed from the model of this config, less the constants that it has put in
    their place. Raises UnsupportedModelError."""
    from lm_eval_prune.decoders.folding import num_added
    from lm_eval_prune.decoders.skeleton import skeleton_of
    from lm_eval_prune.decoders.slices import num_gone

    removed = removed_from(config)
    if removed.is_dense:
        return 0
    places, constants = skeleton_of(config), getattr(config, "pruning_means", None) is not None
    return num_gone(places, removed, constants=constants) - (num_added(places, removed) if constants else 0)


def flops_per_token(config: Any, mask: PruningMask) -> int:
    """Floating-point operations of a token's forward pass in the linear maps that `mask` keeps, output layer included.

    A multiplication and an addition for each weight. Left out is what depends on the length of the input (attention
    between tokens) and what is small beside it: biases, norms, activations, softmax.
    Raises MaskShapeError, UnsupportedModelError.
    """
    from lm_eval_prune.decoders.skeleton import products, skeleton_of
    from lm_eval_prune.decoders.slices import products_gone

    require_supported(config)
    check_fits(mask, *shape_of(config))
    places = skeleton_of(config)
    return 2 * (products(places) - products_gone(places, mask))


def linear_weights(config: Any) -> LinearWeights:
    """What FLOPs are counted from; `config` is a model's configuration. Raises UnsupportedModelError."""
    from lm_eval_prune.decoders.skeleton import linear_weights_of, skeleton_of

    require_supported(config)
    return linear_weights_of(skeleton_of(config))


def learned_positions(config: Any) -> int | None:
    """The longest input, in tokens, of a model that has learned an embedding of each position; None for others.

    `config` is a transformers configuration. Raises UnsupportedModelError.
    """
    from lm_eval_prune.decoders.skeleton import learned_positions_of, skeleton_of

    require_supported(config)
    return learned_positions_of(skeleton_of(config))


def layers_divide(config: Any) -> bool:
    """Whether masks that differ in a layer's FFN alone share its attention: as far as the family is known to."""
    from lm_eval_prune.decoders.skeleton import skeleton_of
    from lm_eval_prune.decoders.stages import stages_of

    places = skeleton_of(config)
    return len(stages_of(places)) > places.num_hidden_layers


def check_fits(
    mask: PruningMask, num_hidden_layers: int, num_attention_heads: int, where: str = "the model", what: str = "mask"
) -> None:
    """Raise MaskShapeError, which begins with `what`, unless the mask is for this many layers and heads of `where`."""
    if mask.shape != (num_hidden_layers, num_attention_heads):
        raise MaskShapeError(
            f"{what} is for {mask.num_hidden_layers} layers of {mask.num_attention_heads} heads, but {where} has "
            f"{num_hidden_layers} layers of {num_attention_heads} heads"
        )


def _require_configured(inner: Any, model: nn.Module) -> None:
    if getattr(getattr(inner, "config", None), "model_type", None) is None or not hasattr(inner, "named_modules"):
        raise UnsupportedModelError(
            f"{type(model).__name__}: no supported decoder in it; expected a transformers model, such as "
            "AutoModelForCausalLM.from_pretrained(...), or the .model of a harness model"
        )
    if type(inner.config).__module__.startswith("transformers."):  # others may be of a type of their own
        require_supported(inner.config, type(inner).__name__)


def unwrapped(model: Any) -> Any:
    """The model behind wrappers (PEFT adapters, DataParallel, torch.compile)."""
    if hasattr(model, "get_base_model"):  # a PEFT adapter around it
        return unwrapped(model.get_base_model())
    for attribute in ("_orig_mod", "module"):  # torch.compile; DataParallel and its kin
        if hasattr(model, attribute):
            return unwrapped(getattr(model, attribute))
    return model
