"""The one attention function: transformers' own layers call it while `attending` lasts.

It sees queries, keys and values as a model attends with them: rotated and normed, keys and values once for each group
of query heads. What a model tells its attention beside those it passes on to the handler, or the model is refused: an
argument that is not known here is an error and never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.decoders.places import Places

__all__ = ["Attention", "Handler", "attended_densely", "attending"]

NAME = "lm_eval_prune"
"""What transformers' registries of attention and of attention masks know this function by."""
HARMLESS = {
    "cache", "cache_position", "dropout", "is_causal", "logits_to_keep", "output_attentions", "output_hidden_states",
    "output_router_logits", "past_key_values", "position_ids", "return_dict", "use_cache",
}  # fmt: skip
"""Arguments that say nothing which queries, keys and values do not say; `is_causal` only where it is true."""


OF_EVERY_MASK = {
    "allow_is_causal_skip", "batch_size", "device", "dtype", "kv_length", "kv_offset", "mask_function", "q_length",
    "q_offset",
}  # fmt: skip
"""What a mask is asked for with, and what is seen does not depend on."""
BIDIRECTIONAL = object()
"""In the place of an attention mask that hides nothing, of an encoder's tokens: no layer may attend with it."""


@dataclass(frozen=True)
class Window:
    """In the place of an attention mask: causal, and to the last `size` tokens, the query's own among them."""

    size: int


@dataclass(frozen=True)
class Attention:
    """One call of a layer's attention: softmax(queries . keys * scaling) . values over the tokens that a query sees."""

    layer: int
    queries: Tensor
    """(batch, query heads, tokens, head_dim)"""
    keys: Tensor
    """(batch, key/value heads, tokens, head_dim)"""
    values: Tensor
    scaling: float
    window: int | None
    """Tokens seen at most, the query's own among them; None for all before it."""
    softcap: float | None
    """Scores become softcap * tanh(score / softcap)."""
    sinks: Tensor | None
    """(query heads,): scores of a place that is attended to and has no value."""

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(..., rows, head_dim), (..., tokens, head_dim) -> scores (..., rows, tokens) before any mask."""
        scores = queries @ keys.transpose(-1, -2) * self.scaling
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    def weights(self, scores: Tensor) -> Tensor:
        """Masked scores (heads, rows, tokens) -> attention (heads, rows, tokens), float32 at least."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if self.sinks is None:
            return scores.softmax(-1)
        sinks = self.sinks.to(scores).view(-1, 1, 1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]


Handler = Callable[[Attention], "Tensor"]
"""Computes the heads' outputs, (batch, tokens, query heads, head_dim)."""


@contextmanager
def attending(places: Places, handler: Handler) -> Iterator[None]:
    """Inside, the model's attention is `handler`'s. Inputs come without an attention mask: padded on the right, or a
    pack, whose tokens the handler knows to tell apart."""
    before = [(each, each._attn_implementation_internal) for each in places.configurations]
    token = _current.set((places.layer_of_attention, handler))
    try:
        for each, _ in before:
            each._attn_implementation_internal = NAME
        yield
    finally:
        _current.reset(token)
        for each, implementation in before:
            each._attn_implementation_internal = implementation


def attended_densely(attention: Attention, seen: Tensor) -> Tensor:
    """The plain computation, for short inputs: `seen` bool (tokens, tokens), True where a query attends to a key."""
    groups = attention.queries.shape[1] // attention.keys.shape[1]
    keys, values = (part.repeat_interleave(groups, 1) for part in (attention.keys, attention.values))
    scores = attention.scores(attention.queries, keys).masked_fill(~seen, -torch.inf)
    weights = torch.stack([attention.weights(each) for each in scores]).to(values.dtype)
    return (weights @ values).transpose(1, 2)


_current: ContextVar[tuple[dict[int, int], Handler]] = ContextVar("lm_eval_prune_attention")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **told: Any,
) -> tuple[Tensor, None]:
    """What transformers calls, as it calls its own attention functions."""
    layers, handler = _current.get()
    name = type(module).__name__
    if attention_mask is not None and not isinstance(attention_mask, Window):
        raise UnsupportedModelError(f"{name} makes an attention mask of its own")
    window = None if attention_mask is None else attention_mask.size
    told = {key: value for key, value in told.items() if value is not None}
    if told.pop("sliding_window", window) != window:
        raise UnsupportedModelError(f"{name} has a sliding window that its attention mask has not")
    softcap, sinks = told.pop("softcap", None), told.pop("s_aux", None)
    if told.get("is_causal") is False or told.get("output_attentions"):
        raise UnsupportedModelError(f"{name}: its attention is not causal, or is to be handed out")
    if unknown := sorted(told.keys() - HARMLESS):
        raise UnsupportedModelError(f"{name} tells its attention {unknown[0]!r}, which is not known here")
    if id(module) not in layers:
        raise UnsupportedModelError(f"{name} attends in a place that no layer was expected to")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    attention = Attention(layers[id(module)], query, key, value, scaling, window, softcap, sinks)
    return handler(attention).contiguous(), None


def _mask(
    *,
    attention_mask: Any = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    config: Any = None,
    **told: Any,
) -> object:
    """What transformers calls for a mask: says what is seen, instead of drawing it."""
    if use_vmap:
        raise UnsupportedModelError("its attention mask is composed in a way of its own")
    if told.pop("allow_is_bidirectional_skip", False):
        return BIDIRECTIONAL
    if unknown := sorted(told.keys() - OF_EVERY_MASK):
        raise UnsupportedModelError(f"its attention mask is told {unknown[0]!r}, which is not known here")
    if attention_mask is not None and not bool(attention_mask.all()):
        raise UnsupportedModelError("its attention mask comes with its input")
    if local_size is not None and local_size == getattr(config, "attention_chunk_size", None):
        raise UnsupportedModelError("its attention is cut into chunks")
    return None if local_size is None else Window(local_size)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
