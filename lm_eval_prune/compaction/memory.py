"""`compact(model, mask)`: a smaller copy of a model in memory."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch

from lm_eval_prune.decoders import check_fits, require_supported
from lm_eval_prune.decoders.cuts import empty_model, parameter_cuts
from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import OPTForCausalLM

    from lm_eval_prune.decoders.pruned_opt import PrunedOPTForCausalLM
    from lm_eval_prune.masks import PruningMask

__all__ = ["compact"]


def compact(model: OPTForCausalLM, mask: PruningMask) -> PrunedOPTForCausalLM:
    """A smaller model with the outputs of `masked(model, mask)`: the pruned heads and FFNs are not in it.

    Its weights are copies on the same devices in the same dtypes; `model` stays as it is, and its attention
    implementation, mode and checkpointing of activations are the copy's. Heads and layers keep their numbers, so that a
    further mask is written as for the original. `save_pretrained` writes a checkpoint that transformers' Auto classes
    load where this package is installed. A model that does not fit twice into memory: `compact_checkpoint`.
    Raises MaskShapeError; UnsupportedModelError for what is no plain OPT language model, such as one with adapters,
    quantised or offloaded weights.
    """
    from lm_eval_prune.decoders.pruned_opt import OutputBias
    from lm_eval_prune.decoders.pruned_opt_config import compacted_config

    _require_plain(model)
    config: Any = model.config
    check_fits(mask, config.num_hidden_layers, config.num_attention_heads)
    new_config = compacted_config(config, mask)
    new_config._attn_implementation = config._attn_implementation
    smaller = cast("PrunedOPTForCausalLM", empty_model(new_config))
    weights = {}
    for name, _, cut, _ in parameter_cuts(config, new_config):
        weights[name] = cut.of(model.get_parameter(name).detach()).clone(memory_format=torch.contiguous_format)
    smaller.load_state_dict(weights, strict=False, assign=True)
    for module in smaller.modules():
        if isinstance(module, OutputBias):
            module.weight = torch.ones_like(module.weight, device=model.device, dtype=model.dtype)
    smaller.tie_weights()
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(model.get_parameter(name).requires_grad)
    smaller.generation_config = copy.deepcopy(model.generation_config)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        smaller.gradient_checkpointing_enable()
    return smaller.train(model.training)


def _require_plain(model: Any) -> None:
    from lm_eval_prune.decoders.pruned_opt import PLAIN

    if hasattr(model, "config"):
        require_supported(model.config, type(model).__name__)
    if type(model) not in PLAIN:
        raise UnsupportedModelError(f"{type(model).__name__} cannot be compacted; expected a plain OPTForCausalLM")
    instead = "compact the model's folder instead: lm-eval-prune compact, or compact_checkpoint"
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        raise UnsupportedModelError(f"the model is spread over several devices; {instead}")
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise UnsupportedModelError(f"{name} is offloaded; {instead}")
        if not parameter.is_floating_point():
            raise UnsupportedModelError(f"{name} is quantised ({parameter.dtype}); compact the model before quantising")
