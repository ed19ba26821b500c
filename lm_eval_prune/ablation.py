"""Masks applied to a live model, and undone.

A pruned head's output is zero before the output map, whose bias stays (Bansal et al. 2023, section 3.1); a pruned FFN
adds nothing, biases included, so the residual stream passes by. Hooks on the modules that `decoders/` names do it:
transformers 5 ignores a `head_mask` argument without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from lm_eval_prune.decoders import check_fits, decoder_of
from lm_eval_prune.decoders.compiled import uncompiled
from lm_eval_prune.decoders.saving import unsaveable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.masks import PruningMask

    Model = TypeVar("Model", bound=nn.Module)

__all__ = ["masked"]

UNSAVED = (
    "inside masked(...) the mask is no part of the weights, so save_pretrained would write the dense model; write the "
    "masked one with compact(model, mask).save_pretrained, or `lm-eval-prune compact` (with --zeroed a plain "
    "checkpoint), or save after the block"
)


@contextmanager
def masked(model: Model, mask: PruningMask) -> Iterator[Model]:
    """Prune `model` inside the block: forward, generation with a key-value cache, and gradients.

    Blocks nest: what any of them prunes is pruned. On exit, also by an exception, the model is as before; its weights
    are never touched. What a compacted model lacks already is pruned. A model compiled by torch.compile is to be given
    as such; it runs uncompiled inside, since compiled code would not see the mask. With activation checkpointing, call
    `backward` inside the block. A copy or pickle taken inside stays masked; `save_pretrained`, which would write the
    dense model, raises UnsupportedModelError inside.
    Raises MaskShapeError, UnsupportedModelError.
    """
    decoder = decoder_of(model)
    check_fits(mask, decoder.num_hidden_layers, decoder.num_attention_heads)
    mask = mask - decoder.removed
    with ExitStack() as hooks:
        if not mask.is_dense:
            hooks.enter_context(uncompiled(model))
            hooks.enter_context(unsaveable(model, UNSAVED))
        for layer, heads in mask.pruned_heads.items():
            gate = _ZeroedHeads(heads, decoder.removed.kept_heads(layer), decoder.head_dim)
            hooks.callback(decoder.head_outputs[layer].register_forward_pre_hook(gate).remove)  # type: ignore[union-attr]
        for layer in mask.pruned_ffns:
            hooks.callback(decoder.ffn_outputs[layer].register_forward_hook(_nothing).remove)  # type: ignore[union-attr]
        yield model


class _ZeroedHeads:
    """A forward pre-hook that sets the share of `heads` of the input (..., len(there) * head_dim) to zero."""

    def __init__(self, heads: tuple[int, ...], there: tuple[int, ...], head_dim: int) -> None:
        pruned = torch.tensor([head in heads for head in there]).repeat_interleave(head_dim)
        self.on_device = {pruned.device: pruned}  # a model's layers may lie on several devices

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        outputs = args[0]
        if outputs.device not in self.on_device:
            self.on_device[outputs.device] = next(iter(self.on_device.values())).to(outputs.device)
        # Filled, not multiplied: zero times an infinite or undefined half-precision value would be undefined.
        return (outputs.masked_fill(self.on_device[outputs.device], 0), *args[1:])


def _nothing(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, tuple):  # mixtures of experts may hand out their routing, too
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)
