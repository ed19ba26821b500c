"""Sums over tasks and draws, against statsmodels and scipy called directly, sums by hand, and small simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep

from lm_eval_prune.intervals import Changes, Z, holm, score_limits
from lm_eval_prune.report.parts import Draws, Mean, Proportion, mean_part, paired_part
from lm_eval_prune.report.statistics import Estimate


def changed(gained, lost, documents):
    return np.repeat([1.0, -1.0, 0.0], [gained, lost, documents - gained - lost])


def average(parts):
    return Estimate([(1 / len(parts), part) for part in parts])


def test_an_average_of_equal_tasks_knows_as_much_as_one_of_all_their_documents():
    parts = [paired_part(changed(3, 5, 60)) for _ in range(5)]
    expected = score_limits(Changes(300, 15, 25))
    assert average(parts).interval == pytest.approx(expected, abs=1e-8)
    assert average(parts).value == pytest.approx(-2 / 60)


def test_a_part_of_another_kind_is_added_by_the_squares_of_what_limits_are_off():
    paired, other = paired_part(changed(3, 5, 56)), Mean(value=0.01, error=0.02)
    low, high = average([paired, other]).interval
    limits = score_limits(paired.changes)
    value = (-2 / 56 + 0.01) / 2
    assert low == pytest.approx(value - math.hypot(paired.value - limits[0], Z * 0.02) / 2)
    assert high == pytest.approx(value + math.hypot(limits[1] - paired.value, Z * 0.02) / 2)


@pytest.mark.parametrize(("values", "error"), [((-0.02, 0.01, 0.03), 0.02), ((0.0, 0.04), 0.01), ((0.0, 0.001), 0.05)])
def test_draws_and_documents_take_the_mean_of_their_quantiles(values, error):
    part = Mean(value=np.mean(values), error=error, draws=Draws({(s, 1): v for s, v in enumerate(values)}))
    between = np.var(values, ddof=1) / len(values)
    quantiles = scipy.stats.norm.isf(0.025), scipy.stats.t.isf(0.025, len(values) - 1)
    if len(values) == 2:
        reach = math.hypot(quantiles[0] * error, quantiles[1] * math.sqrt(between))
        share = quantiles[1] ** 2 * between / reach**2
    else:
        reach = (quantiles[0] * error**2 + quantiles[1] * between) / np.sqrt(error**2 + between)
        share = quantiles[1] * between / np.sqrt(error**2 + between) / reach
    estimate = Estimate([(1, part)])
    assert estimate.interval == pytest.approx((part.value - reach, part.value + reach))
    assert estimate.share_of_draws == pytest.approx(share)


@pytest.mark.parametrize(("draws", "least", "most"), [(2, 0.946, 0.99), (3, 0.946, 0.975), (5, 0.946, 0.968)])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.95])
def test_draws_of_any_share_leave_the_interval_its_level(draws, least, most, share):
    """20,000 studies whose variance is to that share between draws, all else known."""
    generator = np.random.default_rng(draws)
    values = generator.normal(0, math.sqrt(share * draws), (20_000, draws))
    known = generator.normal(0, math.sqrt(1 - share), 20_000)
    between = values.var(1, ddof=1) / draws
    z, t = scipy.stats.norm.isf(0.025), scipy.stats.t.isf(0.025, draws - 1)
    known_share = (1 - share) / (1 - share + between)
    power = 2 if draws == 2 else 1
    mean = (z**power * known_share + t**power * (1 - known_share)) ** (1 / power)
    reach = mean * np.sqrt(1 - share + between)
    for place in (0, 1):
        seen = Draws({(seed, 1): value for seed, value in enumerate(values[place])})
        found = Estimate([(1, Mean(value=0.0, error=math.sqrt(1 - share), draws=seen))]).interval
        assert found[1] == pytest.approx(reach[place])
    assert least <= np.mean(np.abs(values.mean(1) + known) <= reach) <= most


def test_two_draws_have_a_rule_that_is_right_at_every_level():
    """Integrated over the variance of two draws, in shares of the documents': the root of the mean square, which is
    taken, is never wrong more often than its level. One that covers 95 to 96.6 %, the normal quantile up to a share of
    8 % and Student's from 25 % on, is wrong three times as often at 1 %, which corrected p-values are about."""
    chi_square = scipy.stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, 1)
    ratio = np.geomspace(0.005, 1000, 50)[:, None]
    share = ratio * chi_square / (1 + ratio * chi_square)

    def wrong(quantile, level):
        normal, student = scipy.stats.norm.isf(level / 2), scipy.stats.t.isf(level / 2, 1)
        reach = quantile(normal, student) * np.sqrt((1 + ratio * chi_square) / (1 + ratio))
        return 2 * scipy.stats.norm.sf(reach).mean(1) / level

    def square(normal, student):
        return np.sqrt(normal**2 * (1 - share) + student**2 * share)

    def bent(normal, student):
        return normal + (student - normal) * np.clip((share - 0.08) / 0.17, 0, 1)

    for level in (0.1, 0.05, 0.01, 0.0025):
        assert wrong(square, level).max() <= 1.001
    assert wrong(square, 0.05).min() == pytest.approx(0.254, abs=0.005)  # covers 98.7 %
    assert wrong(bent, 0.05).max() <= 1.001
    assert wrong(bent, 0.05).min() >= 0.67
    assert wrong(bent, 0.01).max() > 3
    assert wrong(bent, 0.0025).max() > 10


