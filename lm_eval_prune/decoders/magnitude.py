"""Squared weights of each head and each FFN of a model, for norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import align_module_device

from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.decoders.slices import Part, parts_of

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["squared_weights"]


def squared_weights(model: nn.Module, component: str) -> Tensor:
    """Sums of the squares of each component's weight matrices, float64: (layers, heads) for "heads", else (layers,).

    Biases and norms do not count. What heads of a group share counts for each of them; what is not there is 0.
    """
    places = decoder_of(model)
    shape = places.num_hidden_layers, places.num_attention_heads
    sums = torch.zeros(shape if component == "heads" else shape[:1], dtype=torch.float64)
    for index, layer in enumerate(places.layers):
        parts = [part for part in parts_of(places, index) if part.products and part.ffn == (component == "ffns")]
        with _brought_in(layer.module):
            weights = dict(layer.module.named_parameters())
            for part in parts:
                sums[(index, list(part.serves)) if component == "heads" else index] += _squares(weights, part)
    return sums


def _squares(weights: dict[str, Any], part: Part) -> float:
    weight = weights[part.name].detach()
    if part.dim is not None:
        weight = weight.narrow(part.dim, part.start, part.stop - part.start)
    return float(weight.double().pow(2).sum())


@contextmanager
def _brought_in(module: nn.Module) -> Iterator[None]:
    """Inside, weights that accelerate keeps elsewhere are there."""
    with ExitStack() as stack:
        for each in module.modules():
            stack.enter_context(align_module_device(each))
        yield
