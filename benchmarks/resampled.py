"""Recorded changes drawn again from a population that loses exactly so much.

Of each task the units that were recorded (passages, or documents by themselves) are drawn with replacement, each with a
chance in proportion to exp(tilt * sum of its changes): units that lost come more often and those that gained more
rarely, or the other way round, until the tasks' average is the loss that is asked for (exponential tilting: Efron,
Canadian Journal of Statistics 9 (1981) 139-172). Whole passages stay whole; their documents are seen in a random order,
as a sweep sees them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

from lm_eval_prune.sequential import Look, looks, looks_for
from lm_eval_prune.sum_intervals import SumOfChanges, least_sum, sum_lower_limit
from lm_eval_prune.unit_intervals import UnitChanges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Recorded", "claims_at", "simulated", "tilted", "within_at_any_look"]

STRONGEST = 30.0
"""Tilt that is looked for, to both sides."""


class Recorded(NamedTuple):
    """The changes of one task, by unit."""

    changes: Floats
    """(units, documents of the largest); 0 behind the others'."""
    sizes: NDArray[np.int64]
    """(units,): documents of each."""

    @classmethod
    def of(cls, changes: Sequence[float], units: Sequence[str] | None) -> Recorded:
        numbers = np.arange(len(changes)) if units is None else np.unique(np.array(units), return_inverse=True)[1]
        sizes = np.bincount(numbers)
        found = np.zeros((len(sizes), sizes.max()))
        for unit in range(len(sizes)):
            found[unit, : sizes[unit]] = np.asarray(changes)[numbers == unit]
        return cls(found, sizes)

    def chances(self, tilt: float) -> Floats:
        """(units,): of being drawn."""
        exponents = tilt * self.changes.sum(-1)
        weights = np.exp(exponents - exponents.max())
        return weights / weights.sum()

    def mean(self, tilt: float) -> float:
        """The change of a document in the population."""
        chances = self.chances(tilt)
        return float((chances * self.changes.sum(-1)).sum() / (chances * self.sizes).sum())


def tilted(tasks: Sequence[Recorded], loss: float) -> float | None:
    """The tilt at which the tasks' average loss is `loss`; None where too little was lost, or all."""

    def beyond(tilt: float) -> float:
        return float(np.mean([task.mean(tilt) for task in tasks])) + loss

    if not beyond(-STRONGEST) < 0 < beyond(STRONGEST):
        return None
    return float(brentq(beyond, -STRONGEST, STRONGEST, xtol=1e-12))


def within_at_any_look(
    tasks: Sequence[Recorded],
    tilt: float,
    looks: Sequence[Look],
    margin: float,
    replicates: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """(replicates,): whether the average loss was said to be within the margin at one of the looks or more."""
    drawn = [_Drawn(task, tilt, replicates, rng) for task in tasks]
    within = np.zeros(replicates, bool)
    for look in looks:
        parts = [one.until(look.share) for one in drawn]
        kinds = max(part.sums.size for part in parts)
        filled = np.zeros((3, replicates, len(tasks), kinds))
        filled[1] = 1.0
        for place, part in enumerate(parts):
            own = filled[:, :, place, : part.sums.size]
            own[0], own[1], own[2] = part.sums, part.sizes, part.counts
        within |= claims_at(SumOfChanges(UnitChanges(*filled), np.full(len(tasks), 1 / len(tasks))), look, margin)
    return within


def claims_at(tasks: SumOfChanges, look: Look, margin: float) -> NDArray[np.bool_]:
    """(replicates,): whether a look says that the loss is within the margin, as `sweep.decisions.verdict_of` does."""
    weights = tuple(tasks.weights)
    found = np.array(tasks.value >= -margin)
    for place in np.flatnonzero(found):
        # Units tell what few of them can exclude; those of documents by themselves are the same in all replicates.
        found[place] = least_sum(weights, tuple(tasks.changes.units[place].tolist()), look.z) <= margin
    if found.any():
        own = SumOfChanges(UnitChanges(*(part[found] for part in tasks.changes)), tasks.weights)
        found[found] = sum_lower_limit(own, look.z) >= -margin
    return found


class _Drawn:
    """Replicates of one task, whose documents are seen in a random order."""

    def __init__(self, task: Recorded, tilt: float, replicates: int, rng: np.random.Generator) -> None:
        units = len(task.sizes)
        chosen = rng.choice(units, size=(replicates, units), p=task.chances(tilt))
        self.changes = task.changes[chosen]  # (replicates, units, documents of the largest)
        self.there = np.arange(task.changes.shape[1]) < task.sizes[chosen][..., None]
        keys = np.where(self.there, rng.random(self.there.shape), np.inf).reshape(replicates, -1)
        self.ranks = keys.argsort(-1).argsort(-1).reshape(self.there.shape)
        self.documents = self.there.sum((1, 2))

    def until(self, share: float) -> UnitChanges:
        """The kinds of units by the documents seen: kinds of all replicates, (kinds,), and their counts."""
        seen = self.there & (self.ranks < np.ceil(share * self.documents)[:, None, None])
        sums, sizes = np.where(seen, self.changes, 0.0).sum(-1), seen.sum(-1)
        kinds, places = np.unique(np.round(sums, 12) + 1j * sizes, return_inverse=True)
        replicate = np.arange(len(sums))[:, None] * kinds.size
        counts = np.bincount((replicate + places.reshape(sums.shape)).ravel(), minlength=len(sums) * kinds.size)
        counts = np.where(kinds.imag > 0, counts.reshape(len(sums), -1), 0)
        return UnitChanges(kinds.real, np.maximum(kinds.imag, 1.0), counts.astype(float))


def simulated(changes: dict[str, list[Recorded]], margin: float, replicates: int) -> dict[str, Any]:
    """Over the rows that can be called within it; those with most wrong calls are drawn anew, ten times as often."""
    rng = np.random.default_rng(0)
    wrong: dict[str, float] = {}
    kinds: Counter[str] = Counter()
    populations = {}
    for name, tasks in changes.items():
        planned = looks(looks_for(sum(int(task.sizes.sum()) for task in tasks)))
        weights = tuple(1 / len(tasks) for _ in tasks)
        units = tuple(float(task.sizes.sum() ** 2 / (task.sizes**2).sum()) for task in tasks)
        if least_sum(weights, units, planned[-1].z) > margin:
            kinds["too few documents to say it ever"] += 1
        elif (tilt := tilted(tasks, margin)) is None:
            kinds["nothing recorded that was lost"] += 1
        else:
            populations[name] = tasks, tilt, planned
            found = within_at_any_look(*populations[name], margin, replicates, rng)
            wrong[name] = 100 * float(found.mean())
            print(f"{wrong[name]:.2f}", name, flush=True)
    most = sorted(wrong, key=wrong.__getitem__, reverse=True)[:3]
    again = {
        name: 100 * float(within_at_any_look(*populations[name], margin, 10 * replicates, rng).mean()) for name in most
    }
    return {
        "rows": len(wrong),
        "left_out": dict(kinds),
        "within": float(np.mean(list(wrong.values()))) if wrong else None,
        "most_drawn_anew": again,
    }
