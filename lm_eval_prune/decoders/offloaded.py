"""Weights that accelerate keeps elsewhere, at hand for several calls in a row.

accelerate brings a module's weights in for each call and drops them afterwards. Inside `at_hand` they stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import align_module_device, has_offloaded_params

if TYPE_CHECKING:
    from torch import nn

__all__ = ["at_hand", "device_of"]


@contextmanager
def at_hand(*modules: nn.Module | None) -> Iterator[None]:
    """Bring in the offloaded weights of `modules`, and of all that is in them, once for everything inside."""
    with ExitStack() as stack:
        for outer in modules:
            for module in outer.modules() if outer is not None else ():
                if has_offloaded_params(module):
                    hook: Any = module._hf_hook
                    stack.enter_context(align_module_device(module))
                    hook.offload = False  # calls of the module neither bring weights in again nor drop them
                    stack.callback(setattr, hook, "offload", True)
        yield


def device_of(module: nn.Module) -> torch.device:
    """Where `module` computes, also while its weights are elsewhere."""
    if has_offloaded_params(module):
        hook: Any = module._hf_hook
        return torch.device(hook.execution_device)
    return next(module.parameters()).device
