"""A checkpoint of the stock class whose pruned heads and FFNs are zeros: the masked model for every other tool.

All weights that belong to a pruned component alone are zero, those that feed it too: where nothing enters, nothing can
overflow, and fine-tuning finds no gradient to bring a head back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lm_eval_prune.compaction.weights import PartialWeight, Weights
from lm_eval_prune.decoders import removed_from
from lm_eval_prune.decoders.cuts import Cut, Owner, empty_model, kept_ranges, owner_of

if TYPE_CHECKING:
    from lm_eval_prune.masks import PruningMask

__all__ = ["ZeroedWeight", "zeroed_weights"]


class ZeroedWeight(NamedTuple):
    """One weight of the stock class, made when it is asked for."""

    shape: torch.Size
    dtype: torch.dtype | None
    part: PartialWeight | None
    """What of it is stored; None where all of it is `fill`."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Where the part lies along `dim`, in order: (first, end)."""
    dim: int = 0
    fill: float = 0.0

    def read(self) -> torch.Tensor:
        whole = torch.full(self.shape, self.fill, dtype=self.dtype)
        if self.part is None:
            return whole
        stored, offset = self.part[...], 0
        for start, stop in self.ranges:
            whole.narrow(self.dim, start, stop - start).copy_(stored.narrow(self.dim, offset, stop - start))
            offset += stop - start
        return whole


def zeroed_weights(
    weights: Weights, config: Any, plain: Any, mask: PruningMask, where: str | os.PathLike[str]
) -> Mapping[str, ZeroedWeight]:
    """By name, every weight of the stock class under `mask`, which holds all that the source lacks already, too.

    `config` is the source's configuration, a compacted model's or a whole one's; `plain` the stock class's.
    Raises FileFormatError for weights that are missing or misshapen.
    """
    stored = {name: parameter.shape for name, parameter in empty_model(config).named_parameters()}
    found = {}
    for name, parameter in empty_model(plain).named_parameters():
        place = weights.place(name, stored[name], where) if name in stored else None
        dtype = weights.dtype if place is None else place.dtype
        owner = owner_of(name)
        kept = owner.is_kept(mask)
        if place is None or not kept:  # a norm that compaction removed is one that changes nothing
            fill = float(owner.component is None and name.endswith("norm.weight"))
            found[name] = ZeroedWeight(parameter.shape, dtype, None, fill=fill)
        elif owner.component == "heads":
            found[name] = _with_kept_heads(parameter.shape, PartialWeight(place, Cut(None)), owner, config, mask)
        else:
            whole = ((0, parameter.shape[0]),)
            found[name] = ZeroedWeight(parameter.shape, dtype, PartialWeight(place, Cut(None)), whole)
    return found


def _with_kept_heads(
    shape: torch.Size, source: PartialWeight, owner: Owner, config: Any, mask: PruningMask
) -> ZeroedWeight:
    there, kept = removed_from(config).kept_heads(owner.layer), mask.kept_heads(owner.layer)
    width = config.hidden_size // config.num_attention_heads
    everyone = tuple(range(config.num_attention_heads))
    part = PartialWeight(source.stored, Cut(owner.dim, kept_ranges(there, kept, width)))
    return ZeroedWeight(shape, source.stored.dtype, part, kept_ranges(everyone, kept, width), owner.dim)