@pytest.mark.parametrize(("first", "second"), [(0.6, 0.55), (0.0, 0.02), (1.0, 0.5)])
def test_runs_that_are_not_paired_have_newcombes_interval(first, second):
    parts = ((1, Proportion(value=first, count=100)), (-1, Proportion(value=second, count=200)))
    expected = confint_proportions_2indep(round(first * 100), 100, round(second * 200), 200, method="newcomb")
    assert Estimate(parts).interval == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_p_is_below_the_level_exactly_where_the_interval_leaves_0_out(counts):
    estimate = average([paired_part(changed(*pair, 60)) for pair in counts])
    for level in (0.05, 0.001):
        low, high = estimate.limits(scipy.stats.norm.isf(level / 2))
        if min(abs(low), abs(high)) > 1e-9:
            assert (low > 0 or high < 0) == (estimate.p < level)


@pytest.mark.parametrize("value", [0.3, -0.02, 5.0])
def test_p_of_a_mean_is_students_and_never_quite_0(value):
    for freedom in (3.0, 40.0, math.inf):
        expected = 2 * scipy.stats.t.sf(abs(value) / 0.1, freedom)
        found = Estimate([(1, Mean(value=value, error=0.1, freedom=freedom))]).p
        assert found == pytest.approx(expected, rel=1e-6)
    assert 0 < Estimate([(1, Mean(value=1.0, error=1e-9))]).p < 1e-290


def test_metrics_without_bounds_take_students_t_over_units():
    draw = np.random.default_rng(2)
    values = draw.normal(0.3, 2, 30)
    expected = scipy.stats.t.interval(0.95, 29, values.mean(), scipy.stats.sem(values))
    assert Estimate([(1, paired_part(values, bounded=False))]).interval == pytest.approx(expected)
    repeated = paired_part(np.repeat(values, 4), units=np.repeat(np.arange(30), 4), bounded=False)
    assert Estimate([(1, repeated)]).interval == pytest.approx(expected)
    assert paired_part(values[:5], bounded=False).least() == math.inf


@pytest.mark.parametrize("right", [0, 1, 37, 60])
def test_accuracies_have_wilsons_interval(right):
    values = np.repeat([1.0, 0.0], [right, 60 - right])
    expected = scipy.stats.binomtest(right, 60).proportion_ci(method="wilson")
    assert Estimate([(1, mean_part(values))]).interval == pytest.approx((expected.low, expected.high), abs=1e-9)
    together = mean_part(np.repeat(values, 7), units=np.repeat(np.arange(60), 7))
    assert Estimate([(1, together)]).interval == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_draws_that_differ_alone_have_students_interval_over_them():
    values = np.array([-0.02, 0.01, -0.05, 0.0])
    part = Mean(value=values.mean(), error=0.0, draws=Draws({(seed, 1): v for seed, v in enumerate(values)}))
    expected = scipy.stats.t.interval(0.95, 3, values.mean(), scipy.stats.sem(values))
    assert Estimate([(1, part)]).interval == pytest.approx(expected)
    assert Estimate([(1, part)]).share_of_draws == pytest.approx(1)


def test_draws_that_tasks_share_do_not_average_out():
    values = {(seed, 1): value for seed, value in enumerate((-0.1, 0.0, 0.1))}
    part = Mean(value=0.0, error=0.0, draws=Draws(values))
    low, _ = Estimate([(1, part)]).interval
    assert average([part] * 4).interval[0] == pytest.approx(low)
    opposite = Mean(value=0.0, error=0.0, draws=Draws({draw: -value for draw, value in values.items()}))
    assert average([part, opposite]).interval[0] == pytest.approx(0)
    elsewhere = Mean(value=0.0, error=0.0, draws=Draws({(seed + 7, 1): v for (seed, _), v in values.items()}))
    assert average([part, elsewhere]).interval[0] == pytest.approx(low)  # at worst


