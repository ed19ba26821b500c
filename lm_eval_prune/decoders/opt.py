"""OPT's numbers of parameters and products, as formulas of its configuration alone: what `costs/` counts with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_prune.decoders import LinearWeights

if TYPE_CHECKING:
    from transformers import OPTConfig

__all__ = [
    "linear_weights",
    "parameters_per_ffn",
    "parameters_per_head",
    "parameters_per_headless_layer",
]


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


def parameters_per_headless_layer(config: OPTConfig) -> int:
    """What goes with a layer's last head: the layer norm before attention, where it serves nothing else."""
    own_norm = config.do_layer_norm_before and config.layer_norm_elementwise_affine
    return 2 * config.hidden_size if own_norm else 0


def linear_weights(config: Any) -> LinearWeights:
    """Of every linear map; OPT-350m alone projects its embeddings."""
    width, embedding = config.hidden_size, config.word_embed_proj_dim or config.hidden_size
    return LinearWeights(
        head=4 * (width // config.num_attention_heads) * width,
        group=0,
        ffn=2 * width * config.ffn_dim,
        projection=width * embedding if embedding != width else 0,
        output=embedding * config.vocab_size,
        head_dim=width // config.num_attention_heads,
        heads_per_group=1,
    )
