"""Work shared between processes: each takes every n-th item, and partial sums are added up.

Under `accelerate launch` every process holds the whole model. One process is the case n = 1, with no communication.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes", "leave_group_at_exit"]

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


def leave_group_at_exit() -> None:
    """Have the initialised group destroyed when Python ends; without one, nothing is done.

    Only for gloo, whose threads abort a process that ends with them running; NCCL's group may wait for its other
    processes when it is destroyed, and need not be.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        atexit.register(_leave_group)


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
