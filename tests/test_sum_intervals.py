"""Intervals of sums over tasks: likelihoods maximised by scipy, one task's own interval, all outcomes enumerated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_prune.intervals import Changes, Z, score_limits, score_p, smallest_margin
from lm_eval_prune.sum_intervals import SumOfChanges, least_sum, stacked, sum_limits, sum_lower_limit, sum_p
from lm_eval_prune.unit_intervals import UnitChanges, unit_changes, unit_limits, unit_p

CORRECTION = 3 / 16


def documents_of(lost, same, gained):
    return unit_changes(np.repeat([-1.0, 0.0, 1.0], [lost, same, gained]))


def sum_of(*tasks):
    """(weight, lost, unchanged, gained) each."""
    return stacked([(weight, documents_of(*counts)) for weight, *counts in tasks])


def statistic(tasks, difference):
    """The score statistic from its definition: the three chances of each task that are together the most likely ones
    under which the weighted sum is `difference`, and its variance under them."""
    counts, weights = np.array([task[1:] for task in tasks], dtype=float), np.array([task[0] for task in tasks])
    number, values = counts.sum(1), np.array([-1.0, 0.0, 1.0])
    least = 1e-12

    def minus_likelihood(flat):
        return -(counts * np.log(np.maximum(flat.reshape(counts.shape), least))).sum()

    def slope(flat):
        return -(counts / np.maximum(flat.reshape(counts.shape), least)).ravel()

    constraints = [
        {
            "type": "eq",
            "fun": lambda flat: flat.reshape(counts.shape).sum(1) - 1,
            "jac": lambda flat: np.kron(np.eye(len(counts)), np.ones(3)),
        },
        {
            "type": "eq",
            "fun": lambda flat: weights @ (flat.reshape(counts.shape) @ values) - difference,
            "jac": lambda flat: np.outer(weights, values).ravel(),
        },
    ]
    found = scipy.optimize.minimize(
        minus_likelihood, ((counts + 0.5) / (number + 1.5)[:, None]).ravel(), jac=slope, constraints=constraints,
        bounds=[(0, 1)] * counts.size, method="SLSQP", options={"ftol": 1e-14, "maxiter": 3000},
    )  # fmt: skip
    chances = found.x.reshape(counts.shape)
    means = chances @ values
    variances = weights**2 * (chances @ values**2 - means**2) / number
    step = (variances * weights / number).sum() / variances.sum()
    value = weights @ ((counts @ values) / number)
    return (value - difference - CORRECTION * step) / np.sqrt(variances.sum())


CASES = [
    [(0.5, 3, 50, 5), (0.5, 10, 80, 2)],
    [(1 / 3, 0, 40, 3), (1 / 3, 2, 95, 1), (1 / 3, 30, 200, 20)],
    [(0.25, 4, 56, 0), (0.75, 12, 300, 18)],
    [(0.2, 1, 58, 1), (0.2, 2, 57, 1), (0.2, 3, 55, 2), (0.2, 1, 56, 3), (0.2, 5, 52, 3)],
]


@pytest.mark.parametrize("tasks", CASES)
def test_the_limit_is_where_the_maximised_likelihood_puts_it(tasks):
    low, high = sum_limits(sum_of(*tasks))
    assert statistic(tasks, float(low)) == pytest.approx(Z, abs=2e-4)
    mirrored = [(weight, gained, same, lost) for weight, lost, same, gained in tasks]
    assert statistic(mirrored, -float(high)) == pytest.approx(Z, abs=2e-4)


@pytest.mark.parametrize("tasks", CASES)
def test_p_is_that_of_the_maximised_likelihood_at_no_difference(tasks):
    value = float(sum_of(*tasks).value)
    losing = [(weight, gained, same, lost) for weight, lost, same, gained in tasks] if value < 0 else tasks
    expected = 2 * scipy.stats.norm.sf(max(statistic(losing, 0.0), 0))
    assert float(sum_p(sum_of(*tasks))) == pytest.approx(expected, rel=2e-3)


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_one_task_has_tangos_interval_and_equal_tasks_that_of_all_documents(documents, first, second, number):
    gained = round(documents * first)
    lost = round((documents - gained) * second)
    tasks = sum_of(*[(1 / number, lost, documents - gained - lost, gained)] * number)
    together = Changes(number * documents, number * gained, number * lost)
    assert sum_limits(tasks) == pytest.approx(score_limits(together), abs=1e-8)
    assert float(sum_p(tasks)) == pytest.approx(float(score_p(together)), rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_one_task_of_passages_has_their_own_interval(seed):
    draw = np.random.default_rng(seed)
    units = np.sort(draw.integers(0, 12 + 10 * seed, 200))
    units = np.unique(units, return_inverse=True)[1]
    changes = unit_changes(draw.choice([-1.0, -0.25, 0.0, 1.0], 200, p=[0.1, 0.1, 0.7, 0.1]), units)
    alone = stacked([(1.0, changes)])
    assert sum_limits(alone) == pytest.approx(unit_limits(changes), abs=1e-8)
    assert float(sum_p(alone)) == pytest.approx(float(unit_p(changes)), rel=1e-6)


@pytest.mark.parametrize("tasks", [*CASES, [(0.5, 0, 60, 0), (0.5, 0, 5, 0)], [(0.5, 7, 0, 0), (0.5, 0, 0, 9)]])
def test_limits_hold_the_value_and_p_is_the_level_that_reaches_0(tasks):
    together = sum_of(*tasks)
    value, p = float(together.value), float(sum_p(together))
    low, high = (float(limit) for limit in sum_limits(together))
    assert -1 <= low < value < high <= 1
    assert sum_limits(together.mirrored) == pytest.approx((-high, -low), abs=1e-9)
    if 1e-9 < p < 1 - 1e-9:
        reached = sum_limits(together, scipy.stats.norm.isf(p / 2))
        assert float(reached[0] if value > 0 else reached[1]) == pytest.approx(0, abs=1e-7)
    elif abs(value) < 1e-12:
        assert p == pytest.approx(1)


def test_a_task_that_counts_negatively_is_mirrored():
    one = stacked([(0.5, documents_of(3, 50, 9)), (-0.5, documents_of(8, 40, 1))])
    other = stacked([(0.5, documents_of(3, 50, 9)), (0.5, documents_of(1, 40, 8))])
    assert sum_limits(one) == pytest.approx(sum_limits(other))


def test_samples_side_by_side_are_searched_as_one_by_one():
    counts = np.random.default_rng(0).multinomial(90, [0.05, 0.9, 0.05], size=(7, 3)).astype(float)
    kinds, weights = np.broadcast_to(np.array([-1.0, 0.0, 1.0]), counts.shape), np.array([0.5, 0.3, 0.2])
    low = sum_lower_limit(SumOfChanges(UnitChanges(kinds, np.ones(counts.shape), counts), weights))
    for place, tasks in enumerate(counts.astype(int)):
        own = [(weight, *task) for weight, task in zip(weights, tasks, strict=True)]
        assert low[place] == pytest.approx(float(sum_limits(sum_of(*own))[0]), abs=1e-9)


@pytest.mark.parametrize("counts", [(60,) * 5, (56, 100, 104), (56, 10_042), (1,), (5, 7)])
def test_where_nothing_changed_the_least_loss_is_the_limit(counts):
    weights = (1 / len(counts),) * len(counts)
    least = least_sum(weights, tuple(map(float, counts)))
    together = sum_of(*[(weight, 0, count, 0) for weight, count in zip(weights, counts, strict=True)])
    assert least == pytest.approx(-float(sum_limits(together)[0]), abs=1e-9)
    # Not less than where the task of the fewest documents is all that could have lost.
    assert least >= max(weight * float(smallest_margin(count)) for weight, count in zip(weights, counts, strict=True))
    if len(set(counts)) == 1:
        assert least == pytest.approx(float(smallest_margin(sum(counts))))


@pytest.mark.parametrize(
    ("documents", "losses"), [((40, 60), (0.2, 0.25)), ((25, 25), (0.15, 0.15)), ((30, 50), (0.3, 0.1))]
)
def test_all_outcomes_of_two_tasks(documents, losses):
    """Enumerated: losses alone, of two tasks whose average is judged."""
    outcomes = np.array(list(itertools.product(*(range(count + 1) for count in documents))), dtype=float)
    chances = np.prod([scipy.stats.binom.pmf(outcomes[:, t], documents[t], losses[t]) for t in (0, 1)], axis=0)
    counts = np.stack([outcomes, np.array(documents) - outcomes, np.zeros(outcomes.shape)], axis=-1)
    kinds = np.broadcast_to(np.array([-1.0, 0.0, 1.0]), counts.shape)
    low, high = sum_limits(SumOfChanges(UnitChanges(kinds, np.ones(counts.shape), counts), np.array([0.5, 0.5])))
    truth = -sum(losses) / 2
    covered = chances[(low <= truth) & (truth <= high)].sum()
    assert 0.94 <= covered <= 0.975
    assert chances[low > truth].sum() <= 0.03


def test_averages_of_which_all_changes_are_losses_are_covered():
    """All outcomes of 5 tasks of 60 documents, where coverage is least: 94.02 % where the tasks lose 2.5 %."""
    lost = np.array(list(itertools.combinations_with_replacement(range(11), 5)))
    orders = [len(set(itertools.permutations(row))) for row in lost.tolist()]
    counts = np.stack([lost, 60 - lost, np.zeros_like(lost)], axis=-1).astype(float)
    kinds = np.broadcast_to([-1.0, 0.0, 1.0], counts.shape)
    low, high = sum_limits(SumOfChanges(UnitChanges(kinds, np.ones(counts.shape), counts), np.full(5, 0.2)))
    for loss in (*np.linspace(0.01, 0.04, 40), 0.02, 0.025, 0.03):
        chances = scipy.stats.binom.pmf(lost, 60, loss).prod(1) * orders
        assert chances[(low <= -loss) & (-loss <= high)].sum() >= 0.94
