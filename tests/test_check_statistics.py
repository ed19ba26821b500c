"""The simulation of the verdicts' error rates, in small: it judges as the leaderboard does, and the rates hold."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lm_eval_prune.intervals import Z
from lm_eval_prune.report.averages import declines
from lm_eval_prune.report.cells import difference_of
from lm_eval_prune.report.parts import paired_part
from lm_eval_prune.report.statistics import Estimate

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
simulation = pytest.importorskip("check_statistics", reason="benchmarks/ is not beside the tests")
Shape, simulated = simulation.Shape, simulation.simulated

REPLICATES = 400
SEEDS = [(seed, 0) for seed in range(3)]


def most(percent):
    """The percentage that chance alone exceeds in one of 400 simulations."""
    return percent + 100 * 2.8 * np.sqrt(percent / 100 * (1 - percent / 100) / REPLICATES)


def test_all_replicates_at_once_are_judged_as_one_by_one():
    shape = Shape("averages", (60, 200, 1000), 0.02, 1.0)
    counts = simulation.counted(shape, 5, np.random.default_rng(0)).astype(float)
    low, high, least = simulation.judged(counts)
    for place, tasks in enumerate(counts.astype(int)):
        estimate = Estimate([(1 / 3, paired_part(np.repeat([-1.0, 0.0, 1.0], task))) for task in tasks])
        assert (low[place], high[place]) == pytest.approx(estimate.interval, abs=1e-9)
        assert least == pytest.approx(estimate.least())


def test_intervals_searched_together_are_those_one_by_one():
    draws = np.random.default_rng(0)
    tables = [draws.choice([-1.0, 0.0, 1.0], (60, 3), p=[0.05, 0.92, 0.03]) for _ in range(4)]
    for number in (1, 2):
        found, alone = (
            [
                Estimate([(1 / number, paired_part(table, draws=SEEDS)) for table in tables[first : first + number]])
                for first in (0, 2)
            ]
            for _ in range(2)
        )
        simulation.search_together(found, 3)
        for one, other in zip(found, alone, strict=True):
            assert one.interval == pytest.approx(other.limits(1.0000001 * Z), abs=1e-6)


def test_a_walk_is_the_minimal_decline_of_the_board():
    shape = Shape("walks", (500, 700), 0.002, 1.0, walk=(0.0, 0.2, 0.5, 1.0, 2.0))
    within = simulation.walked(shape, 12, np.random.default_rng(0))
    counts = simulation.walk_counts(shape, 12, np.random.default_rng(0)).astype(int)
    assert within.any()
    assert not within.all()
    for passed, shares in zip(within, counts, strict=True):
        entries = []
        for share, tasks in enumerate(shares, 1):
            estimate = Estimate([(1 / 2, paired_part(np.repeat([-1.0, 0.0, 1.0], task))) for task in tasks])
            average = SimpleNamespace(difference=difference_of(estimate, "paired score", 1200, ""))
            named = {"model": "m", "named_ranking": "own", "oracle": False, "is_dense": False, "num_fewshot": 0}
            pruned = {"prune_heads": f"0.{share}", "prune_ffns": "0", "share": {"heads": f"0.{share}"}.get}
            runs = [SimpleNamespace(sequential=None)]
            entries.append(SimpleNamespace(**pruned, runs=runs, average=average, **named))
        (decline,) = declines(entries, 0.01)
        assert float(decline.fraction) == pytest.approx(0.1 * np.cumprod(passed).sum())


FALSE = [
    Shape("tasks", (56,), 0.0, 1.0),
    Shape("tasks", (104,), 0.01, 1.0),
    Shape("tasks", (638,), 0.0, 1.0),
    Shape("averages", (60,) * 5, 0.0, 1.0),
    Shape("averages", (200,) * 14, 0.01, 1.0, where="one task"),
    Shape("passages", (83 * 58,), 0.01, 1.0, passage=58, passages="mixed"),
    Shape("passages", (400 * 10,), 0.01, 1.0, passage=10, passages="mixed"),
    Shape("draws", (200,), 0.03, 1.0, draws=3, between=0.005),
    Shape("draws", (1000,), 0.03, 1.0, draws=3, answers="mixed"),
    Shape("walks", (500,), 0.0, 1.0, walk=(0.0, 0.5, 1.0, 2.0)),
    Shape("walks", (200,) * 14, 0.01, 1.0, walk=(1.0,) * 9),
]


@pytest.mark.parametrize("shape", FALSE, ids=str)
def test_a_loss_of_the_margin_is_rarely_within_it(shape):
    assert simulated((shape, REPLICATES))["within"] <= most(2.5)


COVERED = [
    Shape("passages", (83 * 58,), 0.01, 1.0, passage=58, passages="mixed"),
    Shape("passages", (83 * 58,), 0.05, 1.0, passage=58, passages="mixed"),
    Shape("passages", (400 * 58,), 0.05, 1.0, passage=58, passages="mixed"),
    Shape("passages", (1000 * 3,), 0.05, 1.0, passage=3, passages="spread"),
    Shape("draws", (200,), 0.03, 1.0, draws=3, answers="mixed"),
]


@pytest.mark.parametrize("shape", COVERED, ids=str)
def test_a_loss_in_whole_passages_is_covered(shape):
    assert 100 - simulated((shape, REPLICATES))["covered"] <= most(6)


@pytest.mark.parametrize(
    "shape", [Shape("tasks", (277,), 0.05, 0.0), Shape("rows", (277,), 0.05, 0.0, rows=20)], ids=str
)
def test_no_difference_is_rarely_shown(shape):
    assert simulated((shape, REPLICATES))["shown"] <= most(5)


def test_power_is_that_of_a_test_that_knows_the_variance():
    found = simulated((Shape("power", (1000,), 0.02, 0.0), 2000))
    assert found["within"] >= 0.9 * 35.24  # of the normal test, in percent


def test_all_shapes_that_users_have_are_there():
    found = list(simulation.shapes())
    assert len(set(map(str, found))) == len(found)
    assert {shape.group for shape in found} == {"tasks", "averages", "passages", "draws", "rows", "walks"}
    assert {shape.passage for shape in found} >= {1, 58}
    assert {shape.draws for shape in found} >= {1, 2, 5}
