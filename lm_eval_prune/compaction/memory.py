"""`compact(model, mask)`: a smaller copy of a model in memory."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.compaction.trial import require_compactable
from lm_eval_prune.decoders import check_fits, require_supported, shape_of
from lm_eval_prune.decoders.compacted import compacted_config, is_stock
from lm_eval_prune.decoders.cuts import WHOLE, cuts_of
from lm_eval_prune.decoders.family import text_config
from lm_eval_prune.decoders.folding import Folded, folded
from lm_eval_prune.decoders.places import places_of
from lm_eval_prune.decoders.skeleton import empty_model
from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lm_eval_prune.masks import PruningMask
    from lm_eval_prune.means import Means

__all__ = ["compact", "compacted"]


def compact(model: PreTrainedModel, mask: PruningMask, means: Means | None = None) -> PreTrainedModel:
    """A smaller model with the outputs of `masked(model, mask, means)`: the pruned heads and FFNs are not in it.

    `means` become biases: of the output maps of layers with pruned heads, and of constants in the place of FFNs.

    Its weights are copies on the same devices in the same dtypes; `model` stays as it is, and its attention
    implementation, mode and checkpointing of activations are the copy's. Heads and layers keep their numbers, so that a
    further mask is written as for the original. `save_pretrained` writes a checkpoint that transformers' Auto classes
    load where this package is installed. A model that does not fit twice into memory: `compact_checkpoint`.
    Raises MaskShapeError; UnsupportedModelError for what is no plain causal language model of a supported family, such
    as one with adapters, quantised or offloaded weights.
    """
    _require_plain(model)
    check_fits(mask, *shape_of(model.config))
    require_compactable(model.config)
    return compacted(model, mask, means)


def compacted(model: Any, mask: PruningMask, means: Means | None = None) -> Any:
    """The same, of a model that is known to be one that can be compacted."""
    config, places = model.config, places_of(model)
    if means is not None:
        means.check_fits(shape_of(config), places.head_dim, text_config(config).hidden_size)
    new_config = compacted_config(config, mask, means=means)
    new_config._attn_implementation = config._attn_implementation
    smaller = empty_model(new_config)
    smaller.config.dtype = config.dtype
    cuts = cuts_of(places, new_config.removed, constants=new_config.pruning_means is not None)
    biases = folded(places, new_config.removed, means) if new_config.pruning_means is not None else {}
    there = dict(model.named_parameters(remove_duplicate=False))
    clones: dict[int, torch.Tensor] = {}  # tied weights once, under each of their names
    weights = {}
    for name, parameter in smaller.named_parameters(remove_duplicate=False):
        if name in biases or name not in there:  # the latter: a constant for what was gone before, and gave nothing
            weights[name] = _folded(biases.get(name, Folded(torch.zeros(parameter.shape))), model)
            continue
        whole = there[name]
        if id(whole) not in clones:
            left = cuts.get(name, WHOLE).of(whole.detach())
            clones[id(whole)] = left.clone(memory_format=torch.contiguous_format)
        weights[name] = clones[id(whole)]
    smaller.load_state_dict(weights, strict=False, assign=True)
    _copy_buffers(model, smaller)
    smaller.tie_weights()
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(name not in there or there[name].requires_grad)
    smaller.generation_config = copy.deepcopy(model.generation_config)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        smaller.gradient_checkpointing_enable()
    return smaller.train(model.training)


def _folded(bias: Folded, model: Any) -> torch.Tensor:
    """A bias from the weights of the larger model, on its device and in its dtype."""
    if not bias.weight:
        return bias.mean.to(model.device, model.dtype)
    weight = model.get_parameter(bias.weight).detach()
    before = model.get_parameter(bias.bias).detach() if bias.bias else None
    return bias.of(bias.columns.of(weight), before)


def _copy_buffers(model: Any, smaller: Any) -> None:
    """Tables of positions and the like; what only the smaller model has is one of its own, of no effect."""
    buffers = dict(model.named_buffers())
    for path, module in smaller.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            found = buffers.get(f"{path}.{name}" if path else name)
            device, dtype = model.device, model.dtype
            module._buffers[name] = (
                torch.ones_like(buffer, device=device, dtype=dtype) if found is None else found.clone()
            )


def _require_plain(model: Any) -> None:
    if hasattr(model, "config"):
        require_supported(model.config, type(model).__name__)
    if not is_stock(model):
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be compacted; expected a causal language model of transformers' own class"
        )
    instead = "compact the model's folder instead: lm-eval-prune compact, or compact_checkpoint"
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        raise UnsupportedModelError(f"the model is spread over several devices; {instead}")
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise UnsupportedModelError(f"{name} is offloaded; {instead}")
        if not parameter.is_floating_point():
            raise UnsupportedModelError(f"{name} is quantised ({parameter.dtype}); compact the model before quantising")
    for name, module in model.named_modules():
        if callable(getattr(module, "weight", None)):  # torch's quantised maps unpack theirs on demand
            kind = type(module).__name__
            raise UnsupportedModelError(f"{name}.weight is quantised ({kind}); compact the model before quantising")