def test_one_draw_has_no_share():
    assert math.isnan(Estimate([(1, paired_part(changed(1, 2, 30)))]).share_of_draws)


@pytest.mark.parametrize(("draws", "between", "each"), [(2, 0.0, 0.05), (3, 0.02, 0.05), (5, 0.04, 0.02)])
def test_intervals_over_draws_cover(draws, between, each):
    generator = np.random.default_rng(draws)
    hits = []
    for _ in range(300):
        rates = np.clip(generator.normal(0.1, between, draws), 0, 1)
        lost = generator.random((200, draws)) < rates
        gained = ~lost & (generator.random((200, draws)) < each)
        part = paired_part(gained * 1.0 - lost, draws=[(seed, 1) for seed in range(draws)])
        low, high = Estimate([(1, part)]).interval
        expected = -0.1 + 0.9 * each
        hits.append(low <= expected <= high)
    assert np.mean(hits) >= 0.93  # 95 %, less two Monte Carlo errors


@pytest.mark.parametrize(("gain", "where"), [(0.0, "spread"), (0.02, "one task")])
def test_an_average_that_loses_the_margin_is_rarely_within_it(gain, where):
    tasks, documents = 5, 172
    generator = np.random.default_rng(7)
    losses = np.full(tasks, 0.01) if where == "spread" else np.eye(tasks)[0] * 0.01 * tasks
    false = 0
    for _ in range(500):
        parts = []
        for loss in losses:
            gained, lost, _ = generator.multinomial(documents, [gain, gain + loss, 1 - 2 * gain - loss])
            parts.append(paired_part(changed(gained, lost, documents)))
        false += average(parts).interval[0] >= -0.01 and average(parts).least() <= 0.01
    assert false / 500 <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / 500)


@pytest.mark.parametrize("counts", [(60,) * 5, (56, 100, 104), (1,)])
def test_documents_that_are_needed_are_the_least(counts):
    estimate = average([paired_part(np.zeros(count)) for count in counts])
    assert estimate.interval[0] == pytest.approx(-estimate.least())
    times = estimate.times_needed(0.01)
    assert estimate.least(times) == pytest.approx(0.01)
    assert estimate.times_needed(0.9) == 1
    assert estimate.times_needed(0.0) == math.inf


@pytest.mark.parametrize("passages", [20, 40, 83])
def test_p_of_sums_with_passages_is_the_level_at_which_their_interval_reaches_0(passages):
    draw = np.random.default_rng(passages)
    changes = draw.choice([-1.0, 0.0, 1.0], 2000, p=[0.2, 0.75, 0.05])
    shared = paired_part(changes, units=draw.integers(0, passages, 2000))
    for estimate in (
        Estimate([(1, shared)]),
        average([shared, paired_part(changed(3, 40, 200))]),
        Estimate([(0.5, shared), (-0.5, paired_part(changed(40, 3, 200)))]),
        average([shared, paired_part(changed(9, 7, 200)), shared]),
    ):
        z = -scipy.stats.norm.ppf(estimate.p / 2)
        low, high = estimate.limits(z)
        assert (low if estimate.value > 0 else high) == pytest.approx(0, abs=1e-6)


def test_what_differs_beyond_doubt_has_the_smallest_p():
    assert average([paired_part(-np.ones(60_000)), paired_part(-np.ones(40_000))]).p == 2.2250738585072014e-308


def holm_by_definition(p_values):
    """The smallest level at which the step-down procedure rejects each hypothesis."""
    ordered = sorted(p_values)
    return [
        min(1, max((len(ordered) - j) * ordered[j] for j in range(ordered.index(p) + 1))) if p_values else None
        for p in p_values
    ]


@given(st.lists(st.floats(0, 1), max_size=12, unique=True))
def test_holm(p_values):
    assert holm(p_values) == pytest.approx(holm_by_definition(p_values))


def test_holm_of_equal_p_values_and_a_textbook_case():
    assert holm([0.02, 0.02]) == [0.04, 0.04]
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_z_is_that_of_95_percent():
    assert pytest.approx(scipy.stats.norm.ppf(0.975)) == Z
