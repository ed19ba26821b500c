"""Rank agreement, overlap and retained capacity, against counts made by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_prune import analysis
from lm_eval_prune.errors import ArgumentError, FractionError, ScoreError
from lm_eval_prune.masks import PruningMask


def rho_by_hand(a, b):
    """1 - 6 sum d^2 / (n (n^2 - 1)) over ranks without ties."""
    ranks = [sorted(values).index(value) for values in (a, b) for value in values]
    n = len(a)
    return 1 - 6 * sum((x - y) ** 2 for x, y in zip(ranks[:n], ranks[n:], strict=True)) / (n * (n * n - 1))


distinct = st.lists(st.floats(-100, 100), min_size=2, max_size=12, unique=True)


@settings(deadline=None)  # the first call imports scipy
@given(distinct, st.randoms())
def test_rho_is_that_of_the_scores(values, draw):
    other = draw.sample(values, len(values))
    assert analysis.rank_agreement(values, other).rho == pytest.approx(rho_by_hand(values, other))


def test_rho_of_nearly_equal_rankings_is_high_and_the_papers_is_not():
    draw = np.random.default_rng(0)
    scores = draw.random((12, 12))
    agreement = analysis.rank_agreement(scores, scores + 0.05 * draw.standard_normal((12, 12)))
    assert agreement.rho > 0.95
    assert abs(agreement.paper) < 0.3


def test_within_layers_the_depth_profile_does_not_count():
    depth = np.array([[0.0], [100.0], [200.0]])
    up, down = depth + np.array([1.0, 2.0, 3.0]), depth + np.array([3.0, 2.0, 1.0])
    agreement = analysis.rank_agreement(up, down)
    assert agreement.rho > 0.7
    assert agreement.rho_within_layers == pytest.approx(-1)
    assert math.isnan(analysis.rank_agreement([1, 2, 3], [1, 3, 2]).rho_within_layers)


def test_constant_scores_have_no_rank():
    assert math.isnan(analysis.rank_agreement([1, 1, 1], [1, 2, 3]).rho)


def test_table_has_every_pair_and_rows_for_aggregate_and_random():
    scores = {"piqa": [[1.0, 2], [3, 4]], "copa": [[4.0, 3], [2, 1.5]]}
    table = analysis.agreement_table(scores, seed=3)
    pairs = [(row.first, row.second) for row in table]
    assert pairs == [
        ("piqa", "copa"),
        ("piqa", "aggregate"),
        ("piqa", "random"),
        ("copa", "aggregate"),
        ("copa", "random"),
        ("aggregate", "random"),
    ]
    assert table[0].rho == pytest.approx(-1)
    assert table[1].rho == pytest.approx(rho_by_hand([1, 2, 3, 4], [2.5, 2.5 + 1e-9, 2.5 + 2e-9, 2.75]), abs=0.3)
    assert table == analysis.agreement_table(scores, seed=3)
    with pytest.raises(ArgumentError, match="named 'random'"):
        analysis.agreement_table({"random": [1, 2]})


@given(st.lists(st.integers(0, 3), min_size=4, max_size=12), st.integers(0, 100))
def test_kept_components_are_those_of_the_mask(values, percent):
    fraction = Fraction(percent, 100)
    mask = PruningMask.from_importance(ffn_scores=values, ffn_fraction=fraction, num_attention_heads=1)
    assert analysis.kept_components(values, fraction) == set(mask.ffn_mask.nonzero().flatten().tolist())


def test_overlap_by_hand():
    points = analysis.overlap([1, 2, 3, 4], [4, 3, 1, 2], ["0", "0.5", 0.75, 1])
    assert [(point.kept, point.by_chance) for point in points] == [(4, 1), (2, 0.5), (1, 0.25), (0, 0)]
    assert [point.shared for point in points[:3]] == [1, 0, 0]
    assert math.isnan(points[3].shared)
    assert analysis.overlap([1, 2, 3, 4], [1, 4, 2, 3], [0.5])[0].shared == 0.5
    with pytest.raises(FractionError, match=r"1\.5"):
        analysis.overlap([1, 2], [1, 2], [1.5])


def test_retained_capacity_by_hand():
    importance, capacity = [[1, 4], [2, 3]], [[0.5, 0.1], [0.0, 0.4]]
    points = analysis.retained_capacity(importance, capacity, [0, 0.25, 0.5, 1])
    assert [point.retained for point in points] == pytest.approx([1, 0.5, 0.5, 0])
    for bad in ([[0, 0], [0, 0]], [[1, -1], [1, 1]]):
        with pytest.raises(ScoreError, match="capacity"):
            analysis.retained_capacity(importance, bad)


def test_scores_that_do_not_fit():
    with pytest.raises(ScoreError, match=r"x has scores of shape \(2,\), y of \(3,\)"):
        analysis.rank_agreement([1, 2], [1, 2, 3], names=("x", "y"))
    with pytest.raises(ScoreError, match="b: scores must be finite"):
        analysis.overlap([1, 2], [1, math.nan])
