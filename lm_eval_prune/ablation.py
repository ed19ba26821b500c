"""Masks applied to a live model, and undone.

A pruned head's output is zero before the output map, whose bias stays (Bansal et al. 2023, section 3.1); a pruned FFN
adds nothing, biases included, so the residual stream passes by. With `means` both are their mean outputs instead (mean
ablation, `means.py`). Hooks on the modules that `decoders/` names do it: transformers 5 ignores a `head_mask` argument
without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from lm_eval_prune.decoders import check_fits, decoder_of, trunk_of
from lm_eval_prune.decoders.ablated import AblatedHeads, constant
from lm_eval_prune.decoders.compiled import uncompiled
from lm_eval_prune.decoders.saving import unsaveable

if TYPE_CHECKING:
    from torch import nn

    from lm_eval_prune.masks import PruningMask
    from lm_eval_prune.means import Means

    Model = TypeVar("Model", bound=nn.Module)

__all__ = ["masked"]

UNSAVED = (
    "inside masked(...) the mask is no part of the weights, so save_pretrained would write the dense model; write the "
    "masked one with compact(model, mask).save_pretrained, or `lm-eval-prune compact` (with --zeroed a plain "
    "checkpoint), or save after the block"
)


@contextmanager
def masked(model: Model, mask: PruningMask, means: Means | None = None) -> Iterator[Model]:
    """Prune `model` inside the block: forward, generation with a key-value cache, and gradients.

    What is pruned gives zero, or with `means` its mean output.

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
    if means is not None:
        means.check_fits(mask.shape, decoder.head_dim, trunk_of(model).hidden_size)
    with ExitStack() as hooks:
        if not mask.is_dense:
            hooks.enter_context(uncompiled(model))
            hooks.enter_context(unsaveable(model, UNSAVED))
        for layer, heads in mask.pruned_heads.items():
            there = decoder.removed.kept_heads(layer)
            told = None if means is None else means.heads[layer, list(there)].flatten()
            gate = AblatedHeads(heads, there, decoder.head_dim, told)
            hooks.enter_context(decoder.head_outputs[layer].register_forward_pre_hook(gate))  # type: ignore[union-attr]
        for layer in mask.pruned_ffns:
            added = partial(constant, None if means is None else means.ffns[layer])
            hooks.enter_context(decoder.ffn_outputs[layer].register_forward_hook(added))  # type: ignore[union-attr]
        yield model
