"""Tests and intervals, against scipy called directly and sums made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_prune.report import statistics

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(outcomes)
def test_mcnemar_is_scipys_binomial_test_of_the_discordant_pairs(pairs):
    first, second = np.array(pairs, dtype=float).T
    gained = sum(b and not a for a, b in pairs)
    lost = sum(a and not b for a, b in pairs)
    expected = scipy.stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert statistics.mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["few values", "many values"])
def test_bootstrap_interval_is_scipys_percentile_interval(kind):
    draw = np.random.default_rng(3)
    values = draw.choice([-1.0, 0.0, 1.0], 300, p=[0.2, 0.7, 0.1]) if kind == "few values" else draw.normal(0.3, 1, 300)
    means = statistics.bootstrap_means(values, np.random.default_rng(0), 20_000)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    )
    low, high = statistics.interval(means)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.05 * width)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.05 * width)
    assert means.std() == pytest.approx(expected.standard_error, rel=0.03)


def test_bootstrap_of_equal_values_is_that_value():
    assert statistics.interval(statistics.bootstrap_means([0.25] * 7, np.random.default_rng(0))) == (0.25, 0.25)


def test_bootstrap_p_counts_resamples_on_the_other_side():
    assert statistics.bootstrap_p(np.array([-1.0, 1.0, 1.0, 1.0])) == pytest.approx(2 * 2 / 5)
    assert statistics.bootstrap_p(np.zeros(10)) == 1
    assert statistics.bootstrap_p(np.full(999, 2.0)) == pytest.approx(2 / 1000)


def holm_by_definition(p_values):
    """The smallest level at which the step-down procedure rejects each hypothesis."""
    ordered = sorted(p_values)
    return [
        min(1, max((len(ordered) - j) * ordered[j] for j in range(ordered.index(p) + 1))) if p_values else None
        for p in p_values
    ]


@given(st.lists(st.floats(0, 1), max_size=12, unique=True))
def test_holm(p_values):
    assert statistics.holm(p_values) == pytest.approx(holm_by_definition(p_values))


def test_holm_of_equal_p_values_and_a_textbook_case():
    assert statistics.holm([0.02, 0.02]) == [0.04, 0.04]
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_difference_of_errors_is_a_z_test():
    low, high, p = statistics.difference_of_errors(-0.1, 0.03, 0.04)
    assert (low, high) == pytest.approx((-0.1 - 1.959964 * 0.05, -0.1 + 1.959964 * 0.05), abs=1e-6)
    assert p == pytest.approx(2 * scipy.stats.norm.cdf(-2))
    assert statistics.difference_of_errors(0.0, 0, 0) == (0, 0, 1)
