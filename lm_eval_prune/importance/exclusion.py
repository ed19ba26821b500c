"""Heads ranked by one score, the top ones by another left out (Yin and Steinhardt 2025, arXiv 2502.14010, section 4).

Function-vector heads and induction heads are correlated: a top head by the one score is often near the top by the
other. To prune by one alone, the top share by the other is left out of the ranking; what remains keeps its order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_prune.components import heads_per_unit
from lm_eval_prune.errors import FractionError, MaskShapeError
from lm_eval_prune.fractions import number_pruned, parse_fraction

if TYPE_CHECKING:
    from decimal import Decimal
    from fractions import Fraction

    from torch import Tensor

    Share = str | int | float | Decimal | Fraction

__all__ = ["LEFT_OUT", "places_without"]

LEFT_OUT = "0.02"
"""Of all heads, the share that the paper and its code leave out."""


def places_without(
    scores: Tensor,
    others: Tensor,
    share: Share,
    fraction: Share,
    *,
    layers: tuple[int, int] | None = None,
    unit: str = "head",
    num_key_value_heads: int | None = None,
) -> Tensor:
    """The place of each head in a ranking of the highest `scores` first, the top `share` by `others` behind all others.

    scores, others: (num_hidden_layers, num_attention_heads), larger is higher. floor(share * n) of all heads are left
    out; of equal scores the lower (layer, head) is higher, in both. With another `unit` heads go together, by the sum
    of their scores, and n is the number of units.
    Returns float64, from 0 for the highest, of the first to the last of `layers`. Raises FractionError where `fraction`
    of the units there is more than are left, MaskShapeError for scores of different models.
    """
    import torch

    if scores.shape != others.shape:
        raise MaskShapeError(
            "scores of {} layers of {} heads, left out by those of {} of {}".format(*scores.shape, *others.shape)
        )
    num_layers, heads = scores.shape
    size = heads_per_unit(unit, heads, num_key_value_heads)
    own, other = (each.double().view(-1, size).sum(-1) for each in (scores, others))
    number = len(own)
    place = torch.empty(number, dtype=torch.float64)
    place[(-own).sort(stable=True).indices] = torch.arange(number, dtype=torch.float64)
    left_out = number_pruned(parse_fraction(share, "the share left out"), number)
    place[(-other).sort(stable=True).indices[:left_out]] += number
    first, last = layers or (0, num_layers - 1)
    found = place.view(num_layers, -1)[first : last + 1]
    asked, left = number_pruned(parse_fraction(fraction), found.numel()), int((found < number).sum())
    if asked > left:
        raise FractionError(
            f"{asked} {unit}s to prune of {found.numel()}, but {found.numel() - left} are left out; prune or leave out "
            "less"
        )
    return found.repeat_interleave(size, dim=1)
