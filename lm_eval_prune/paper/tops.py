"""The most important heads of a ranking, and what chance gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lm_eval_prune.analysis import kept_components, overlap
from lm_eval_prune.paper.measuring import Measured

__all__ = ["above_chance", "by_chance", "most_important", "overlap_above_chance"]

PRUNED = "0.7"
"""What it leaves are called the most important heads."""


def most_important(scores: np.ndarray) -> list[int]:
    """Flat places of the heads that stay when PRUNED of them go."""
    return sorted(kept_components(scores, PRUNED))


def overlap_above_chance(one: np.ndarray, other: np.ndarray) -> float:
    """The share of the most important heads that two rankings share, above that by chance."""
    (found,) = overlap(one, other, [PRUNED])
    return found.shared - found.by_chance


def by_chance(scores: Mapping[str, np.ndarray], pruned: str = PRUNED) -> float:
    """The share of the heads that stay, which is what random ones share and hold on average."""
    first = next(iter(scores.values()))
    return len(kept_components(first, pruned)) / first.size


def above_chance(found: Measured, chance: float) -> Measured:
    """With the share itself and that by chance as its note."""
    return replace(found, note=f"{found.value + chance:.3f}; by chance {chance:.3f}")
