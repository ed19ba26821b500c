"""Masks that grow in steps: what goes next is what the mask so far has made least important.

A ranking that is rescored with step s prunes a share f like this: by the scores of the dense model up to s, by the
scores under that mask up to 2s, and so on; the last step ends at f. What has gone stays gone, so that the mask of a
smaller share lies within that of every larger one. Heads and FFNs are grown apart: while heads are scored no FFN is
pruned, and the other way round.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from lm_eval_prune.components import heads_per_unit
from lm_eval_prune.fractions import number_pruned
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.sweep.ranking import Ranking

__all__ = ["grown", "grown_in_steps", "steps_to"]


def steps_to(step: Fraction, share: Fraction) -> list[Fraction]:
    """Where each step on the way to `share` ends; the last is `share`."""
    before = itertools.takewhile(lambda end: end < share, (step * number for number in itertools.count(1)))
    return [*before, share]


def grown_in_steps(
    ranking: Ranking,
    share: Fraction,
    shape: tuple[int, int],
    scores_under: Callable[[PruningMask | None], ImportanceScores],
    num_key_value_heads: int | None = None,
    made: dict[Fraction, PruningMask] | None = None,
) -> PruningMask:
    """The mask that `ranking` prunes to `share`; `scores_under` is asked for scores under the mask of each step.

    It is asked with None for those of the dense model, and may raise: then nothing can be told of later steps.
    `made` keeps the masks of all ends for further calls with the same scores.
    """
    assert ranking.step is not None
    made = {} if made is None else made
    choice: Any = {"order": ranking.order, "unit": ranking.unit, "num_key_value_heads": num_key_value_heads}
    mask = PruningMask.dense(*shape)
    for end in steps_to(ranking.step, share):
        scores = scores_under(None if mask.is_dense else mask)
        if end not in made:
            made[end] = grown(mask, scores, end, **choice)
        mask = made[end]
    return mask


def grown(
    mask: PruningMask,
    scores: ImportanceScores,
    share: Fraction,
    *,
    order: str = "least",
    unit: str = "head",
    num_key_value_heads: int | None = None,
) -> PruningMask:
    """`mask`, and what comes first in `order` of the heads (or FFNs) that it keeps, up to floor(share x n) in all.

    With `unit="kv_group"` whole groups go, by the sums of their heads' scores. Of equal scores the lower (layer, head)
    goes first. `mask` prunes whole units.
    """
    layers, heads = scores.shape
    nothing = PruningMask.dense(layers, heads)
    sign = -1.0 if order == "most" else 1.0
    if scores.component == "ffns":
        gone = set(mask.pruned_ffns)
        number = number_pruned(share, layers) - len(gone)
        rest = sorted((sign * float(scores.scores[layer]), layer) for layer in range(layers) if layer not in gone)  # type: ignore[arg-type]
        return mask | replace(nothing, pruned_ffns=tuple(layer for _, layer in rest[: max(0, number)]))
    size = heads_per_unit(unit, heads, num_key_value_heads)
    places = [(layer, first) for layer in range(layers) for first in range(0, heads, size)]
    kept = [(layer, first) for layer, first in places if first not in mask.pruned_heads.get(layer, ())]
    number = number_pruned(share, len(places)) - (len(places) - len(kept))
    sums = {(layer, first): math.fsum(scores.scores[layer][first : first + size]) for layer, first in kept}  # type: ignore[index]
    chosen = sorted(kept, key=lambda place: (sign * sums[place], place))[: max(0, number)]
    by_layer: dict[int, tuple[int, ...]] = {}
    for layer, first in chosen:
        by_layer[layer] = (*by_layer.get(layer, ()), *range(first, first + size))
    return mask | replace(nothing, pruned_heads=by_layer)
