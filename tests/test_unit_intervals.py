"""Intervals over passages: likelihoods maximised by scipy, Tango's of single documents, and passages counted."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_prune.intervals import Changes, Z, score_limits, score_p, smallest_margin
from lm_eval_prune.unit_intervals import UnitChanges, lower_limit, unit_changes, unit_limits, unit_p


def documents_of(gained, lost, documents):
    return np.repeat([1.0, -1.0, 0.0], [gained, lost, documents - gained - lost])


@given(st.integers(2, 300), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_documents_by_themselves_have_tangos_interval_and_mcnemars_test(documents, first, second):
    gained = round(documents * first)
    lost = round((documents - gained) * second)
    changes = unit_changes(documents_of(gained, lost, documents))
    assert unit_limits(changes) == pytest.approx(score_limits(Changes(documents, gained, lost)), abs=1e-6)
    assert unit_p(changes) == pytest.approx(float(score_p(Changes(documents, gained, lost))), rel=1e-6)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 2), (0, 7), (30, 20)])
def test_passages_that_change_whole_count_as_one_document_each(gained, lost):
    changes = unit_changes(np.repeat(documents_of(gained, lost, 83), 58), np.repeat(np.arange(83), 58))
    assert unit_limits(changes) == pytest.approx(score_limits(Changes(83, gained, lost)), abs=1e-6)
    assert unit_p(changes) == pytest.approx(float(score_p(Changes(83, gained, lost))), rel=1e-6)
    assert (changes.units, changes.discordance) == pytest.approx((83, (gained + lost) / 83))


def statistic(sums, sizes, difference):
    """The score statistic from its definition: the most likely chances of what was seen and of a unit lost whole."""
    typical = (sizes**2).sum() / sizes.sum()
    gaps = np.append(sums - sizes * difference, -typical * (1 + difference))
    number = len(sums)
    start = np.append(np.full(number, 0.9 / number), 0.1)
    found = scipy.optimize.minimize(
        lambda chances: -np.log(chances[:-1]).mean(),
        start,
        jac=lambda chances: np.append(-1 / chances[:-1] / number, 0.0),
        constraints=[
            {"type": "eq", "fun": lambda c: c.sum() - 1, "jac": lambda c: np.ones(number + 1)},
            {"type": "eq", "fun": lambda c: c @ gaps, "jac": lambda c: gaps},
        ],
        bounds=[(1e-9, 1)] * number + [(0, 1)],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 2000},
    )
    assert found.success
    size = sizes.mean()
    gap = sums.sum() / sizes.sum() - difference - 3 / 16 * typical / sizes.sum()
    return gap / np.sqrt(found.x @ gaps**2 / number) * size


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", [0.05, 0.4])
def test_the_limit_is_where_the_maximised_likelihood_puts_it(seed, loss):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 6, 12)
    units = np.repeat(np.arange(12), sizes)
    changes = draw.choice([-1.0, 0.0, 1.0], units.size, p=[loss, 0.9 - loss, 0.1])
    sums = np.bincount(units, changes)
    low = float(lower_limit(unit_changes(changes, units)))
    assert statistic(sums, sizes.astype(float), low) == pytest.approx(Z, abs=2e-3)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_interval_holds_the_mean_and_agrees_with_the_p_value(data):
    seed = data.draw(st.integers(0, 10**6))
    draw = np.random.default_rng(seed)
    units = np.repeat(np.arange(draw.integers(1, 60)), draw.integers(1, 20))
    changes = draw.choice([-1.0, 0.0, 1.0], units.size, p=draw.dirichlet([1, 3, 1]))
    found = unit_changes(changes, units)
    low, high = unit_limits(found)
    assert -1 <= low <= changes.mean() + 1e-9
    assert changes.mean() - 1e-9 <= high <= 1
    assert unit_limits(found.mirrored) == pytest.approx((-high, -low), abs=1e-6)
    if abs(unit_p(found) - 0.05) > 1e-4:
        assert (low > 0 or high < 0) == (unit_p(found) < 0.05)


@pytest.mark.parametrize(
    ("passages", "size", "changed"), [(83, 58, 0.01), (83, 58, 0.05), (400, 58, 0.05), (40, 9, 0.0)]
)
def test_nothing_is_excluded_that_the_passages_drawn_may_have_missed(passages, size, changed):
    draw = np.random.default_rng(1)
    changes = draw.choice([-1.0, 0.0, 1.0], passages * size, p=[changed / 2, 1 - changed, changed / 2])
    low, high = unit_limits(unit_changes(changes, np.repeat(np.arange(passages), size)))
    missed = 1 - 0.05 ** (1 / passages)  # of 1 sample in 20 no passage is lost, where so many are
    for reach in (changes.mean() - low, high - changes.mean()):
        assert missed <= reach <= 1.1 * float(smallest_margin(passages))


def test_many_small_passages_have_the_interval_of_their_means():
    draw = np.random.default_rng(3)
    changes = draw.choice([-1.0, 0.0, 1.0], 30_000, p=[0.06, 0.9, 0.04])
    by_unit = changes.reshape(-1, 3).mean(1)
    expected = scipy.stats.norm.interval(0.95, by_unit.mean(), scipy.stats.sem(by_unit))
    found = unit_limits(unit_changes(changes, np.repeat(np.arange(10_000), 3)))
    assert found == pytest.approx(expected, abs=1e-4)


def test_samples_side_by_side_are_those_one_by_one():
    draw = np.random.default_rng(5)
    counts = draw.multinomial(200, [0.02, 0.05, 0.85, 0.05, 0.03], size=6).astype(float)
    counts[0] = [0, 0, 200, 0, 0]
    sums, sizes = np.broadcast_to(np.arange(-2.0, 3.0), counts.shape), np.full(counts.shape, 2.0)
    low, high = unit_limits(UnitChanges(sums, sizes, counts))
    for place, own in enumerate(counts.astype(int)):
        changes = np.concatenate([np.tile([s - s // 2, s // 2], n) for s, n in zip(range(-2, 3), own, strict=True)])
        alone = unit_limits(unit_changes(changes.clip(-1, 1), np.arange(400) // 2))
        assert (low[place], high[place]) == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("passages", [83, 400])
def test_changes_one_by_one_leave_room_for_passages_that_were_not_drawn(passages):
    """Why MultiRC's interval covers 100 % of changes one by one: the data are those of a loss of whole passages of
    which none was drawn, and one as large as is missed in 2.5 % of samples must be in it."""
    unseen = 1 - 0.025 ** (1 / passages)
    rng = np.random.default_rng(passages)
    changes = unit_changes(
        rng.permutation(documents_of(1160, 1160, 23200))[: passages * 58], np.repeat(np.arange(passages), 58)
    )
    low, high = unit_limits(changes)
    assert low <= -unseen
    assert high >= unseen
    assert unseen > 4 * np.sqrt(0.1 / (58 * passages)), "standard errors of changes one by one"
