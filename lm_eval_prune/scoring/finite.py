"""A model that computes no numbers gives no results: log-likelihoods that are not finite are an error of one line."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lm_eval_prune.errors import ScoreError

__all__ = ["ADVICE", "named", "require_finite"]

ADVICE = "the model's weights are not finite, or it overflows in this dtype (try dtype=float32)"


def require_finite(log_likelihoods: Iterable[float], where: str) -> None:
    """Raise ScoreError that names the first value which is none; `where` says whose they are."""
    for number, value in enumerate(log_likelihoods):
        if not math.isfinite(value):
            raise ScoreError(f"{where}: the log-likelihood of request {number} is {named(value)}: {ADVICE}")


def named(value: float) -> str:
    """What a number that is none is called."""
    return "NaN" if math.isnan(value) else f"{value}, not finite"
