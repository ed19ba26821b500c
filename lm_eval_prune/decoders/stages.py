"""What of a forward pass can be computed on its own: a layer, or where its shape allows, its attention and its FFN.

Masks share what comes before their first difference: the more there is to divide, the more they share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lm_eval_prune.decoders.family import text_config
from lm_eval_prune.decoders.findings import findings

if TYPE_CHECKING:
    from lm_eval_prune.decoders.places import Places
    from lm_eval_prune.masks import PruningMask

__all__ = ["Stage", "stages_of"]


class Stage(NamedTuple):
    """What of a layer is computed: its attention, its FFN or both, and the residual stream past the other."""

    layer: int
    attention: bool = True
    ffn: bool = True

    def done(self, mask: PruningMask) -> tuple[tuple[int, ...], bool]:
        """What `mask` leaves to be computed here: the heads, and whether the FFN."""
        heads = mask.kept_heads(self.layer) if self.attention else ()
        return heads, self.ffn and self.layer not in mask.pruned_ffns


def stages_of(places: Places) -> tuple[Stage, ...]:
    """A forward pass in its order. A layer whose attention and FFN read the same stream does not divide."""
    if places.is_proven:
        whole = getattr(text_config(places.model.config), places.family.parallel or "-", False)
    else:
        found = findings.get(places.model)
        whole = found is None or not found.divides
    layers = range(places.num_hidden_layers)
    if whole:
        return tuple(map(Stage, layers))
    return tuple(stage for layer in layers for stage in (Stage(layer, ffn=False), Stage(layer, attention=False)))
