"""Searches under a budget of time: what is measured, and masks by it, with stand-ins for the clock."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_search import scores, search
from transformers import LlamaConfig, LlamaForCausalLM

from lm_eval_prune import PrunedModel, PruningMask, compact
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.search import latency
from lm_eval_prune.search.budget import Costs, Unit, mask_of, parse_budget
from lm_eval_prune.search.knapsack import best_kept, unit_values
from lm_eval_prune.search.latency import Latency, fitted, forward_seconds, measured, probes
from lm_eval_prune.search.run import begin, run_search

BUDGET = parse_budget("latency=0.6")


@pytest.fixture(scope="module")
def grouped():
    """A tiny model whose 8 query heads share 4 key/value heads."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=256,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def some_mask(draw, layers=3, groups=4, size=2):
    units = [Unit(layer, tuple(range(first, first + size))) for layer in range(layers)
             for first in range(0, groups * size, size)]  # fmt: skip
    units += [Unit(layer, ()) for layer in range(layers)]
    return mask_of((layers, groups * size), [unit for unit in units if draw.random() < 0.5])


@pytest.mark.parametrize("seed", range(4))
def test_times_that_are_such_a_sum_are_found_and_told_for_every_mask(seed):
    draw = np.random.default_rng(seed)
    base, attention, group, ffn = draw.integers(0, 10**6, 4)

    def true(mask):
        kept = [{head // 2 for head in mask.kept_heads(layer)} for layer in range(3)]
        return (
            base + sum(attention * bool(some) + group * len(some) for some in kept) + ffn * (3 - len(mask.pruned_ffns))
        )

    masks = probes((3, 8), 4)
    assert len(masks) == len(set(masks)) == 5
    found = fitted(masks, [float(true(mask)) / 1e9 for mask in masks], 4)
    for mask in (some_mask(draw) for _ in range(10)):
        assert found.of(mask, 4) == pytest.approx(true(mask), abs=20)


def test_of_models_that_are_timed_by_their_size_it_tells_the_size_of_each(grouped):
    """Numbers of parameters are such a sum: a clock that goes by them says what every compact model has."""
    lm = SimpleNamespace(model=grouped, config=grouped.config, mask=PruningMask.dense(3, 8), device=torch.device("cpu"))
    found = measured(lm, 4, seconds_of=lambda model: model.num_parameters() / 1e6)
    draw = np.random.default_rng(0)
    for mask in (some_mask(draw) for _ in range(6)):
        assert found.of(mask, 4) == pytest.approx(compact(grouped, mask).num_parameters() * 1e3, rel=1e-4)
    assert (found.device, found.dtype) == ("cpu", "float32")
    lm.model, lm.config = (smaller := compact(grouped, some_mask(draw))), smaller.config
    with pytest.raises(ArgumentError, match="compacted already"):
        measured(lm, 4)


def test_a_pass_takes_the_least_of_its_times_and_those_of_warming_up_do_not_count(grouped):
    seconds = [0.5, 0.5, 0.5, *np.random.default_rng(0).uniform(2, 3, 19), 1.5]
    moments = itertools.chain.from_iterable((at * 10.0, at * 10.0 + took) for at, took in enumerate(seconds))
    assert forward_seconds(grouped, clock=lambda: next(moments)) == pytest.approx(1.5)
    assert next(moments, None) is None


@pytest.mark.parametrize("seed", range(6))
def test_the_knapsack_over_times_keeps_what_a_search_of_all_choices_keeps(grouped, seed):
    """The last heads of a layer save more than the others, which the choice knows."""
    draw = np.random.default_rng(seed)
    times = Latency(base=50, attention=int(draw.integers(20, 90)), group=int(draw.integers(1, 20)), ffn=30)
    costs = Costs(grouped.config, BUDGET, 0, times)
    units = [unit for unit in costs.units(heads=True, ffns=True) if unit.layer < 2]
    values = draw.random(len(units)).round(2)
    gone = best_kept(units, values, costs)
    assert costs.left(mask_of((3, 8), gone)) <= costs.allowed
    best = min(
        sum(value for value, goes in zip(values, choice, strict=True) if goes)
        for choice in itertools.product((False, True), repeat=len(units))
        if costs.left(mask_of((3, 8), [unit for unit, goes in zip(units, choice, strict=True) if goes]))
        <= costs.allowed
    )
    assert sum(values[units.index(unit)] for unit in gone) == pytest.approx(best, abs=1e-6)


def test_a_search_keeps_its_times_and_measures_what_came_of_it(tmp_path, monkeypatch):
    scores(np.random.default_rng(0).random((6, 6))).save(tmp_path / "heads.json")
    scores(np.random.default_rng(1).random(6)).save(tmp_path / "ffns.json")
    files = {"head_importance": tmp_path / "heads.json", "ffn_importance": tmp_path / "ffns.json"}
    asked = {"budget": "latency=0.6", "trials": 0, "limit": 4, "tasks": ["demo_facts"]}
    config, timed = search(tmp_path / "search", files, **asked), []

    def by_size(model):
        timed.append(model.num_parameters() / 1e9)
        return timed[-1]

    monkeypatch.setattr(latency, "forward_seconds", by_size)
    begin(config, write=False)
    assert not (tmp_path / "search").exists()
    found = run_search(config, progress=False)
    assert found.cost <= found.allowed < found.total
    whole = PrunedModel(device="cpu").model
    mask = PruningMask.load(tmp_path / "search" / "mask.json")
    assert found.seconds == (whole.num_parameters() / 1e9, compact(whole, mask).num_parameters() / 1e9)
    assert found.cost == pytest.approx(found.seconds[1] * 1e9, rel=1e-4)
    assert any("measured here: " in line and " ms whole: 0.5" in line for line in found.lines("latency"))
    number = len(timed)
    again = run_search(config, progress=False)
    assert len(timed) == number + 2  # the masks are of the same times, whatever the machine does now
    assert again == found
    assert {path.name for path in (tmp_path / "search").iterdir() if path.is_file()} == {
        "latency.json", "mask.json", "plain.json", "search.json"}  # fmt: skip
    with pytest.raises(PruneError, match=r"times are of this machine, and workers on Ray may be on others"):
        search(tmp_path / "ray", files, executor="ray", **asked)
    (tmp_path / "search" / "latency.json").write_text('{"base": -1}')
    with pytest.raises(PruneError, match=r"latency\.json: "):
        begin(config)


def test_values_and_times_choose_ffns_alone_too(grouped):
    costs = Costs(grouped.config, parse_budget("latency=0.8"), 0, Latency(base=10, attention=10, group=1, ffn=20))
    units = costs.units(heads=False, ffns=True)
    gone = best_kept(units, unit_values(units, None, scores([3.0, 1.0, 2.0], 8)), costs)
    assert [unit.layer for unit in gone] == [1, 2]  # 112 may be 89
