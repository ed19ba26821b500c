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
from lm_eval_prune.decoders.cuts import WHOLE, cuts_of, tensors_of
from lm_eval_prune.decoders.places import places_of
from lm_eval_prune.decoders.skeleton import empty_model, skeleton_of

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
    weights: Weights, config: Any, mask: PruningMask, where: str | os.PathLike[str]
) -> Mapping[str, ZeroedWeight]:
    """By name in the model, every weight of the stock class under `mask`; that holds all that the source lacks already.

    `config` is the source's configuration, a compacted model's or a whole one's.
    Raises FileFormatError for weights that are missing or misshapen.
    """
    source, whole = empty_model(config), skeleton_of(config)
    place, there = weights.places(source, where), tensors_of(source)
    of_source, of_whole = cuts_of(places_of(source), mask), cuts_of(whole, mask)
    norms = (*whole.family.attention_norms, *whole.family.ffn_norms, *whole.family.shared_norms)
    found = {}
    for name, tensor in tensors_of(whole.model).items():
        stored = place(name) if name in there else None
        dtype = weights.dtype if stored is None else stored.dtype
        cut = of_whole.get(name, WHOLE)
        parent, _, kind = name.rpartition(".")
        # A norm before what is gone changes nothing and stays; one behind it would add what it has of its own.
        norm = next((path for path in norms if parent.endswith(f".{path}") and path != whole.family.added), None)
        if norm is not None and stored is not None:
            cut = WHOLE
        if stored is None or cut.is_empty:
            fill = float(norm is not None and kind == "weight")
            found[name] = ZeroedWeight(tensor.shape, dtype, None, fill=fill)
        elif cut.dim is None:
            everything = ((0, tensor.shape[0]),)
            found[name] = ZeroedWeight(tensor.shape, dtype, PartialWeight(stored, WHOLE), everything)
        else:
            part = PartialWeight(stored, of_source.get(name, WHOLE))
            found[name] = ZeroedWeight(tensor.shape, dtype, part, cut.ranges, cut.dim)
    return found
