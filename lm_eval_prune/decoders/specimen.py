"""A model on trial: a short text, what the model makes of it, and pieces of the model taken away for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders.ablated import AblatedHeads, constant
from lm_eval_prune.decoders.attention import Attention, attended_densely
from lm_eval_prune.decoders.trunk import Trunk
from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.places import Layer, Places

__all__ = ["TOKENS", "Specimen", "read_by", "short_windows", "without_ffn", "without_head"]

TOKENS, WINDOW = 24, 8
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference, relative to the largest number, that counts as equal."""


class Specimen:
    """Two texts that begin alike, and what is computed of them."""

    def __init__(self, places: Places) -> None:
        self.places, self.model, self.trunk = places, places.model, Trunk(places.model)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, self.trunk.vocab_size, (2, TOKENS), generator=generator)
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
    handle = module.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        yield inputs
    finally:
        handle.remove()


@contextmanager
def without_head(places: Places, layer: int, head: int) -> Iterator[None]:
    """Inside, what an output map reads of a head is zero."""
    gate = AblatedHeads((head,), tuple(range(places.num_attention_heads)), places.head_dim)
    handle = places.layers[layer].output.register_forward_pre_hook(gate)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without_ffn(layer: Layer) -> Iterator[None]:
    """Inside, the layer's FFN adds nothing."""
    added: Any = layer.added
    handle = added.register_forward_hook(partial(constant, None))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def short_windows(places: Places) -> Iterator[None]:
    """Inside, sliding windows are shorter than the proof's text."""
    attentions = [layer.attention for layer in places.layers]
    before = [
        (each, each.sliding_window)
        for each in (*places.configurations, *attentions)
        if isinstance(getattr(each, "sliding_window", None), int)
    ]
    try:
        for each, _ in before:
            each.sliding_window = WINDOW
        yield
    finally:
        for each, window in before:
            each.sliding_window = window
