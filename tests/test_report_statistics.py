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


def bootstrapped(values):
    return statistics.bootstrap_p(statistics.bootstrap_means(values, np.random.default_rng(0)), values)


def test_bootstrap_p_counts_resamples_on_the_other_side():
    assert statistics.bootstrap_p(np.array([-1.0, 1.0, 1.0, 1.0]), [1.0] * 40) == pytest.approx(2 * 2 / 5)
    assert statistics.bootstrap_p(np.zeros(10), [0.0, 0.0]) == 1
    assert statistics.bootstrap_p(np.full(9, 2.0), [2.0] * 3) == pytest.approx(2 / 2**3)


@pytest.mark.parametrize("sign", [1, -1])
def test_where_no_resample_reaches_0_p_is_that_of_scipys_t_test(sign):
    values = sign * np.random.default_rng(3).normal(0.4, 1, 200)
    expected = scipy.stats.ttest_1samp(values, 0).pvalue
    assert 0 < expected < 1e-5
    assert bootstrapped(values) == pytest.approx(expected)


@pytest.mark.parametrize("number", [9, 12, 40])
def test_p_is_no_smaller_than_a_sign_test_of_as_many_documents_can_be(number):
    expected = scipy.stats.binomtest(number, number).pvalue
    nearly_equal = 0.5 + 0.001 * np.random.default_rng(1).random(number)
    assert scipy.stats.ttest_1samp(nearly_equal, 0).pvalue < expected
    assert bootstrapped(nearly_equal) == pytest.approx(expected)
    assert bootstrapped([-0.5] * number) == pytest.approx(expected)
    assert bootstrapped([*nearly_equal, 0.0]) == pytest.approx(expected)  # one that is equal says nothing


@pytest.mark.parametrize(("number", "p"), [(1, 1), (2, 0.5), (3, 0.25)])
def test_very_few_documents_show_little(number, p):
    assert bootstrapped([0.5] * number) == p


def test_p_is_never_quite_0():
    assert 0 < bootstrapped([0.5] * 5000) < 1e-300
    assert 0 < bootstrapped(np.random.default_rng(0).normal(5, 0.1, 5000)) < 1e-300


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
