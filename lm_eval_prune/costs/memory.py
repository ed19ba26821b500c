"""Bytes beside the weights: what is alive at the worst moment of a batch, from a model's dimensions.

Sums of the tensors that must exist, without what an allocator rounds up and a library's kernels take for themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

from lm_eval_prune.costs.dimensions import Dimensions
from lm_eval_prune.errors import ArgumentError

__all__ = [
    "BYTES",
    "bytes_of",
    "keys_and_values",
    "layer_activations",
    "logits",
    "saved_for_backward",
    "stream",
]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""dtype -> bytes of a number."""


def bytes_of(dtype: str) -> int:
    """Bytes of a number. Raises ArgumentError."""
    if dtype not in BYTES:
        raise ArgumentError(f"dtype={dtype}: expected one of {', '.join(BYTES)}")
    return BYTES[dtype]


def stream(model: Dimensions, tokens: int, dtype: str) -> int:
    """The residual stream of `tokens` positions."""
    return tokens * model.hidden_size * bytes_of(dtype)


def keys_and_values(model: Dimensions, layers: Iterable[int], tokens: int, dtype: str) -> int:
    """What these layers add to the cache, key/value heads that are there alone: transformers keeps it during an
    evaluation, too. Sliding windows are not taken off."""
    return 2 * model.num_groups(layers) * model.head_dim * tokens * bytes_of(dtype)


def layer_activations(model: Dimensions, tokens: int, dtype: str) -> int:
    """One layer without gradients: stream, norm, queries, keys, values, outputs; or the FFN's inner widths."""
    attention, ffn = _attention_width(model, outputs=1), (1 + model.ffn_maps) * model.ffn_width
    return tokens * (2 * model.hidden_size + max(attention, ffn)) * bytes_of(dtype)


def logits(model: Dimensions, tokens: int, dtype: str) -> int:
    """Logits and their log-softmax, which the harness holds at once."""
    return 2 * tokens * model.vocab_size * bytes_of(dtype)


def saved_for_backward(model: Dimensions, tokens: int, dtype: str) -> int:
    """What one layer keeps for gradient importance, its weights being frozen.

    The inputs of two norms, queries, keys, values, the heads' outputs twice, and the FFN's inner width: three times
    where it is gated (both maps' outputs, and the gate behind its activation).
    """
    inner = model.ffn_width * (1 if model.ffn_maps < 2 else 3)
    return tokens * (2 * model.hidden_size + _attention_width(model, outputs=2) + inner) * bytes_of(dtype)


def _attention_width(model: Dimensions, outputs: int) -> int:
    """Of a token's queries, keys and values, and its heads' outputs so many times."""
    return ((1 + outputs) * model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
