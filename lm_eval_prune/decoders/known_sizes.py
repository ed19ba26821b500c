"""Sizes that have a name of their own: the OPT checkpoints of the study, whose configurations are built in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import ArgumentError

if TYPE_CHECKING:
    from transformers import OPTConfig

__all__ = ["KNOWN_SIZES", "SIZES", "known_config", "opt_config", "opt_settings"]

SIZES: dict[str, dict[str, Any]] = {
    "opt-125m": {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768},
    "opt-350m": {"num_hidden_layers": 24, "num_attention_heads": 16, "hidden_size": 1024},
    "opt-1.3b": {"num_hidden_layers": 24, "num_attention_heads": 32, "hidden_size": 2048},
    "opt-2.7b": {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 2560},
    "opt-6.7b": {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096},
    "opt-13b": {"num_hidden_layers": 40, "num_attention_heads": 40, "hidden_size": 5120},
    "opt-30b": {"num_hidden_layers": 48, "num_attention_heads": 56, "hidden_size": 7168},
    "opt-66b": {"num_hidden_layers": 64, "num_attention_heads": 72, "hidden_size": 9216},
}
"""Dimensions of the public checkpoints (Zhang et al. 2022, table 1); the FFN is four times as wide as the model."""

KNOWN_SIZES = {name: size for size in SIZES for name in (size.removeprefix("opt-"), size, f"facebook/{size}")}
"""What such a size may be called, in lower case -> its name in `SIZES`."""


def opt_settings(size: str, **changes: Any) -> dict[str, Any]:
    """What the configuration of `facebook/<size>` says, with `changes` on top. Raises ArgumentError."""
    if size not in SIZES:
        raise ArgumentError(f"size {size!r}: unknown; expected one of {', '.join(SIZES)}")
    dimensions = dict(SIZES[size])
    if size == "opt-350m":
        dimensions |= {"do_layer_norm_before": False, "word_embed_proj_dim": 512}
    settings = {
        "ffn_dim": 4 * dimensions["hidden_size"],
        "word_embed_proj_dim": dimensions["hidden_size"],
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    return {**settings, **dimensions, **changes}


def opt_config(size: str, **changes: Any) -> OPTConfig:
    """The configuration of `facebook/<size>`, with `changes` on top. Raises ArgumentError for an unknown size."""
    from transformers import OPTConfig

    return OPTConfig(**opt_settings(size, **changes))


def known_config(name: str) -> tuple[str, OPTConfig]:
    """The hub id and the configuration of one of `KNOWN_SIZES`."""
    size = KNOWN_SIZES[name]
    return f"facebook/{size}", opt_config(size)
