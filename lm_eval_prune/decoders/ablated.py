"""What a pruned head or FFN gives in its place, as hooks: zero, or its mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["AblatedHeads", "constant"]


class AblatedHeads:
    """A forward pre-hook: the share of `heads` of the input (..., len(there) * head_dim) becomes zero, or means."""

    def __init__(
        self, heads: tuple[int, ...], there: tuple[int, ...], head_dim: int, means: Tensor | None = None
    ) -> None:
        """`means` (len(there) * head_dim,) are of all heads that are there."""
        pruned = torch.tensor([head in heads for head in there]).repeat_interleave(head_dim)
        self.on_device = {pruned.device: (pruned, means)}  # a model's layers may lie on several devices

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        outputs = args[0]
        if outputs.device not in self.on_device:
            pruned, means = next(iter(self.on_device.values()))
            there = outputs.device
            self.on_device[there] = pruned.to(there), None if means is None else means.to(there)
        pruned, means = self.on_device[outputs.device]
        # Filled, not multiplied: zero times an infinite or undefined half-precision value would be undefined.
        filled = outputs.masked_fill(pruned, 0) if means is None else torch.where(pruned, means.to(outputs), outputs)
        return (filled, *args[1:])


def constant(mean: Tensor | None, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """A forward hook: the output is zero, or `mean` (width,), everywhere."""
    if isinstance(output, tuple):  # mixtures of experts may hand out their routing, too
        return (constant(mean, module, args, output[0]), *output[1:])
    return torch.zeros_like(output) if mean is None else mean.to(output).expand_as(output)
