"""Work shared between processes: each takes every n-th item, and partial sums are added up.

Under `accelerate launch` every process holds the whole model. One process is the case n = 1, with no communication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """The processes of one launch, seen from one of them."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Those of the initialised `torch.distributed` group; otherwise this one alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's items: those at places rank, rank + n, rank + 2n, ..."""
        return list(items[self.rank :: self.world_size])

    def sum(self, partial: Tensor) -> Tensor:
        """The sum of all processes' `partial` (float64, CPU) in every process."""
        if self.world_size == 1:
            return partial
        # NCCL only carries tensors on the GPU that belongs to the process.
        on_gpu = dist.get_backend() == "nccl"
        total = partial.to("cuda" if on_gpu else "cpu", torch.float64, copy=True)
        dist.all_reduce(total)
        return total.cpu()
