"""Where a transformers model keeps its heads, its FFNs and their weights.

The only package that knows: everyone else asks `decoder_of(model)` for a `Decoder` and speaks of heads and FFNs. A
further model family is one new file beside `opt.py` and one line in `FAMILIES`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import MaskShapeError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

    from lm_eval_prune.masks import PruningMask

__all__ = ["FAMILIES", "Decoder", "check_fits", "decoder_of", "num_pruned_parameters", "require_supported"]

FAMILIES = {"opt": "lm_eval_prune.decoders.opt"}
"""transformers' `config.model_type` -> the module that knows the family."""


@dataclass(frozen=True)
class Decoder:
    """The places of one model that masks, scores and importance need; each tuple has one entry a layer."""

    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    """Width of one head's output."""
    head_outputs: tuple[nn.Module, ...]
    """Maps whose input (..., num_attention_heads * head_dim) is all heads' outputs side by side, head 0 first."""
    ffn_outputs: tuple[nn.Module, ...]
    """Modules whose output is what the FFN adds to the residual stream."""


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
    inner = _unwrapped(model)
    config = getattr(inner, "config", None)
    if getattr(config, "model_type", None) not in FAMILIES:
        raise UnsupportedModelError(f"{type(model).__name__}: no supported decoder in it; supported: {_supported()}")
    return _family(config).decoder(inner)


def num_pruned_parameters(config: Any, mask: PruningMask) -> int:
    """How many parameters `mask` removes from a model of this config, exactly and with biases.

    A head: its rows of the query, key and value maps, their biases, and its columns of the output map (whose bias
    stays). An FFN: both linear maps, and the layer norm in front of them where it serves nothing else.
    Raises MaskShapeError, UnsupportedModelError.
    """
    require_supported(config)
    check_fits(mask, config.num_hidden_layers, config.num_attention_heads)
    family = _family(config)
    heads = mask.num_pruned_heads * family.parameters_per_head(config)
    return heads + mask.num_pruned_ffns * family.parameters_per_ffn(config)


def check_fits(mask: PruningMask, num_hidden_layers: int, num_attention_heads: int, where: str = "the model") -> None:
    """Raise MaskShapeError unless the mask is for this many layers and heads."""
    if mask.shape != (num_hidden_layers, num_attention_heads):
        raise MaskShapeError(
            f"mask is for {mask.num_hidden_layers} layers of {mask.num_attention_heads} heads, but {where} has "
            f"{num_hidden_layers} layers of {num_attention_heads} heads"
        )


def _family(config: Any) -> Any:
    return importlib.import_module(FAMILIES[config.model_type])


def _unwrapped(model: Any) -> Any:
    if hasattr(model, "get_base_model"):  # a PEFT adapter around it
        return _unwrapped(model.get_base_model())
    for attribute in ("_orig_mod", "module"):  # torch.compile; DataParallel and its kin
        if hasattr(model, attribute):
            return _unwrapped(getattr(model, attribute))
    return model


def _supported() -> str:
    return ", ".join(sorted(FAMILIES))
