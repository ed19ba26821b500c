"""Score intervals against likelihoods maximised by scipy, R's output, statsmodels, and all outcomes enumerated."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from lm_eval_prune import intervals
from lm_eval_prune.intervals import (
    Changes,
    Z,
    detectable_loss,
    documents_needed,
    score_limits,
    score_p,
    smallest_margin,
    wilson_limits,
)


def plain(gained, lost, documents):
    """Documents by themselves."""
    return Changes(documents, gained, lost)


def tango(gained, lost, documents, difference, correction=3 / 16):
    """The score statistic from its definition: the likelihood of the three outcomes maximised under the difference."""

    def minus_likelihood(loss):
        chances = (loss + difference, loss, 1 - 2 * loss - difference)
        counts = (gained, lost, documents - gained - lost)
        return -sum(count * np.log(chance) for count, chance in zip(counts, chances, strict=True) if count)

    least, most = max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12
    found = scipy.optimize.minimize_scalar(
        minus_likelihood, bounds=(least, most), method="bounded", options={"xatol": 1e-13}
    )
    variance = 2 * found.x + difference - difference**2
    gap = gained - lost - documents * difference
    return np.sign(gap) * max(abs(gap) - correction, 0) / np.sqrt(documents * variance)


@pytest.mark.parametrize(("gained", "lost", "documents"), [(12, 2, 50), (7, 3, 12), (3, 8, 100), (20, 20, 1000)])
def test_the_score_interval_is_where_the_maximised_likelihood_puts_it(gained, lost, documents):
    middle = (gained - lost) / documents
    low, high = score_limits(plain(gained, lost, documents))
    for side, end, expected in ((-1, low, Z), (1, high, -Z)):
        found = scipy.optimize.brentq(
            lambda d, wanted=expected: tango(gained, lost, documents, d) - wanted,
            *sorted((middle + side * 0.1 / documents, side * 0.99)),
        )
        assert end == pytest.approx(found, abs=1e-6)


def test_the_score_interval_is_that_of_r(monkeypatch):
    monkeypatch.setattr(intervals, "CONTINUITY", 0.0)
    # PropCIs::scoreci.mp of 48 and 41 discordant pairs of 549 at 90 %, as published with its output: -1.57 to +4.14.
    low, high = score_limits(plain(48, 41, 549), scipy.stats.norm.ppf(0.95))
    assert (low, high) == (pytest.approx(-0.0157, abs=5e-5), pytest.approx(0.0414, abs=5e-5))


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_limits_hold_the_mean_and_agree_with_the_p_value(documents, first, second):
    gained = round(documents * first)
    lost = round((documents - gained) * second)
    low, high = score_limits(plain(gained, lost, documents))
    assert -1 <= low <= (gained - lost) / documents <= high <= 1
    mirrored = score_limits(plain(lost, gained, documents))
    assert (low, high) == (pytest.approx(-mirrored[1], abs=1e-9), pytest.approx(-mirrored[0], abs=1e-9))
    if abs(score_p(plain(gained, lost, documents)) - 0.05) > 1e-6:
        assert (low > 0 or high < 0) == (score_p(plain(gained, lost, documents)) < 0.05)


@pytest.mark.parametrize("documents", [1, 2, 56, 381, 10_042])
def test_where_no_document_changed_the_interval_has_a_width(monkeypatch, documents):
    low, high = score_limits(plain(0, 0, documents))
    assert (-low, high) == pytest.approx((float(smallest_margin(documents)),) * 2)
    assert documents * high - 3 / 16 == pytest.approx(Z * np.sqrt(documents * high * (1 - high)))
    monkeypatch.setattr(intervals, "CONTINUITY", 0.0)
    assert smallest_margin(documents) == pytest.approx(Z**2 / (documents + Z**2))


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (5, 12), (40, 17), (3, 3)])
@pytest.mark.parametrize("correction", [0, 1])
def test_p_is_mcnemars(monkeypatch, gained, lost, correction):
    monkeypatch.setattr(intervals, "CONTINUITY", float(correction))
    expected = mcnemar([[7, gained], [lost, 20]], exact=False, correction=bool(correction)).pvalue
    if gained != lost or not correction:  # statsmodels takes the distance of equal counts to be -1
        assert score_p(plain(gained, lost, 27 + gained + lost)) == pytest.approx(expected)


@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (12, 3), (30, 49)])
def test_p_is_corrected_by_three_sixteenths_of_a_document(gained, lost):
    expected = scipy.stats.chi2.sf((abs(gained - lost) - 3 / 16) ** 2 / (gained + lost), 1)
    assert score_p(plain(gained, lost, 100)) == pytest.approx(expected)


@pytest.mark.parametrize(("right", "documents"), [(0, 1), (1, 1), (0, 56), (45, 60), (60, 60)])
def test_wilson_is_that_of_statsmodels(right, documents):
    expected = proportion_confint(right, documents, method="wilson")
    assert wilson_limits(right / documents, documents) == pytest.approx(expected, abs=1e-12)


def outcomes(documents, gain, loss):
    """(gained, lost, probability) of all outcomes that are not absurdly rare."""
    most = min(documents, int(documents * max(gain, loss) + 12 * np.sqrt(documents * max(gain, loss)) + 12))
    gained, lost = (grid.ravel() for grid in np.mgrid[0 : most + 1, 0 : most + 1])
    keep = gained + lost <= documents
    gained, lost = gained[keep].astype(float), lost[keep].astype(float)
    counts = np.column_stack([gained, lost, documents - gained - lost])
    chances = scipy.stats.multinomial.pmf(counts, documents, [gain, loss, 1 - gain - loss])
    assert chances.sum() == pytest.approx(1, abs=1e-6)
    return gained, lost, chances


@pytest.mark.parametrize("documents", [381, 400, 638, 1000])
@pytest.mark.parametrize("gain", [0.0, 0.002, 0.01, 0.05])
def test_a_loss_of_the_margin_is_rarely_within_it(documents, gain):
    gained, lost, chances = outcomes(documents, gain, gain + 0.01)
    low, _ = score_limits(plain(gained, lost, np.full_like(gained, documents)))
    assert chances[(low >= -0.01) & (smallest_margin(documents) <= 0.01)].sum() <= 0.025


def test_no_difference_is_rarely_shown_at_any_size_and_discordance():
    """All outcomes: the number that changed, of which half are gained by chance."""
    changed = np.arange(801)
    gained, documents = (grid.ravel() for grid in np.mgrid[0:801, 0:801])
    keep = gained <= documents
    gained, lost = gained[keep].astype(float), (documents - gained)[keep].astype(float)
    shown = score_p(plain(gained, lost, np.full_like(gained, 10_000))) < 0.05
    chances = scipy.stats.binom.pmf(gained, gained + lost, 0.5) * shown
    by_changed = np.bincount((gained + lost).astype(int), chances, minlength=801)
    for documents in (56, 80, 100, 104, 277, 381, 500, 638, 1000, 1172, 1838, 4848):
        for share in np.geomspace(0.005, 0.3, 60):
            if documents * share < 650:
                assert scipy.stats.binom.pmf(changed, documents, share) @ by_changed <= 0.05


@pytest.mark.parametrize("documents", [56, 80, 100, 104, 172, 277])
@pytest.mark.parametrize("changed", [0.05, 0.07, 0.1, 0.2])
def test_intervals_cover(documents, changed):
    for loss in (0.0, 0.01, 0.02, 0.03, 0.05):
        gained, lost, chances = outcomes(documents, (changed - loss) / 2, (changed + loss) / 2)
        low, high = score_limits(plain(gained, lost, np.full_like(gained, documents)))
        covered = chances[(low <= -loss) & (-loss <= high)].sum()
        # More than 97.5 % only where fewer than ten documents change: their counts leave nothing between.
        assert 0.94 <= covered <= (0.975 if documents * changed >= 10 else 0.995)


def most_missed(documents, difference, changed, *, above):
    """The largest chance, where the difference is true and `changed` of the answers change, that any rule puts a limit
    on its wrong side: of all sets of outcomes that hold, with an outcome, those of more gains or fewer losses, and have
    a chance of at most 2.5 % however many answers change. Integer programming; outcomes beyond `most` count as missed.
    """
    most = 14
    outcome = [(gained, lost) for gained in range(most + 1) for lost in range(most + 1 - gained)]
    place = {counts: number for number, counts in enumerate(outcome)}
    step = 1 if above else -1

    def chances(share):
        gain, loss = (share + difference) / 2, (share - difference) / 2
        counts = [(gained, lost, documents - gained - lost) for gained, lost in outcome]
        return scipy.stats.multinomial.pmf(counts, documents, [gain, loss, 1 - gain - loss])

    further = [
        (number, place[other])
        for (gained, lost), number in place.items()
        for other in ((gained + step, lost), (gained, lost - step))
        if other in place
    ]
    in_order = np.zeros((len(further), len(outcome)))
    for row, (one, other) in zip(in_order, further, strict=True):
        row[[one, other]] = 1, -1
    shares = np.append(np.geomspace(max(abs(difference), 1e-3), 0.15, 24), changed)
    own_side = [step * ((gained - lost) / documents - difference) <= 0 for gained, lost in outcome]
    found = scipy.optimize.milp(
        -chances(changed),
        constraints=[
            scipy.optimize.LinearConstraint([chances(share) for share in shares], ub=0.025),
            scipy.optimize.LinearConstraint(in_order, ub=0),
        ],
        integrality=np.ones(len(outcome)),
        bounds=scipy.optimize.Bounds(0, np.where(own_side, 0, 1)),
    )
    return -found.mip_dual_bound + 1 - chances(changed).sum()


@pytest.mark.parametrize(
    ("documents", "loss", "best"), [(56, 0.0, 0.972), (56, 0.01, 0.985), (56, 0.02, 0.985), (56, 0.03, 0.973)]
)
def test_no_rule_covers_little_where_fewer_than_ten_documents_change(documents, loss, best):
    """Why the interval covers more than 97.5 % there: counts come in steps. 5 % change, each side is wrong in 2.5 %."""
    missed = [most_missed(documents, -loss, 0.05, above=above) for above in (True, False)]
    gained, lost, chances = outcomes(documents, (0.05 - loss) / 2, (0.05 + loss) / 2)
    low, high = score_limits(plain(gained, lost, np.full_like(gained, documents)))
    for side, wrong in zip(missed, (low > -loss, high < -loss), strict=True):
        assert chances[wrong].sum() <= side + 1e-9, "a rule of ours, which the best one cannot be worse than"
    assert best <= 1 - sum(missed) <= best + 0.002


@pytest.mark.parametrize("gain", [0.0, 0.001, 0.01])
@pytest.mark.parametrize("documents", [56, 172, 500, 1000, 1838])
def test_no_interval_covers_less_than_94_percent_however_few_change(documents, gain):
    losses = np.geomspace(0.002, 0.06, 40 if gain else 200)
    if gain:
        gained, lost, _ = outcomes(documents, gain, losses[-1])
        low, high = score_limits(plain(gained, lost, np.full_like(gained, documents)))
        counts = np.column_stack([gained, lost, documents - gained - lost])
        chances = [scipy.stats.multinomial.pmf(counts, documents, [gain, loss, 1 - gain - loss]) for loss in losses]
    else:
        lost = np.arange(0, min(documents, 250) + 1.0)
        low, high = score_limits(plain(np.zeros_like(lost), lost, np.full_like(lost, documents)))
        chances = [scipy.stats.binom.pmf(lost, documents, loss) for loss in losses]
    for loss, chance in zip(losses, chances, strict=True):
        difference = gain - loss
        assert chance[(low <= difference) & (difference <= high)].sum() >= 0.94


@pytest.mark.parametrize(("margin", "changed"), [(0.01, 0.0), (0.02, 0.0), (0.01, 0.04), (0.02, 0.04), (0.05, 0.1)])
def test_documents_needed_are_enough_and_fewer_are_not(margin, changed):
    def power(documents):
        gained, lost, chances = outcomes(documents, changed / 2, changed / 2)
        low, _ = score_limits(plain(gained, lost, np.full_like(gained, documents)))
        return chances[(low >= -margin) & (smallest_margin(documents) <= margin)].sum()

    needed = documents_needed(margin, changed)
    assert power(needed) >= 0.77
    assert power(int(0.85 * needed)) < 0.8


@pytest.mark.parametrize(("gained", "lost", "documents"), [(0, 0, 400), (20, 20, 1000), (2, 2, 200)])
def test_a_detectable_loss_is_shown_four_times_of_five(gained, lost, documents):
    loss = detectable_loss(documents, (gained + lost) / documents)
    changed = max((gained + lost) / documents, loss)
    found, gone, chances = outcomes(documents, (changed - loss) / 2, (changed + loss) / 2)
    shown = chances[(score_p(plain(found, gone, documents)) < 0.05) & (gone > found)].sum()
    assert 0.76 <= shown <= 0.96
