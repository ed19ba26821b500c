"""A model on trial: a short text, what the model makes of it, and pieces of the model taken away for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders.ablated import AblatedHeads, constant
from lm_eval_prune.decoders.attention import Attention, attended_densely
from lm_eval_prune.decoders.family import text_config
from lm_eval_prune.decoders.lent import for_now
from lm_eval_prune.decoders.trunk import Trunk
from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.places import Layer, Places

__all__ = ["TOKENS", "Specimen", "read_by", "sample_ids", "short_windows", "without_ffn", "without_head"]

TOKENS, WINDOW = 24, 8
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference, relative to the largest number, that counts as equal."""


def sample_ids(model: Any) -> Tensor:
    """Two texts of random tokens, (2, TOKENS)."""
    vocabulary = text_config(model.config).vocab_size
    return torch.randint(3, vocabulary, (2, TOKENS), generator=torch.Generator().manual_seed(0))


class Specimen:
    """Two texts that begin alike, and what is computed of them."""

    def __init__(self, places: Places) -> None:
        self.places, self.model, self.trunk = places, places.model, Trunk(places.model)
        ids = sample_ids(self.model)
        ids[1, : TOKENS // 2] = ids[0, : TOKENS // 2]
        self.ids = ids.to(self.trunk.device)
        self.middle = places.num_hidden_layers // 2
        self.tolerance = TOLERANCES.get(self.model.dtype, 5e-2)

    def logits(self) -> Tensor:
        return self.model(input_ids=self.ids, use_cache=False).logits

    def equal(self, found: Tensor, expected: Tensor) -> bool:
        difference = (found.float() - expected.float().to(found.device)).abs().max()
        return bool(difference <= self.tolerance * (1 + expected.float().abs().max()))

    def one_head(self) -> tuple[int, slice]:
        head, width = self.places.num_attention_heads - 1, self.places.head_dim
        return head, slice(head * width, (head + 1) * width)

    def attended(self, attention: Attention, seen: Tensor | None = None) -> Tensor:
        count = attention.queries.shape[2]
        if attention.queries.shape[1] != self.places.num_attention_heads:
            raise UnsupportedModelError("its attention has another number of heads than its configuration")
        back = torch.arange(count)[:, None] - torch.arange(count)
        if seen is None:
            seen = (back >= 0) & (back < (attention.window or count))
        return attended_densely(attention, seen.to(attention.queries.device))


@contextmanager
def read_by(module: Any) -> Iterator[list[Tensor]]:
    """Inside, what `module` is given is noted."""
    inputs: list[Tensor] = []
    with module.register_forward_pre_hook(lambda module, args: inputs.append(args[0])):
        yield inputs


def without_head(places: Places, layer: int, head: int) -> AbstractContextManager[Any]:
    """A block in which what an output map reads of a head is zero."""
    gate = AblatedHeads((head,), tuple(range(places.num_attention_heads)), places.head_dim)
    return places.layers[layer].output.register_forward_pre_hook(gate)


def without_ffn(layer: Layer) -> AbstractContextManager[Any]:
    """A block in which the layer's FFN adds nothing."""
    added: Any = layer.added
    return added.register_forward_hook(partial(constant, None))


def short_windows(places: Places) -> AbstractContextManager[None]:
    """A block in which sliding windows are shorter than the proof's text."""
    holders = *places.configurations, *(layer.attention for layer in places.layers)
    windowed = [each for each in holders if isinstance(getattr(each, "sliding_window", None), int)]
    return for_now(windowed, "sliding_window", WINDOW)
