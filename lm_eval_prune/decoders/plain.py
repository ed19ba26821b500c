"""Whether the modules of a model are what they look like: what computes them elsewhere must know all that they do."""

from __future__ import annotations

import torch
from accelerate.utils import has_offloaded_params
from torch import nn

__all__ = ["KNOWN_ATTENTION", "oddity"]

KNOWN_ATTENTION = {"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"}
"""Implementations that compute plain softmax attention."""


HOMES = (
    "torch.nn.modules.",
    "transformers.activations",
    "transformers.modeling_layers",
    "transformers.models.",
    "transformers.pytorch_utils",
    "lm_eval_prune.",
)
"""Where plain modules are defined; quantised, sharded and adapted ones are at home elsewhere."""


def oddity(module: nn.Module) -> str | None:
    """What sets one module, without those in it, apart from a plain one; None where nothing does."""
    if not type(module).__module__.startswith(HOMES):
        return f"is a {type(module).__name__} of {type(module).__module__}"
    if module.training:
        return "is in training mode"
    if module._forward_hooks or module._forward_pre_hooks:
        return "has forward hooks"
    if "forward" in vars(module) and not _only_moves_devices(module):
        return "has a forward of its own"
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.is_meta and not has_offloaded_params(module):
            return f"keeps its {name} elsewhere"
        if type(parameter) is not nn.Parameter or type(parameter.data) is not torch.Tensor:
            return f"has a {name} of type {type(parameter.data).__name__}"
    if isinstance(module, nn.Linear) and module.weight.shape != (module.out_features, module.in_features):
        return f"has a weight of shape {tuple(module.weight.shape)}"
    return None


def _only_moves_devices(module: nn.Module) -> bool:
    """Whether accelerate's hook on a module does no more than move its inputs, and its weights in and out."""
    return type(getattr(module, "_hf_hook", None)).__name__ == "AlignDevicesHook"
