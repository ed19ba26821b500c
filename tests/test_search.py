"""Searches under a budget: the knapsack, the parts of documents that never meet, and what choosing cost."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_sweep import GRID, cells, samples, settings
from transformers import LlamaConfig, LlamaForCausalLM

from lm_eval_prune import PrunedModel, PruningMask, compact
from lm_eval_prune.cli.main import cli
from lm_eval_prune.decoders.skeleton import flops_per_token
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.search.budget import Costs, Unit, mask_of, parse_budget
from lm_eval_prune.search.knapsack import best_kept, unit_values
from lm_eval_prune.search.run import SearchConfig, run_search
from lm_eval_prune.search.trials import weighted
from lm_eval_prune.search.verdict import Estimated, price
from lm_eval_prune.splits import documents_of
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.sweep.run import run_sweep

PLACE = {"num_fewshot": [2], "prune_heads": ["0"], "ranking": ["own"], "limit": 16}


def scores(values, heads=6):
    tensor = torch.tensor(np.asarray(values), dtype=torch.float64)
    return ImportanceScores.from_tensor(tensor, num_attention_heads=heads, settings={"method": "made up"})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Made-up scores of the bundled model's heads and FFNs, as files."""
    folder, draw = tmp_path_factory.mktemp("scores"), np.random.default_rng(0)
    scores(draw.random((6, 6))).save(folder / "heads.json")
    scores(draw.random(6)).save(folder / "ffns.json")
    return {"head_importance": folder / "heads.json", "ffn_importance": folder / "ffns.json"}


def search(folder, files, budget="parameters=0.6", **changes):
    trials = changes.pop("trials", 5)
    return SearchConfig(
        budget=parse_budget(budget), sweep=settings(folder, **{**PLACE, **changes}), trials=trials, **files
    )


# -- the knapsack -------------------------------------------------------------------------------------------------


