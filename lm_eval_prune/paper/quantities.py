"""What a run says to a claim, by name: a number with its 95 % interval, over documents, tasks or sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_prune.paper.accuracies import gain_over, loss, loss_over
from lm_eval_prune.paper.capacities import (
    heads_for_half,
    heads_for_half_over,
    in_last_layers,
    overlap_with_induction,
    retained,
    retained_by_mean,
    retained_by_mean_at,
    retained_by_mean_over,
    retained_over,
)
from lm_eval_prune.paper.evidence import Evidence
from lm_eval_prune.paper.measuring import Measured
from lm_eval_prune.paper.rankings import (
    agreement_of_shots,
    agreement_of_shots_over,
    agreement_of_tasks,
    agreement_with_mean,
    early_ffns,
    important_in_middle,
    later_ffns,
    overlap_of_tasks,
)

__all__ = ["QUANTITIES", "Quantity", "measured"]


@dataclass(frozen=True)
class Quantity:
    """How a quantity is measured; None is no data."""

    name: str
    """As a table calls it."""
    measure: Callable[..., Measured | None]


QUANTITIES: dict[str, Quantity] = {
    "loss": Quantity("accuracy lost", loss),
    "loss_over": Quantity("accuracy lost", loss_over),
    "gain_over": Quantity("accuracy gained", gain_over),
    "important_in_middle": Quantity("share above chance", important_in_middle),
    "early_ffns": Quantity("accuracy lost", early_ffns),
    "later_ffns": Quantity("importance above the first half's", later_ffns),
    "agreement_of_tasks": Quantity("Spearman's rho", agreement_of_tasks),
    "agreement_with_mean": Quantity("Spearman's rho", agreement_with_mean),
    "overlap_of_tasks": Quantity("share above chance", overlap_of_tasks),
    "overlap_with_induction": Quantity("share above chance", overlap_with_induction),
    "retained_by_mean": Quantity("share above chance", retained_by_mean),
    "retained": Quantity("share above chance", retained),
    "retained_over": Quantity("share retained, more", retained_over),
    "retained_by_mean_over": Quantity("share retained, more", retained_by_mean_over),
    "retained_by_mean_at": Quantity("share retained, more", retained_by_mean_at),
    "agreement_of_shots": Quantity("Spearman's rho", agreement_of_shots),
    "agreement_of_shots_over": Quantity("Spearman's rho, more", agreement_of_shots_over),
    "in_last_layers": Quantity("share of the score", in_last_layers),
    "heads_for_half_over": Quantity("share of the heads, more", heads_for_half_over),
    "heads_for_half": Quantity("share of the heads", heads_for_half),
}
"""Name in a claim -> how it is measured: (evidence, **where, threshold) -> Measured, or None without data."""


def measured(evidence: Evidence, quantity: str, where: Mapping[str, Any], threshold: float) -> Measured | None:
    """The quantity in this folder."""
    return QUANTITIES[quantity].measure(evidence, **where, threshold=threshold)
