"""Which components go, by scores or by chance: those with the least (the default, and the study's), the most, or random
ones; ranked over all layers or over a range of them, of which the fraction is then a share.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from lm_eval_prune.components import require_possible
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.importance.exclusion import LEFT_OUT, places_without
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.scores import lowest

if TYPE_CHECKING:
    from torch import Tensor

    Share = str | int | float | Decimal | Fraction

__all__ = ["ORDERS", "random_mask", "ranked_mask"]

ORDERS = ("least", "most", "random")
"""Which components go first, by their scores."""


def ranked_mask(
    *,
    num_attention_heads: int,
    head_scores: Tensor | None = None,
    head_fraction: Share = 0,
    ffn_scores: Tensor | None = None,
    ffn_fraction: Share = 0,
    order: str = "least",
    layers: tuple[int, int] | None = None,
    normalisation: str = "none",
    seed: int = 1234,
    unit: str = "head",
    layout: str = "global",
    num_key_value_heads: int | None = None,
    without_scores: Tensor | None = None,
    leave_out: Share = LEFT_OUT,
    layer_scores: Tensor | None = None,
    layer_fraction: Share = 0,
) -> PruningMask:
    """The mask that prunes the components which come first in `order`.

    head_scores: (num_hidden_layers, num_attention_heads), normalised within layers first (`importance.aggregate`);
    ffn_scores, layer_scores: (num_hidden_layers,); of a pruned layer all heads and the FFN go. `layers` is the first
    and the last layer to prune in: ranks and fractions are then among those. With another `unit` than `"head"`, groups
    are ranked, and with `layout="uniform"` each layer apart, as `PruningMask.from_importance` does. Of equal scores the
    lower (layer, head) goes. `random` draws with `seed` and ignores the scores. With `order="most"`, the heads of the
    top share `leave_out` by `without_scores` are not pruned (`importance.exclusion`).
    Raises ArgumentError, and what `PruningMask.from_importance` raises.
    """
    import torch

    from lm_eval_prune.importance.aggregate import normalised

    given = next((each for each in (head_scores, ffn_scores, layer_scores) if each is not None), None)
    if given is None:
        raise ArgumentError("no scores to rank; expected those of heads, of FFNs, of layers or of several")
    if order not in ORDERS:
        raise ArgumentError(f"order {order!r}: unknown; expected one of {', '.join(ORDERS)}")
    if without_scores is not None and layout != "global":
        raise ArgumentError(
            f"layout={layout} and without_importance exclude one another: the share is of the whole model"
        )
    first, last = _layer_range(layers, len(given))
    generator = torch.Generator().manual_seed(seed)

    def ranked(scores: Tensor | None) -> Tensor | None:
        if scores is None:
            return None
        if order == "random":
            return torch.rand(scores.shape, generator=generator)[first : last + 1]
        scores = normalised(scores, normalisation if scores.dim() == 2 else "none")
        if without_scores is not None and scores.dim() == 2:
            groups: dict[str, Any] = {"unit": unit, "num_key_value_heads": num_key_value_heads}
            return places_without(scores, without_scores, leave_out, head_fraction, layers=(first, last), **groups)
        scores = scores[first : last + 1]
        return -scores if order == "most" else scores

    part = PruningMask.dense(last + 1 - first, num_attention_heads)
    if head_scores is not None or ffn_scores is not None:
        part = PruningMask.from_importance(
            head_scores=ranked(head_scores),
            head_fraction=head_fraction,
            ffn_scores=ranked(ffn_scores),
            ffn_fraction=ffn_fraction,
            num_attention_heads=num_attention_heads,
            unit=unit,
            layout=layout,
            num_key_value_heads=num_key_value_heads,
        )
    of_layers = ranked(layer_scores)
    for layer in lowest([] if of_layers is None else of_layers.tolist(), parse_fraction(layer_fraction)):
        part = part.prune_layer(layer)
    return PruningMask(
        num_hidden_layers=len(given),
        num_attention_heads=num_attention_heads,
        pruned_heads={first + layer: heads for layer, heads in part.pruned_heads.items()},
        pruned_ffns=tuple(first + layer for layer in part.pruned_ffns),
    )


def random_mask(
    num_hidden_layers: int,
    num_attention_heads: int,
    *,
    prune_heads: Share = 0,
    prune_ffns: Share = 0,
    prune_layers: Share = 0,
    layers: tuple[int, int] | None = None,
    seed: int = 1234,
    unit: str = "head",
    layout: str = "global",
    num_key_value_heads: int | None = None,
) -> PruningMask:
    """A mask of random heads, FFNs and whole layers, the same for the same arguments, which its provenance names."""
    import torch

    require_possible(num_hidden_layers, num_attention_heads)
    mask = ranked_mask(
        num_attention_heads=num_attention_heads,
        head_scores=torch.zeros(num_hidden_layers, num_attention_heads),
        head_fraction=parse_fraction(prune_heads, "prune_heads"),
        ffn_scores=torch.zeros(num_hidden_layers),
        ffn_fraction=parse_fraction(prune_ffns, "prune_ffns"),
        layer_scores=torch.zeros(num_hidden_layers),
        layer_fraction=parse_fraction(prune_layers, "prune_layers"),
        order="random",
        layers=layers,
        seed=seed,
        unit=unit,
        layout=layout,
        num_key_value_heads=num_key_value_heads,
    )
    shares = {"prune_heads": float(Fraction(str(prune_heads))), "prune_ffns": float(Fraction(str(prune_ffns)))}
    chosen: dict[str, Any] = {"layers": list(layers)} if layers else {}
    if whole := Fraction(str(prune_layers)):
        chosen["prune_layers"] = float(whole)
    if unit != "head":
        chosen |= {"unit": unit, "num_key_value_heads": num_key_value_heads}
    if layout != "global":
        chosen |= {"layout": layout, "num_key_value_heads": num_key_value_heads}
    return replace(mask, provenance={"order": "random", "seed": seed, **shares, **chosen})


def _layer_range(layers: tuple[int, int] | None, num_hidden_layers: int) -> tuple[int, int]:
    if layers is None:
        return 0, num_hidden_layers - 1
    first, last = layers
    if not 0 <= first <= last < num_hidden_layers:
        raise ArgumentError(f"layers {first}-{last}: expected a range within 0-{num_hidden_layers - 1}")
    return first, last
