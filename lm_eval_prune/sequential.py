"""Documents taken look by look, and what may be said at each look: intervals whose errors together are those of one.

The documents of a task come in a random order that is fixed before, and at planned numbers of them it is looked
whether the question is answered. Each look has a part of the level (alpha spending: Lan and DeMets, Biometrika 70
(1983) 659-663; the power family of Kim and DeMets, Biometrika 74 (1987) 149-154), and its interval is made at that
part. The parts add up to the level, so that by Bonferroni's inequality all intervals together miss the truth no more
often than one would: repeated confidence intervals (Jennison and Turnbull, JRSS B 51 (1989) 305-361). So a verdict may
be read at any look, and whatever rule stops (a walk, a halving, a user), it errs no more often.

Bounds that use the looks' correlation need a normal distribution of all looks together, which few changed documents do
not have, and gain little where looks double. Confidence sequences (Waudby-Smith and Ramdas, JRSS B 86 (2024) 1-27) hold
at every document; for that their intervals are wider where it counts, after all documents.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import ndtr, ndtri

from lm_eval_prune.limits import number_limited

__all__ = ["LEVEL", "Look", "chance_of_reaching", "documents_at", "looks", "looks_for", "path_length"]

LEVEL = 0.05
"""Of an interval: 2.5 % to each side."""
KEPT = 0.05
"""Share of the level that is kept for documents which come when all that were planned have been seen."""
WITHIN, DIFFERENT = 3.0, 1.0
"""Powers of the share of documents to which the level is spent: by intervals, and by p-values. A loss within the margin
is shown late if at all, so that little is spent on it before; a large loss is seen soon."""
FIRST = 25
"""Documents of all tasks together that the first look takes, or up to twice as many."""
MOST_LOOKS = 12


class Look(NamedTuple):
    """One look: which documents it is after, and what it takes to say something."""

    number: int
    """From 0."""
    stage: int
    """Of the limits planned so far, which one it is on the way to."""
    share: float
    """Of the documents that this limit adds."""
    z: float
    """Normal standard errors of its interval, to each side."""
    factor: float
    """By which its p-values are multiplied, to be compared with LEVEL."""


def looks_for(documents: int) -> int:
    """How many looks so many documents, of all tasks together, are worth: each has twice as many as the one before."""
    return min(MOST_LOOKS, 1 + max(0, math.floor(math.log2(max(documents, 1) / FIRST))))


def looks(count: int, stages: int = 1, tests: int = 1) -> list[Look]:
    """`count` looks for each of `stages` limits, one after another; of a level that as many `tests` have in common.

    All that is kept of a stage's level but KEPT of it is spent by its end.
    """
    found: list[Look] = []
    level = LEVEL / tests
    for stage in range(stages):
        spent = level * (1 - KEPT)
        level *= KEPT
        before = 0.0
        for place in range(count):
            share = 2.0 ** (place + 1 - count)
            interval = spent * (share**WITHIN - before**WITHIN)
            different = spent * (share**DIFFERENT - before**DIFFERENT)
            found.append(Look(len(found), stage, share, float(-ndtri(interval / 2)), LEVEL / different))
            before = share
    return found


def documents_at(total: int, limits: Sequence[float | None], look: Look, seed: int, task: str) -> list[int]:
    """The numbers of the documents that a look is after, of a task with `total`, sorted.

    limits: those planned so far, each at least the one before. What a later limit adds comes after all of an earlier
    one. The order is the same for all masks and all numbers of shots.
    """
    taken: list[int] = []
    before = 0
    for stage, limit in enumerate(limits[: look.stage + 1]):
        until = max(before, number_limited(total, limit))
        added = list(range(before, until))
        random.Random(f"{seed} {task} {stage}").shuffle(added)
        share = look.share if stage == look.stage else 1.0
        taken += added[: math.ceil(share * len(added))]
        before = until
    return sorted(taken)


def path_length(shares: int) -> int:
    """How many of so many shares a halving asks about at most."""
    return math.ceil(math.log2(shares + 1))


def chance_of_reaching(distance: float, error: float, share: float, z: float) -> float:
    """Predictive power: that, after all documents, a value will be `z` standard errors on the right side of a bound.

    distance: of the value now from the bound, above 0 on the right side. error: its standard error now, after `share`
    of the documents. What is to come is predicted from what was seen (Spiegelhalter, Freedman and Blackburn, Controlled
    Clinical Trials 7 (1986) 8-17, flat prior). It decides when to give up, which never makes a claim wrong.
    """
    if share >= 1 or error <= 0:
        return float(distance > 0)
    return float(ndtr((distance - z * error * math.sqrt(share)) / (error * math.sqrt(1 - share))))
