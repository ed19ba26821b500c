"""Importance scores as users hand them over (lists, arrays, tensors), checked; and which of them are the lowest."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from lm_eval_prune.errors import MaskError, MaskShapeError
from lm_eval_prune.fractions import number_pruned

__all__ = ["lowest", "plain", "score_rows"]


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
