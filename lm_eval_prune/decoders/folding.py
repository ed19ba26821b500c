"""Mean ablation folded into weights: what pruned heads and FFNs give on average becomes a constant of the model.

A head's mean goes through its columns of the output map into that map's bias, which a model without biases gains; in
the place of a pruned FFN stands a constant (`constant.py`), where the FFN's output was added to the residual stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lm_eval_prune.decoders.cuts import Cut
from lm_eval_prune.decoders.family import text_config
from lm_eval_prune.decoders.places import out_dim

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.places import Places
    from lm_eval_prune.masks import PruningMask
    from lm_eval_prune.means import Means

__all__ = ["Folded", "folded"]


class Folded(NamedTuple):
    """One bias of the smaller model, and what of the larger one it is made of."""

    mean: Tensor
    """float32: what goes through the columns, or where there are none, the bias itself."""
    weight: str = ""
    """Name of the output map's weight."""
    columns: Cut = Cut(None)
    """Of the pruned heads."""
    bias: str = ""
    """Name of the bias that the map has already."""
    transposed: bool = False
    """The weight is [inputs, outputs]."""

    def of(self, columns: Tensor | None, bias: Tensor | None) -> Tensor:
        """The new bias from both parts of the larger model, in their dtype."""
        if columns is None:
            return self.mean
        found = (columns.T if self.transposed else columns).float() @ self.mean.to(columns.device)
        return (found if bias is None else found + bias.float()).to(columns.dtype)


def folded(places: Places, mask: PruningMask, means: Means | None) -> dict[str, Folded]:
    """By their names in the smaller model, the biases that hold what of the model at `places` goes under `mask`.

    Without `means`, of a model with constants for what was gone before, they are zero.
    """
    family, width, gone = places.family, places.head_dim, mask - places.removed
    found = {
        f"{places.path(index)}.{family.added}.bias": Folded(
            torch.zeros(text_config(places.model.config).hidden_size) if means is None else means.ffns[index]
        )
        for index in gone.pruned_ffns
    }
    if means is None:
        return found
    for index, pruned in gone.pruned_heads.items():
        layer, there = places.layers[index], places.removed.kept_heads(index)
        ranges = [(there.index(head) * width, (there.index(head) + 1) * width) for head in pruned]
        path = f"{places.path(index)}.{family.output}"
        found[f"{path}.bias"] = Folded(
            mean=means.heads[index, list(pruned)].flatten(),
            weight=f"{path}.weight",
            columns=Cut(1 - out_dim(layer.output), tuple(ranges)),
            bias="" if getattr(layer.output, "bias", None) is None else f"{path}.bias",
            transposed=out_dim(layer.output) == 1,
        )
    return found
