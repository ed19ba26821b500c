"""Importance scores as users hand them over (lists, arrays, tensors), checked; and which of them are the lowest."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from lm_eval_prune.errors import MaskError, MaskShapeError
from lm_eval_prune.fractions import number_pruned

__all__ = ["RANKED", "lowest", "lowest_heads", "plain", "score_rows"]

RANKED = ("global", "uniform")
"""Over what heads are ranked: the whole model, or each layer apart, so that all layers lose as many."""


def plain(scores: Any) -> Any:
    """Nested lists of Python numbers from a tensor, an array, lists, or what NumPy makes an array of."""
    if not hasattr(scores, "tolist") and hasattr(scores, "__array__"):  # ImportanceScores, data frames
        scores = scores.__array__()
    return scores.tolist() if hasattr(scores, "tolist") else scores


def score_rows(scores: Any, name: str) -> list[list[float]]:
    """Rows of finite scores, all of one length. Raises MaskShapeError, MaskError, which begin with `name`."""
    rows = plain(scores)
    try:
        checked = [[float(score) for score in row] for row in rows]
    except TypeError:
        shape = "(num_hidden_layers, num_attention_heads)" if name == "head_scores" else "(num_hidden_layers,)"
        raise MaskShapeError(f"{name}: expected numbers of shape {shape}") from None
    if not checked or not checked[0] or any(len(row) != len(checked[0]) for row in checked):
        raise MaskShapeError(f"{name}: rows are empty or of different lengths")
    for layer, row in enumerate(checked):
        for index, score in enumerate(row):
            if not math.isfinite(score):
                place = f"layer {layer}, head {index}" if name == "head_scores" else f"layer {index}"
                raise MaskError(f"{name}: {place} is {score}; scores must be finite")
    return checked


def lowest(scores: list[float], fraction: Fraction) -> list[int]:
    """Indices of the floor(fraction * n) lowest scores, ascending; of equal scores the lower index goes first."""
    ranked = sorted(range(len(scores)), key=lambda index: (scores[index], index))
    return sorted(ranked[: number_pruned(fraction, len(scores))])


def lowest_heads(
    rows: list[list[float]], fraction: Fraction, share: int = 1, *, layout: str = "global", groups: int | None = None
) -> dict[int, tuple[int, ...]]:
    """Layer -> the heads that go: those of the floor(fraction * n) units of `share` heads with the lowest sums.

    With `layout="uniform"` n is a layer's units, and every layer loses as many. Where single heads go that share
    `groups` key/value heads, n is a group's heads, and every group loses as many: what a model with one number of
    heads in all layers can have. Raises MaskError for another layout.
    """
    if layout not in RANKED:
        raise MaskError(f"layout={layout}: unknown; expected {' or '.join(RANKED)}")
    if not rows:
        return {}
    width = len(rows[0])
    units = [math.fsum(row[at : at + share]) for row in rows for at in range(0, width, share)]
    of_layer = width // share
    together = len(units)
    if layout == "uniform":
        shared = share == 1 and groups is not None and groups < width
        together = of_layer // groups if shared and groups else of_layer
    pruned: dict[int, list[int]] = {}
    for first in range(0, len(units), together):
        for index in lowest(units[first : first + together], fraction):
            layer, unit = divmod(first + index, of_layer)
            pruned.setdefault(layer, []).extend(range(unit * share, (unit + 1) * share))
    return {layer: tuple(heads) for layer, heads in pruned.items()}
