"""Where a transformers model keeps its heads, its FFNs and their weights.

The only package that knows: everyone else asks `decoder_of(model)` for a `Decoder` and speaks of heads and FFNs. A
further model family is one new file beside `opt.py` and one line in `FAMILIES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval_prune.errors import MaskShapeError, UnsupportedModelError
from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "FAMILIES",
    "Decoder",
    "LinearWeights",
    "Trunk",
    "check_fits",
    "decoder_of",
    "flops_per_token",
    "input_device",
    "is_offloaded",
    "linear_weights",
    "num_pruned_parameters",
    "num_removed_parameters",
    "removed_from",
    "require_supported",
    "trunk_of",
]

FAMILIES = {"opt": "lm_eval_prune.decoders.opt", "pruned_opt": "lm_eval_prune.decoders.opt"}
"""transformers' `config.model_type` -> the module that knows the family."""


@dataclass(frozen=True)
class Decoder:
    """The places of one model that masks, scores and importance need; each tuple has one entry a layer.

    A compacted model keeps the original's numbers: of layers, of heads in a layer, and of each head.
    """

    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    """Width of one head's output."""
    removed: PruningMask
    """What the model lacks; dense but for compacted models."""
    head_outputs: tuple[nn.Module | None, ...]
    """Maps whose input (..., heads * head_dim) is the outputs of the layer's `removed.kept_heads` side by side,
    ascending; None where there is none."""
    ffn_outputs: tuple[nn.Module | None, ...]
    """Modules whose output is what the FFN adds to the residual stream; None where there is none."""


class LinearWeights(NamedTuple):
    """Weights of the linear maps, each a multiplication and an addition for every token that passes it."""

    head: int
    """Of one head: half of them for keys and values, half for queries and outputs."""
    ffn: int
    """Of one FFN."""
    projection: int
    """From embeddings of another width than the layers', and as many back; else 0."""
    output: int
    """Of the output layer."""


@dataclass(frozen=True)
class Trunk:
    """What computes the forward pass of one causal language model, in pieces; tuples have one entry a layer.

    `embed`, the layers one after another and `finish` together are `body`, bit for bit.
    """

    layers: tuple[nn.Module, ...]
    """Each called with the residual stream (batch, tokens, hidden_size) and the keyword arguments from `embed`."""
    body: Callable[[Tensor], Tensor]
    """Token ids (batch, tokens), right-padded -> what the output layer reads."""
    embed: Callable[[Tensor], tuple[Tensor, dict[str, Any]]]
    """Token ids -> the residual stream that enters layer 0, and the keyword arguments that every layer takes."""
    finish: Callable[[Tensor], Tensor]
    """The residual stream after the last layer -> what the output layer reads."""
    output_layer: nn.Module
    """Maps what `body` returns to logits over the vocabulary."""
    project_out: nn.Module | None
    """Between the residual stream and the output layer where their widths differ (OPT-350m), without any norm."""
    queries: tuple[nn.Module | None, ...]
    """Linear maps to all heads' queries side by side. Attention is softmax(query . key / sqrt(head_dim)). None, as for
    keys and values, where a layer has no head."""
    keys: tuple[nn.Module | None, ...]
    values: tuple[nn.Module | None, ...]
    attention_norms: tuple[nn.Module | None, ...]
    """Norms between the residual stream and queries, keys and values; None where the stream enters as it is."""
    ffn_entries: tuple[nn.Module | None, ...]
    """Modules whose input is the residual stream just before the FFN adds to it (any shape, hidden_size last)."""
    ffn_norms: tuple[nn.Module | None, ...]
    """Norms on the residual stream after the FFN has added to it, which end the layer; None without."""
    ffn_inputs: tuple[nn.Module | None, ...]
    """The FFN's linear maps up, beside `Decoder.ffn_outputs`, those down; None where there is no FFN."""
    max_length: int
    """Longest input in tokens."""
    vocab_size: int


def require_supported(config: Any, name: str | None = None) -> None:
    """Raise UnsupportedModelError unless the model family of a transformers `config` is known."""
    model_type = getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        name = name or getattr(config, "_name_or_path", "") or "the model"
        raise UnsupportedModelError(f"{name}: model type {model_type!r} is not supported; supported: {_supported()}")


