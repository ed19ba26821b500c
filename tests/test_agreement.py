"""p-values of agreement against scipy's exact permutation tests and counts of all orders; overlaps against counts."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from lm_eval_prune import analysis
from lm_eval_prune.errors import ArgumentError, ScoreError

NUMBER = 20_000
PAIRS = {
    "agree": ([1.0, 2, 3, 4, 5, 6], [2.0, 1, 3, 5, 4, 6]),
    "opposite": ([1.0, 2, 3, 4, 5, 6], [6.0, 5, 4, 2, 3, 1]),
    "unrelated": ([0.3, 0.1, 0.9, 0.4, 0.2, 0.8], [5.0, 6, 1, 4, 2, 3]),
    "ties": ([1.0, 1, 2, 2, 3, 3], [1.0, 2, 2, 2, 1, 3]),
}


def rho(a, b):
    return scipy.stats.spearmanr(np.ravel(a), np.ravel(b)).statistic


def close(found, exact):
    """Within five standard errors of so many shuffles."""
    return abs(found - exact) <= 5 * math.sqrt(exact * (1 - exact) / NUMBER) + 1 / NUMBER


@pytest.mark.parametrize("name", PAIRS)
def test_p_over_the_whole_model_is_that_of_scipys_permutation_test(name):
    first, second = PAIRS[name]
    exact = scipy.stats.permutation_test(
        (second,), lambda b: rho(first, b), permutation_type="pairings", alternative="greater", n_resamples=np.inf
    ).pvalue
    shaped = np.reshape(first, (2, 3)), np.reshape(second, (2, 3))
    assert close(analysis.permutation_p(*shaped, permutations=NUMBER), exact)
    assert close(analysis.permutation_p(first, second, permutations=NUMBER), exact)  # FFNs


@pytest.mark.parametrize("name", PAIRS)
def test_p_within_layers_is_that_of_every_order_of_heads_within_their_layers(name):
    first, second = (np.reshape(values, (2, 3)) for values in PAIRS[name])
    orders = itertools.product(*(itertools.permutations(layer) for layer in second))
    every = [rho(first, order) for order in orders]
    exact = np.mean([value >= rho(first, second) - 1e-9 for value in every])
    assert len(every) == 36
    assert close(analysis.permutation_p(first, second, within_layers=True, permutations=NUMBER), exact)


def test_a_depth_profile_that_is_shared_counts_over_the_model_but_not_within_layers():
    draw = np.random.default_rng(0)
    depth = 10 * np.arange(12.0)[:, None]
    one, other = depth + draw.random((12, 8)), depth + draw.random((12, 8))
    assert analysis.permutation_p(one, other, permutations=2000) == pytest.approx(1 / 2001)
    assert analysis.permutation_p(one, other, within_layers=True, permutations=2000) > 0.05


def test_agreements_are_those_of_each_pair_with_holms_correction():
    draw = np.random.default_rng(1)
    base = draw.random((4, 5))
    scores = {name: base + noise * draw.random((4, 5)) for name, noise in [("a", 0.5), ("b", 1), ("c", 3), ("d", 9)]}
    found = analysis.agreements(scores, permutations=500)
    assert [(pair.first, pair.second) for pair in found] == list(itertools.combinations("abcd", 2))
    for pair in found:
        one, other = scores[pair.first], scores[pair.second]
        assert pair.rho == pytest.approx(rho(one, other))
        layers = [rho(a, b) for a, b in zip(one, other, strict=True)]
        assert pair.rho_within_layers == pytest.approx(np.mean(layers))
        assert pair.p == analysis.permutation_p(one, other, permutations=500)
        assert pair.p_within_layers == analysis.permutation_p(one, other, within_layers=True, permutations=500)
        assert pair.tops == analysis.shared_tops(one, other)
    for raw, corrected in (("p", "p_holm"), ("p_within_layers", "p_within_layers_holm")):
        expected = multipletests([getattr(pair, raw) for pair in found], method="holm")[1]
        assert [getattr(pair, corrected) for pair in found] == pytest.approx(expected)


def test_a_family_is_the_pairs_that_are_asked_for():
    scores = {name: np.random.default_rng(seed).random((3, 4)) for seed, name in enumerate("abc")}
    (pair,) = analysis.agreements(scores, [("c", "a")], permutations=99)
    assert (pair.first, pair.second) == ("c", "a")
    assert pair.p_holm == pair.p
    assert analysis.agreements(scores, [], permutations=99) == []
    assert analysis.agreements({"a": [1.0, 2]}) == []


def test_shuffles_in_parts_are_those_of_one_go(monkeypatch):
    draw = np.random.default_rng(2)
    scores = [draw.random((3, 4)), draw.random((3, 4))]
    whole = [analysis.permutation_p(*scores, within_layers=within, permutations=101) for within in (False, True)]
    monkeypatch.setattr("lm_eval_prune.agreement.CHUNK", 50)
    assert whole == [
        analysis.permutation_p(*scores, within_layers=within, permutations=101) for within in (False, True)
    ]


def test_constant_scores_have_no_p_and_do_not_count_in_the_correction():
    scores = {"flat": np.ones((2, 3)), "up": np.arange(6.0).reshape(2, 3), "down": -np.arange(6.0).reshape(2, 3)}
    found = {(pair.first, pair.second): pair for pair in analysis.agreements(scores, permutations=99)}
    assert math.isnan(found["flat", "up"].rho)
    assert math.isnan(found["flat", "up"].p)
    assert math.isnan(found["flat", "down"].p_holm)
    assert found["up", "down"].p_holm == found["up", "down"].p == pytest.approx(1, abs=0.02)
    ffns = analysis.agreements({"a": [1.0, 2, 3], "b": [1.0, 3, 2]}, permutations=99)[0]
    assert math.isnan(ffns.p_within_layers)
    assert math.isnan(ffns.p_within_layers_holm)


@pytest.mark.parametrize(("size", "share"), [(6, "0.5"), (7, "0.3"), (8, "0.25"), (5, "1")])
def test_overlap_by_chance_is_that_of_every_pair_of_tops(size, share):
    draw = np.random.default_rng(size)
    first, second = draw.random(size), draw.random(size)
    (top,) = analysis.shared_tops(first, second, [share])
    kept = size - math.floor((1 - Fraction(share)) * size)
    tops = [set(np.argsort(values)[size - kept :].tolist()) for values in (first, second)]
    every = [len(tops[0] & set(other)) for other in itertools.combinations(range(size), kept)]
    assert (top.share, top.kept, top.shared) == (Fraction(share), kept, len(tops[0] & tops[1]))
    assert top.expected == pytest.approx(np.mean(every))
    assert top.p == pytest.approx(np.mean([count >= top.shared for count in every]))


def test_rho_across_shots_is_over_the_tasks_that_have_both():
    draw = np.random.default_rng(3)
    scores = {shots: {task: draw.random((3, 4)) for task in "abc"} for shots in (5, 0, 1)}
    del scores[1]["b"]
    scores[0]["flat"] = scores[5]["flat"] = np.ones((3, 4))
    found = {(each.first, each.second): each for each in analysis.cross_shot(scores)}
    assert set(found) == {(0, 1), (0, 5), (1, 5)}
    for (first, second), each in found.items():
        rhos = (
            [rho(scores[first][task], scores[second][task]) for task in scores[1]]
            if 1 in (first, second)
            else [rho(scores[first][task], scores[second][task]) for task in "abc"]
        )
        assert each.num_tasks == len(rhos)
        assert (each.mean, each.least, each.most) == pytest.approx((np.mean(rhos), min(rhos), max(rhos)))
        assert each.variance == pytest.approx(np.mean((np.array(rhos) - np.mean(rhos)) ** 2))
    assert analysis.cross_shot({0: {"a": [1.0, 2]}}) == []


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ScoreError, match=r"a has scores of shape \(2,\), b of \(3,\)"):
        analysis.agreements({"a": [1.0, 2], "b": [1.0, 2, 3]})
    with pytest.raises(ScoreError, match="b: scores must be finite"):
        analysis.permutation_p([1.0, 2], [1.0, math.nan])
    with pytest.raises(ScoreError, match="a has scores of shape"):
        analysis.cross_shot({0: {"x": [1.0, 2]}, 1: {"x": [1.0, 2, 3]}})
    with pytest.raises(ArgumentError, match="permutations=0: expected at least 1"):
        analysis.permutation_p([1.0, 2], [1.0, 2], permutations=0)