def made_up_costs(own, share):
    total = int(sum(own)) + 10
    return SimpleNamespace(
        total=total,
        allowed=math.floor(share * total),
        budget="made up",
        of=lambda unit: int(own[unit.layer]),
        last_of_a_layer=0,
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_knapsack_keeps_what_a_search_of_all_choices_keeps(seed):
    draw = np.random.default_rng(seed)
    own, values = draw.integers(1, 30, 11), draw.random(11).round(2)
    units = [Unit(layer, ()) for layer in range(11)]
    costs = made_up_costs(own, draw.uniform(0.2, 0.9))
    gone = {unit.layer for unit in best_kept(units, values, costs)}
    best = max(
        sum(values[place] for place in range(11) if kept[place])
        for kept in itertools.product((False, True), repeat=11)
        if 10 + sum(own[place] for place in range(11) if kept[place]) <= costs.allowed
    )
    assert costs.total - sum(own[place] for place in gone) <= costs.allowed
    assert sum(values[place] for place in range(11) if place not in gone) == pytest.approx(best, abs=1e-7)


def test_a_budget_that_cannot_be_met_says_what_is_the_least():
    with pytest.raises(ArgumentError, match=r"all that may go leaves 0\.\d+ of them"):
        best_kept([Unit(0, ())], np.ones(1), made_up_costs([10], 0.1))


@pytest.fixture(scope="module")
def grouped():
    """A tiny model whose 8 query heads share 2 key/value heads."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", ["parameters=0.7", "flops=0.6", "kv_bytes=0.5", "parameters=0.45"])
def test_a_mask_meets_its_budget_as_the_compact_model_is_counted(grouped, budget, seed):
    draw, total = np.random.default_rng(seed), grouped.num_parameters()
    costs = Costs(grouped.config, parse_budget(budget), total)
    units = costs.units(heads=True, ffns=True)
    assert [unit.heads for unit in units[:2]] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    values = unit_values(units, scores(draw.random((3, 8)), 8), scores(draw.random(3), 8))
    mask = mask_of((3, 8), best_kept(units, values, costs))
    assert {len(heads) % 4 for heads in mask.pruned_heads.values()} <= {0}
    whole = compact(grouped, mask).num_parameters()
    kept = sum(len({head // 4 for head in mask.kept_heads(layer)}) for layer in range(3))
    left = {"parameters": whole / total, "kv_bytes": kept / 6}
    left["flops"] = flops_per_token(grouped.config, mask) / flops_per_token(
        grouped.config, PruningMask.dense(3, 8)
    )  # fmt: skip
    kind, _, share = budget.partition("=")
    assert left[kind] <= float(share)
    assert left[kind] == pytest.approx(costs.left(mask) / costs.total)
    if kind == "kv_bytes":
        assert mask.pruned_ffns == ()  # nothing would be saved by them
    if kind == "parameters":  # nothing goes that could stay
        for unit in units:
            if unit.heads and unit.heads[0] in mask.pruned_heads.get(unit.layer, ()):
                back = mask - mask_of((3, 8), [unit])
                assert costs.left(back) > costs.allowed


def test_values_of_heads_and_ffns_add_up_to_one_each_and_factors_multiply_them():
    units = [Unit(0, (0, 1)), Unit(0, (2, 3)), Unit(1, (0, 1)), Unit(1, (2, 3)), Unit(0, ()), Unit(1, ())]
    values = unit_values(units, scores([[1, 2, 3, 4], [0, 0, 5, 5]], 4), scores([-1.0, 3.0], 4))
    assert values.tolist() == pytest.approx([3 / 20, 7 / 20, 0, 10 / 20, 0, 1])
    factors = {"ffns": 1.0, **{f"{kind}_{knot}": 0.0 for kind in ("heads", "ffns") for knot in range(4)}}
    assert weighted(units, values, factors)[:4].tolist() == pytest.approx(values[:4].tolist())
    assert weighted(units, values, factors)[5] == pytest.approx(math.e)
    assert weighted(units, values, {**factors, "heads_3": 2.0})[3] == pytest.approx(0.5 * math.e**2)
    assert weighted(units, values, {}) is values


@pytest.mark.parametrize(
    "text", ["parameters", "parameters=1", "parameters=0", "time=0.5", "latency=2", "=0.5", "flops=x"]
)
def test_a_budget_that_is_none_is_one_line(text):
    with pytest.raises(ArgumentError, match="expected parameters, flops, kv_bytes, latency = a share between 0 and 1"):
        parse_budget(text)


# -- parts of the documents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["", "passage"])
def test_parts_are_disjoint_stable_and_keep_passages_whole(field):
    documents = [{"passage": f"p{number // 3}", "question": number % 500} for number in range(900)]

    def split(given, seed=1):
        return {part: documents_of(given, field, part, Fraction("0.3"), seed) for part in ("development", "test")}

    found = split(documents)
    assert sorted(found["development"] + found["test"]) == list(range(900))
    assert 0.2 < len(found["development"]) / 900 < 0.4
    if field:
        passages = {part: {index // 3 for index in indices} for part, indices in found.items()}
        assert not passages["development"] & passages["test"]
    fewer = split(documents[:100])  # the part of a document does not depend on the others
    assert fewer["development"] == [index for index in found["development"] if index < 100]
    backwards = split(documents[::-1])
    assert [899 - index for index in backwards["development"]][::-1] == found["development"]
    assert split(documents, seed=2) != found


def test_both_parts_of_a_sweep_are_the_whole_and_share_no_document(tmp_path):
    grid = {"tasks": ["demo_facts"], "num_fewshot": [0], "ranking": ["random:0"], "limit": 16}
    outcomes = {}
    for part in ("all", "development", "test"):
        sweep = run_sweep(settings(tmp_path / part, part=part, **grid), progress=False)
        for row in sweep.rows:
            for sample in sweep.samples(row.cell):
                outcomes.setdefault((part, row.variant.ranking), {})[sample["doc_hash"]] = sample["filtered_resps"]
    for ranking in ("dense", "random"):
        parts = [outcomes[part, ranking] for part in ("development", "test")]
        assert not parts[0].keys() & parts[1].keys()
        found, whole = parts[0] | parts[1], outcomes["all", ranking]
        assert found.keys() == whole.keys()
        for document, answers in whole.items():  # packed with others: the same but for rounding
            values = [[value for value, _ in some] for some in (found[document], answers)]
            assert values[0] == pytest.approx(values[1], abs=1e-3)
        assert min(map(len, parts)) >= 3


# -- searches -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "search"
    return folder, run_search(search(folder, files), progress=False)


def score_of(folder, part, ranking):
    """The mean over tasks of `acc` in the cells, by document."""
    rows = [row for row in Sweep(folder / part).rows if row.variant.ranking == ranking]
    by_task = [np.mean([s["acc"] for s in disk.read_samples(disk.cell_path(folder / part, r.cell))]) for r in rows]
    assert len(by_task) == 2
    return np.mean(by_task)


def test_the_best_on_development_is_judged_on_test_beside_dense_and_the_plain_ranking(finished, files):
    folder, verdict = finished
    trials = [score_of(folder, "development", f"mask:masks/trial-000{number}.json") for number in range(6)]
    assert verdict.development == pytest.approx(max(trials))
    assert verdict.trial == int(np.argmax(trials))
    mask, plain = (PruningMask.load(folder / name) for name in ("mask.json", "plain.json"))
    assert mask == PruningMask.load(folder / "masks" / f"trial-000{verdict.trial}.json")
    assert (plain.num_pruned_heads, plain.num_pruned_ffns) == (mask.num_pruned_heads, mask.num_pruned_ffns)
    shares = [mask.num_pruned_heads, mask.num_pruned_ffns]
    both = [ImportanceScores.load(files[f"{kind}_importance"]).tensor() for kind in ("head", "ffn")]
    lowest = [set(np.argsort(one.numpy().ravel(), kind="stable")[:n]) for one, n in zip(both, shares, strict=True)]
    assert {6 * layer + head for layer, some in plain.pruned_heads.items() for head in some} == lowest[0]
    assert set(plain.pruned_ffns) == lowest[1]
    named = folder.name
    assert verdict.test == pytest.approx(score_of(folder, "test", f"mask:{named}/mask.json"))
    assert verdict.plain == pytest.approx(score_of(folder, "test", f"mask:{named}/plain.json"))
    assert verdict.dense == pytest.approx(score_of(folder, "test", "dense"))
    assert verdict.against_dense.value == pytest.approx(verdict.test - verdict.dense)
    cost = verdict.development - score_of(folder, "development", "dense") - verdict.against_dense.value
    assert verdict.price.value == pytest.approx(cost)
    assert verdict.price.low < verdict.price.value < verdict.price.high
    count = compact(PrunedModel(device="cpu").model, mask).num_parameters()
    assert verdict.cost == count <= verdict.allowed == math.floor(0.6 * verdict.total)
    assert json.loads((folder / "search.json").read_text())["price"]["value"] == verdict.price.value


def test_no_test_document_is_met_before_the_choice_is_made(finished):
    folder, _ = finished
    seen = {}
    for part in ("development", "test"):
        sweep = Sweep(folder / part)
        seen[part] = {(row.task, s["doc_hash"]) for row in sweep.rows for s in sweep.samples(row.cell)}
    assert not seen["development"] & seen["test"]
    assert len(seen["development"] | seen["test"]) == 2 * 16


def same(folder, other):
    for part in ("development", "test"):
        numbers = [
            {name: one["results"] for name, one in cells(place / part).items()} for place in (folder, other)
        ]  # beside them stands where a mask's file lies
        assert numbers[0] == numbers[1]
        assert samples(folder / part) == samples(other / part)
    for path in sorted(other.glob("masks/*.json")):
        assert PruningMask.load(folder / "masks" / path.name) == PruningMask.load(path)
    assert json.loads((folder / "search.json").read_text()) == json.loads((other / "search.json").read_text())


def test_stopped_anywhere_and_started_again_it_ends_the_same(finished, files, tmp_path):
    class Killed(BaseException):
        pass

    computed, folder = [], tmp_path / "search"

    def say(line):
        if ": acc " in line:
            computed.append(line)
            if len(computed) in (1, 5, 11, 17):
                raise Killed

    for _ in range(4):
        with pytest.raises(Killed):
            run_search(search(folder, files), say=say, progress=False)
    verdict = run_search(search(folder, files), say=say, progress=False)
    assert verdict == finished[1]
    same(folder, finished[0])
    assert len(computed) == len(cells(folder / "development")) + len(cells(folder / "test"))  # none twice


def one_of_two(folder, files, results):
    results.put(run_search(search(folder, files), progress=False))


@pytest.mark.slow
def test_two_processes_on_one_folder_share_the_trials(finished, files, tmp_path):
    spawned = multiprocessing.get_context("spawn")
    results, folder = spawned.Queue(), tmp_path / "search"
    processes = [spawned.Process(target=one_of_two, args=(folder, files, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(60)
    assert found[0] == found[1] == finished[1]


def test_other_settings_in_one_folder_and_scores_of_another_model_are_refused(finished, files, tmp_path):
    folder = finished[0]
    with pytest.raises(ArgumentError, match=r"trial-0000\.json: of a search with other settings; give another --out"):
        run_search(search(folder, files, budget="parameters=0.5"), progress=False)
    scores(np.ones((2, 8)), 8).save(tmp_path / "other.json")
    with pytest.raises(PruneError, match="scores of 2 layers of 8 heads; the model has 6 of 6"):
        run_search(search(tmp_path / "new", {"head_importance": tmp_path / "other.json"}), progress=False)
    assert not (tmp_path / "new").exists()


def test_without_optuna_the_knapsack_alone_works_and_trials_are_one_line(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ArgumentError, match=r"needs the package optuna: pip install 'lm-eval-prune\[search\]'"):
        run_search(search(tmp_path / "search", files), progress=False)
    assert not (tmp_path / "search").exists()
    verdict = run_search(search(tmp_path / "search", files, trials=0, limit=8), progress=False)
    assert (verdict.trial, verdict.trials) == (0, 0)


def test_the_price_of_choosing_is_a_difference_of_independent_estimates():
    found = price(Estimated(0.02, -0.01, 0.06), Estimated(-0.03, -0.07, 0.0))
    assert found == tuple(map(pytest.approx, (0.05, 0.05 - math.hypot(0.03, 0.03), 0.05 + math.hypot(0.04, 0.04))))


def test_the_command_plans_without_writing_and_reports(files, tmp_path):
    folder = tmp_path / "search"
    command = ["search", "--budget", "parameters=0.6", "--trials", "1", "-o", str(folder), "--tasks", "demo_facts"]
    command += ["--num_fewshot", "0", "--limit", "8", "--include_path", GRID["include_path"]]
    command += [part for name, path in files.items() for part in (f"--{name}", str(path))]
    planned = CliRunner().invoke(cli, [*command, "--dry_run"])
    assert planned.exit_code == 0, planned.output
    assert "development: 3 cells, about" in planned.output
    assert "test: 3 cells, about" in planned.output
    assert not folder.exists()
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    for line in ("development score: ", "test score: ", "test, to dense: ", "test, to plain: ", "price of choosing: "):
        assert line in done.output
