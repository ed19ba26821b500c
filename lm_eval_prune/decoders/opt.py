"""OPT (Zhang et al. 2022, arXiv 2205.01068) as transformers builds it, 125m to 66B.

Two shapes: layer norm before attention and FFN (all sizes but one), or after them, with embeddings projected up and
down (350m). `self_attn.out_proj` takes the heads side by side; `fc2` ends the FFN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_prune.decoders import Decoder
from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import OPTConfig

__all__ = ["decoder", "parameters_per_ffn", "parameters_per_head"]


def decoder(model: nn.Module) -> Decoder:
    """The places of an `OPTForCausalLM` or `OPTModel`. Raises UnsupportedModelError for another OPT class."""
    config: OPTConfig = model.config  # type: ignore[assignment]
    inner = getattr(getattr(model, "model", model), "decoder", None)
    if inner is None:
        raise UnsupportedModelError(f"{type(model).__name__} has no OPT decoder; expected OPTForCausalLM")
    layers: list[nn.Module] = list(inner.layers)
    return Decoder(
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        head_outputs=tuple(layer.self_attn.out_proj for layer in layers),  # type: ignore[union-attr, misc]
        ffn_outputs=tuple(layer.fc2 for layer in layers),  # type: ignore[misc]
    )


def parameters_per_head(config: OPTConfig) -> int:
    """Query, key and value rows with their biases, and output columns; the output bias serves all heads and stays."""
    head_dim = config.hidden_size // config.num_attention_heads
    return 4 * head_dim * config.hidden_size + (3 * head_dim if config.enable_bias else 0)


def parameters_per_ffn(config: OPTConfig) -> int:
    """fc1, fc2, their biases and, before the FFN, its layer norm.

    After the FFN (`do_layer_norm_before=False`) the norm is part of the residual stream and stays.
    """
    weights = 2 * config.hidden_size * config.ffn_dim
    biases = config.ffn_dim + config.hidden_size if config.enable_bias else 0
    own_norm = config.do_layer_norm_before and config.layer_norm_elementwise_affine
    return weights + biases + (2 * config.hidden_size if own_norm else 0)
