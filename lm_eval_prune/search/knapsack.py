"""The most valuable units that a budget can keep: a 0/1 knapsack, solved to the optimum by HiGHS (scipy).

A unit's value is its importance, made comparable: scores of groups of heads, and of FFNs, are each shifted so that the
least is 0 and divided by their sum. What the least important ones are worth beside that is so little that it only
breaks ties: nothing goes that the budget can keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.search.budget import Costs, Unit

__all__ = ["best_kept", "unit_values"]

LEAST = 1e-9
"""Of a unit's value."""


def unit_values(units: Sequence[Unit], heads: ImportanceScores | None, ffns: ImportanceScores | None) -> np.ndarray:
    """A value for each unit: the heads' add up to 1, and so do the FFNs'."""
    found = np.zeros(len(units))
    for scores, of_heads in ((heads, True), (ffns, False)):
        places = [place for place, unit in enumerate(units) if bool(unit.heads) == of_heads]
        if scores is None or not places:
            continue
        array = np.asarray(scores)
        sums = [
            math.fsum(array[unit.layer, list(unit.heads)]) if of_heads else float(array[unit.layer])
            for unit in (units[place] for place in places)
        ]
        shifted = np.array(sums) - min(sums)
        found[places] = shifted / shifted.sum() if shifted.sum() > 0 else 1 / len(places)
    return found


def best_kept(units: Sequence[Unit], values: np.ndarray, costs: Costs) -> list[Unit]:
    """The units that go, such that what is kept is worth the most and the model costs at most what it may.

    Raises ArgumentError where the budget is below what cannot go at all.
    """
    own = np.array([costs.of(unit) for unit in units], dtype=np.int64)
    of_layers = _heads_by_layer(units) if costs.last_of_a_layer else []
    to_save = costs.total - costs.allowed

    def saved(gone: np.ndarray) -> int:
        return int(own[gone].sum()) + costs.last_of_a_layer * sum(bool(gone[places].all()) for places in of_layers)

    if (most := saved(np.ones(len(units), dtype=bool))) < to_save:
        least = 1 - most / costs.total
        raise ArgumentError(
            f"budget {costs.budget}: all that may go leaves {least:.3f} of them; expected more, or heads and FFNs both"
        )
    # What goes is to be worth the least, and to save enough: in units of what all costs are multiples of. Behind the
    # units stands for each layer whether all its heads go: no more than any of them does.
    unit = math.gcd(costs.last_of_a_layer, *(int(cost) for cost in own)) or 1
    saves = np.append(own, np.full(len(of_layers), costs.last_of_a_layer)) // unit
    rules = [LinearConstraint(saves[None, :].astype(float), math.ceil(to_save / unit), np.inf)]
    for number, places in enumerate(of_layers, len(units)):
        rule = np.zeros((len(places), len(saves)))
        rule[range(len(places)), places], rule[:, number] = 1, -1
        rules.append(LinearConstraint(rule, 0, np.inf))
    solved = milp(
        np.append(values + LEAST, np.zeros(len(of_layers))),
        integrality=np.ones(len(saves)),
        bounds=Bounds(0, 1),
        constraints=rules,
        options={"mip_rel_gap": 0.0, "time_limit": 60.0},
    )
    if solved.x is None:
        raise PruneError(f"budget {costs.budget}: no choice was found: {solved.message}")
    gone = solved.x[: len(units)] > 0.5
    for place in np.argsort(values, kind="stable"):  # the solver's tolerance may leave a few parameters too many
        if saved(gone) >= to_save:
            break
        gone[place] = True
    return [unit for unit, goes in zip(units, gone, strict=True) if goes]


def _heads_by_layer(units: Sequence[Unit]) -> list[list[int]]:
    """For each layer with heads among the units, where those stand."""
    found: dict[int, list[int]] = {}
    for place, unit in enumerate(units):
        if unit.heads:
            found.setdefault(unit.layer, []).append(place)
    return list(found.values())
