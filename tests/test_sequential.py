"""Verdicts at several looks: all outcomes of all looks are counted, so errors are exact, over every stopping time."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import scipy.signal
import scipy.stats

from lm_eval_prune.intervals import Changes, Z, score_p, score_statistic
from lm_eval_prune.sequential import LEVEL, chance_of_reaching, documents_at, looks, looks_for, path_length

MARGIN = 0.01


def grown(before, documents, gain, loss):
    """(gained, lost) chances after so many more documents, from those before; rare outcomes are cut off."""
    most = [int(documents * share + 12 * np.sqrt(documents * share) + 12 * (share > 0)) + 1 for share in (gain, loss)]
    gained, lost = np.ogrid[: most[0], : most[1]]
    rest = documents - gained - lost
    more = np.where(
        rest >= 0,
        scipy.stats.binom.pmf(gained, documents, gain)
        * scipy.stats.binom.pmf(lost, np.maximum(documents - gained, 0), loss / (1 - gain)),
        0,
    )
    return scipy.signal.fftconvolve(before, more).clip(0) if before.size > 1 else before * more


@functools.cache
def outcomes(documents, gain, loss, stages=1):
    """(chance that an interval ever excludes a loss of the margin, that a difference is shown, mean documents)."""
    planned = looks(looks_for(documents), stages)
    chances, read, used, within, different = np.ones((1, 1)), 0, 0.0, 0.0, 0.0
    sizes = [int(np.ceil(documents * look.share)) + documents * look.stage for look in planned]
    for look, size in zip(planned, sizes, strict=True):
        chances = grown(chances, size - read, gain, loss)
        used += chances.sum() * (size - read)
        read = size
        gained, lost = (grid.astype(float) for grid in np.indices(chances.shape))
        changes = Changes(float(read), gained, np.minimum(lost, read - gained))
        shown = score_p(changes) * look.factor < LEVEL
        kept = score_statistic(changes, -MARGIN) >= look.z
        within += chances[kept].sum()
        different += chances[shown & ~kept].sum()
        chances = np.where(kept | shown, 0, chances)
    return within, different, used


@pytest.mark.parametrize(("documents", "gain"), [(405, 0.0), (500, 0.005), (1172, 0.0), (3270, 0.01)])
def test_a_loss_of_the_margin_is_rarely_within_it_at_any_look(documents, gain):
    assert outcomes(documents, gain, gain + MARGIN)[0] <= 0.025


@pytest.mark.parametrize(("documents", "gain"), [(56, 0.1), (200, 0.02), (500, 0.005), (3270, 0.01)])
def test_where_nothing_is_lost_a_difference_is_rarely_shown_at_any_look(documents, gain):
    within, different, _ = outcomes(documents, gain, gain)
    assert different <= 0.05
    assert within + different <= 1


def test_a_limit_that_was_raised_spends_what_was_kept():
    within, _, _ = outcomes(500, 0.005, 0.015, stages=2)
    assert outcomes(500, 0.005, 0.015)[0] < within <= 0.025


@pytest.mark.parametrize(("loss", "most"), [(0.05, 900), (0.2, 150)])
def test_large_losses_are_seen_soon(loss, most):
    _, different, used = outcomes(3270, 0.02, 0.02 + loss)
    assert different > 0.97
    assert used < most


def test_little_is_lost_against_one_look():
    within, _, used = outcomes(3270, 0.01, 0.01)
    once = scipy.stats.multinomial.rvs(3270, [0.01, 0.01, 0.98], size=4000, random_state=0).T[:2].astype(float)
    assert within >= 0.9 * (score_statistic(Changes(3270.0, *once), -MARGIN) >= Z).mean()
    assert used < 3270


@pytest.mark.parametrize(("count", "stages", "tests"), [(1, 1, 1), (5, 1, 1), (5, 3, 1), (8, 2, 4)])
def test_the_level_is_spent_once(count, stages, tests):
    found = looks(count, stages, tests)
    assert [look.number for look in found] == list(range(count * stages))
    both = 2 * scipy.stats.norm.sf([look.z for look in found])
    assert 0.949 * LEVEL / tests <= both.sum() <= LEVEL / tests
    assert sum(LEVEL / look.factor for look in found) == pytest.approx(both.sum())
    assert [look.share for look in found[:count]] == [2.0 ** (place + 1 - count) for place in range(count)]


@pytest.mark.parametrize(("documents", "expected"), [(1, 1), (49, 1), (50, 2), (1600, 7), (10**9, 12)])
def test_each_look_has_twice_the_documents_of_the_one_before(documents, expected):
    assert looks_for(documents) == expected


@pytest.mark.parametrize(("total", "limits"), [(320, [None]), (60, [60, None]), (1000, [60, 200, 0.5]), (3, [1, 2])])
def test_documents_only_come_on_top_and_end_with_those_of_the_limit(total, limits):
    planned = looks(4, len(limits))
    taken = [documents_at(total, limits, look, 1234, "piqa") for look in planned]
    for before, after in itertools.pairwise(taken):
        assert set(before) <= set(after)
    for stage, limit in enumerate(limits):
        until = total if limit is None else min(total, int(np.ceil(total * limit)) if limit < 1 else limit)
        assert taken[4 * stage + 3] == list(range(until))
        assert taken[: 4 * stage + 4] == [
            documents_at(total, limits[: stage + 1], look, 1234, "piqa") for look in planned[: 4 * stage + 4]
        ]
    assert all(found == sorted(set(found)) for found in taken)


def test_the_order_is_random_and_the_seeds():
    first = looks(3)[0]
    found = {(seed, task): tuple(documents_at(400, [None], first, seed, task)) for seed in (1, 2) for task in "ab"}
    assert len(set(found.values())) == 4
    assert all(abs(np.mean(numbers) - 200) < 50 for numbers in found.values())


@pytest.mark.parametrize(("shares", "expected"), [(1, 1), (2, 2), (3, 2), (4, 3), (9, 4)])
def test_a_halving_asks_about_few_shares(shares, expected):
    assert path_length(shares) == expected


@pytest.mark.parametrize(
    ("distance", "error", "share"), [(0.01, 0.01, 0.25), (-0.005, 0.02, 0.5), (0.02, 0.004, 0.125)]
)
def test_the_chance_of_reaching_is_that_of_a_simulation(distance, error, share):
    rng = np.random.default_rng(0)
    truth = distance + error * rng.standard_normal(200_000)
    rest = truth + error * np.sqrt(share / (1 - share)) * rng.standard_normal(200_000)
    reached = share * distance + (1 - share) * rest >= 2.0 * error * np.sqrt(share)
    assert chance_of_reaching(distance, error, share, 2.0) == pytest.approx(reached.mean(), abs=0.005)
