"""What stands for an FFN that is gone, where it goes on giving its mean output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Constant"]


class Constant(nn.Module):
    """In the place of an FFN, or of the norm behind it, that is gone: the same vector for every token."""

    def __init__(self, width: int, *, routed: bool = False) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))
        self.routed = routed
        """Whether what a router has chosen is handed on, too."""

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor | tuple[Tensor, None]:
        constant = self.bias.expand(*hidden_states.shape[:-1], -1).clone()
        return (constant, None) if self.routed else constant
