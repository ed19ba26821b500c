"""A checkpoint of the stock class whose pruned heads and FFNs are zeros: the masked model for every other tool.

All weights that belong to a pruned component alone are zero, those that feed it too: where nothing enters, nothing can
overflow, and fine-tuning finds no gradient to bring a head back.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.compaction.shards import NewWeight
from lm_eval_prune.compaction.weights import PartialWeight, Weights
from lm_eval_prune.decoders.cuts import WHOLE, Cut, cuts_of, tensors_of
from lm_eval_prune.decoders.places import places_of
from lm_eval_prune.decoders.skeleton import empty_model, skeleton_of

if TYPE_CHECKING:
    from lm_eval_prune.masks import PruningMask

__all__ = ["zeroed_weights"]


def zeroed_weights(
    weights: Weights, config: Any, mask: PruningMask, where: str | os.PathLike[str]
) -> dict[str, NewWeight]:
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
            read = partial(torch.full, tensor.shape, float(norm is not None and kind == "weight"), dtype=dtype)
        else:
            part = PartialWeight(stored, WHOLE if cut is WHOLE else of_source.get(name, WHOLE))
            read = partial(_with_zeros, part, tensor.shape, cut)
        found[name] = NewWeight(tensor.shape, dtype, read)
    return found


def _with_zeros(part: PartialWeight, shape: torch.Size, cut: Cut) -> torch.Tensor:
    """A whole weight of which `part` is what `cut` leaves."""
    stored, offset = part[...], 0
    if cut.dim is None:
        return stored
    whole = torch.zeros(shape, dtype=stored.dtype)
    for start, stop in cut.ranges:
        whole.narrow(cut.dim, start, stop - start).copy_(stored.narrow(cut.dim, offset, stop - start))
        offset += stop - start
    return whole