def decoder_of(model: nn.Module) -> Decoder:
    """The decoder inside `model`, looked for behind wrappers (PEFT adapters, DataParallel, torch.compile).

    Raises UnsupportedModelError.
    """
    inner = _supported_inside(model)
    return _family(inner.config).decoder(inner)


def trunk_of(model: nn.Module) -> Trunk:
    """The pieces of the causal language model inside `model`, as `decoder_of`. Raises UnsupportedModelError."""
    inner = _supported_inside(model)
    return _family(inner.config).trunk(inner)


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
    if isinstance(removed, PruningMask):
        return removed
    return PruningMask.dense(config.num_hidden_layers, config.num_attention_heads)


def num_pruned_parameters(config: Any, mask: PruningMask) -> int:
    """How many parameters `mask` removes from a model of this config, exactly and with biases.

    A head: its rows of the query, key and value maps, their biases, and its columns of the output map (whose bias
    stays). An FFN: both linear maps. The layer norm in front of either goes too where it serves nothing else. What a
    compacted model lacks already does not count. Raises MaskShapeError, UnsupportedModelError.
    """
    require_supported(config)
    check_fits(mask, config.num_hidden_layers, config.num_attention_heads)
    removed = removed_from(config)
    return _num_parameters(config, removed | mask) - _num_parameters(config, removed)


def num_removed_parameters(config: Any) -> int:
    """How many parameters compaction has removed from the model of this config. Raises UnsupportedModelError."""
    require_supported(config)
    return _num_parameters(config, removed_from(config))


def _num_parameters(config: Any, mask: PruningMask) -> int:
    """Of the components that `mask` prunes."""
    family = _family(config)
    headless = sum(len(heads) == mask.num_attention_heads for heads in mask.pruned_heads.values())
    return (
        mask.num_pruned_heads * family.parameters_per_head(config)
        + headless * family.parameters_per_headless_layer(config)
        + mask.num_pruned_ffns * family.parameters_per_ffn(config)
    )


def flops_per_token(config: Any, mask: PruningMask) -> int:
    """Floating-point operations of a token's forward pass in the linear maps that `mask` keeps, output layer included.

    A multiplication and an addition for each weight. Left out is what depends on the length of the input (attention
    between tokens) and what is small beside it: biases, norms, activations, softmax.
    Raises MaskShapeError, UnsupportedModelError.
    """
    weights = linear_weights(config)
    check_fits(mask, config.num_hidden_layers, config.num_attention_heads)
    heads, ffns = mask.num_heads - mask.num_pruned_heads, mask.num_hidden_layers - mask.num_pruned_ffns
    return 2 * (heads * weights.head + ffns * weights.ffn + 2 * weights.projection + weights.output)


def linear_weights(config: Any) -> LinearWeights:
    """What FLOPs are counted from; `config` is a model's configuration. Raises UnsupportedModelError."""
    require_supported(config)
    found: LinearWeights = _family(config).linear_weights(config)
    return found


def check_fits(mask: PruningMask, num_hidden_layers: int, num_attention_heads: int, where: str = "the model") -> None:
    """Raise MaskShapeError unless the mask is for this many layers and heads."""
    if mask.shape != (num_hidden_layers, num_attention_heads):
        raise MaskShapeError(
            f"mask is for {mask.num_hidden_layers} layers of {mask.num_attention_heads} heads, but {where} has "
            f"{num_hidden_layers} layers of {num_attention_heads} heads"
        )


def _family(config: Any) -> Any:
    return importlib.import_module(FAMILIES[config.model_type])


def _supported_inside(model: nn.Module) -> Any:
    inner = _unwrapped(model)
    if getattr(getattr(inner, "config", None), "model_type", None) not in FAMILIES:
        raise UnsupportedModelError(f"{type(model).__name__}: no supported decoder in it; supported: {_supported()}")
    return inner


def _unwrapped(model: Any) -> Any:
    if hasattr(model, "get_base_model"):  # a PEFT adapter around it
        return _unwrapped(model.get_base_model())
    for attribute in ("_orig_mod", "module"):  # torch.compile; DataParallel and its kin
        if hasattr(model, attribute):
            return _unwrapped(getattr(model, attribute))
    return model


def _supported() -> str:
    return ", ".join(sorted(FAMILIES))
