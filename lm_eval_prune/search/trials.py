"""Trials: how far importance is trusted at each depth, and for FFNs against heads; proposed by optuna.

A trial multiplies the units' values before the knapsack: by a factor for all FFNs, and by factors over depth, given at
the first and the last layer and two between and interpolated in their logarithms. So every trial meets the budget, and
there are nine numbers to choose whatever the model's size. Trial 0 has no factors: it is the plain knapsack.

Trials come in batches of a fixed size, and each batch is proposed from all results before it with a seeded sampler: the
same results give the same trials, in whichever process and however often the search was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.search.budget import Unit

__all__ = ["Proposer", "require_optuna", "weighted"]

KNOTS = 4
REACH = 2.0
"""Of a factor's natural logarithm, to both sides."""
NAMES = ("ffns", *(f"{kind}_{knot}" for kind in ("heads", "ffns") for knot in range(KNOTS)))


def weighted(units: Sequence[Unit], values: np.ndarray, factors: Mapping[str, float]) -> np.ndarray:
    """The values times what the logarithms `factors` say; without any, as they are."""
    if not factors:
        return values
    last = max(1, max(unit.layer for unit in units))
    at = np.linspace(0, 1, KNOTS)
    logs = []
    for unit in units:
        kind = "heads" if unit.heads else "ffns"
        depth = float(np.interp(unit.layer / last, at, [factors[f"{kind}_{knot}"] for knot in range(KNOTS)]))
        logs.append(depth + (0.0 if unit.heads else factors["ffns"]))
    return values * np.exp(logs)


class Proposer:
    """Asks optuna for factors, and tells it what came of them."""

    def __init__(self, seed: int) -> None:
        optuna = require_optuna()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._failed = optuna.trial.TrialState.FAIL
        self._study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def known(self, value: float) -> None:
        """Trial 0's result."""
        self._study.enqueue_trial(dict.fromkeys(NAMES, 0.0))
        ((trial, _),) = self.ask(1)
        self.tell([trial], [value])

    def ask(self, count: int) -> list[tuple[Any, dict[str, float]]]:
        """So many trials with their factors, none of which knows of another's result."""
        trials = [self._study.ask() for _ in range(count)]
        return [(trial, {name: trial.suggest_float(name, -REACH, REACH) for name in NAMES}) for trial in trials]

    def tell(self, trials: Sequence[Any], values: Sequence[float | None]) -> None:
        """What came of them, in their order; None of one that could not be computed."""
        for trial, value in zip(trials, values, strict=True):
            if value is None:
                self._study.tell(trial, state=self._failed)
            else:
                self._study.tell(trial, value)


def require_optuna() -> Any:
    """The package. Raises ArgumentError that says how to get it."""
    try:
        import optuna
    except ImportError:
        raise ArgumentError(
            "a search with trials needs the package optuna: pip install 'lm-eval-prune[search]'; --trials 0 takes the "
            "knapsack's choice without"
        ) from None
    return optuna
