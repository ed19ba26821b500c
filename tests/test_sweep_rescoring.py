"""Rankings whose scores are taken again as heads and FFNs go."""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_sweep import GRID, same, settings

from lm_eval_prune import PrunedModel, PruningMask, evaluate, importance_scores
from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import PruneError, ScoreError
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.mask_files import mask_digest
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.score_sets import score_sets
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep import worker
from lm_eval_prune.sweep.ranking import parse_ranking
from lm_eval_prune.sweep.rescoring import grown, grown_in_steps, steps_to
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.sweep.run import run_sweep

LAYERS, HEADS = 6, 6
PLACE = {"include_path": GRID["include_path"], "include_defaults": False}
SMALL = {"num_fewshot": [2], "ranking": ["own:rescored@0.25", "aggregate:rescored@0.4"], "limit": 4,
         "prune_heads": ["0", "0.25", "0.6"], "prune_ffns": ["0", "0.5"], "importance_limit": 5}  # fmt: skip


def mask_of(folder, row):
    content = disk.read_cell(disk.cell_path(folder, row.cell))["pruning"]["mask"]
    return PruningMask.from_dict(content)


def pruned(mask):
    return {(layer, head) for layer, heads in mask.pruned_heads.items() for head in heads}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep with rankings that are rescored."""
    folder = tmp_path_factory.mktemp("rescored") / "sweep"
    assert run_sweep(settings(folder, **SMALL), progress=False).failed == []
    return folder


# -- what a ranking is called -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "order", "unit", "step"),
    [
        ("own:rescored@0.1", "own", "least", "head", "1/10"),
        ("most:own:rescored@.05", "own", "most", "head", "1/20"),
        ("kv_group:aggregate:rescored@0.25", "aggregate", "least", "kv_group", "1/4"),
        ("aggregate:a+b@5:rescored@0.3", "aggregate", "least", "head", "3/10"),
        ("task:piqa:rescored@0.001", "task", "least", "head", "1/1000"),
    ],
)
def test_rescored_rankings_are_read_as_written(text, kind, order, unit, step):
    found = parse_ranking(text)
    assert (found.text, found.kind, found.order, found.unit) == (text, kind, order, unit)
    assert found.step == Fraction(step)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own:rescored@0", "a step from 0.001 to below 1"),
        ("own:rescored@1", "a step from 0.001 to below 1"),
        ("own:rescored@0.0001", "a step from 0.001 to below 1"),
        ("own:rescored@x", "a step from 0.001 to below 1"),
        ("own:rescored@", "a step from 0.001 to below 1"),
        ("random:0:rescored@0.1", "expected own"),
        ("random:0+1:rescored@0.1", "expected own"),
        ("task:closest:rescored@0.1", "rescored goes with own, aggregate and task:NAME"),
        ("own:rescored@0.1:rescored@0.2", "rescored goes with own, aggregate and task:NAME"),
        ("heads.json:rescored@0.1", "rescored goes with own, aggregate and task:NAME"),
        ("block_influence:rescored@0.1", "rescored goes with own, aggregate and task:NAME"),
        ("layer:own:rescored@0.1", "or layer: for whole layers (block_influence, random: or a file)"),
    ],
)
def test_rescored_rankings_that_cannot_be_are_one_line(text, message):
    with pytest.raises(PruneError) as stop:
        parse_ranking(text)
    assert text in str(stop.value)
    assert message in str(stop.value) or "rescored goes with own" in str(stop.value)


# -- growing ------------------------------------------------------------------------------------------------------


def scores_of(values, heads=8):
    return ImportanceScores.from_tensor(torch.tensor(values, dtype=torch.float64), num_attention_heads=heads)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", ["least", "most"])
@pytest.mark.parametrize(("shape", "size"), [((4, 8), 1), ((4, 8), 2), ((9, 8), 8), ((5,), 1)])
def test_each_step_takes_the_first_of_what_is_left_and_nothing_comes_back(shape, size, order, seed):
    draw = np.random.default_rng(seed)
    unit = {1: "head", 2: "kv_group", 8: "attention"}[size]
    prefix = "" if size == 1 else f"{unit}:"
    ranking = parse_ranking(f"{prefix}{'most:' if order == 'most' else ''}own:rescored@0.15")
    given = []
    made = {}

    def scores_under(mask):
        given.append(mask)
        # Few values, so that many are equal; anew for each mask.
        return made.setdefault(mask, scores_of(draw.integers(0, 4, shape)))

    before = set()
    for share in ("0.1", "0.15", "0.4", "0.45", "0.95"):
        given.clear()
        mask = grown_in_steps(ranking, Fraction(share), (shape[0], 8), scores_under, 8 // size)
        gone, seen = [], []
        for end in [*np.arange(1, 10) * Fraction("0.15")]:
            end = min(end, Fraction(share))
            values = np.asarray(made[seen[-1] if seen else None]).reshape(shape[0], -1, size if len(shape) > 1 else 1)
            flat = values.sum(-1).ravel() * (-1 if order == "most" else 1)
            left = sorted((value, place) for place, value in enumerate(flat) if place not in gone)
            gone += [place for _, place in left[: math.floor(end * flat.size) - len(gone)]]
            if len(shape) == 1:
                now = PruningMask(num_hidden_layers=shape[0], num_attention_heads=8, pruned_ffns=tuple(sorted(gone)))
            else:
                heads = {}
                for place in gone:
                    layer, group = divmod(place, 8 // size)
                    heads.setdefault(layer, []).extend(range(group * size, group * size + size))
                now = PruningMask(num_hidden_layers=shape[0], num_attention_heads=8, pruned_heads=heads)
            if end == Fraction(share):
                break
            seen.append(None if now.is_dense else now)
        assert mask == now
        assert given == [None, *seen]
        parts = {*pruned(mask), *mask.pruned_ffns}
        assert before <= parts
        before = parts
    assert unit == ranking.unit


def test_up_to_the_first_step_it_is_the_plain_ranking():
    values = np.random.default_rng(0).integers(0, 5, (4, 8)).astype(float)
    for share in ("0", "0.1", "0.29", "0.3"):
        plain = PruningMask.from_importance(head_scores=values, head_fraction=share)
        assert grown(PruningMask.dense(4, 8), scores_of(values), Fraction(share)) == plain
    assert [steps_to(Fraction("0.3"), Fraction(share)) for share in ("0.3", "0.6", "0.7")] == [
        [Fraction("0.3")],
        [Fraction("0.3"), Fraction("0.6")],
        [Fraction("0.3"), Fraction("0.6"), Fraction("0.7")],
    ]


# -- sweeps -------------------------------------------------------------------------------------------------------


def by_hand(tasks, shares, component, method):
    """Importance, mask, importance under that mask, ...: masks where each share ends, and the last mean scores."""
    mask, found = PruningMask.dense(LAYERS, HEADS), []
    for share in shares:
        lm = PrunedModel(mask=mask, device="cpu")
        asked = {"component": component, "method": method, "num_fewshot": 2, "limit": 5}
        mean = np.asarray(importance_scores(lm, tasks, **asked, **PLACE))  # of several tasks their mean
        flat = mean.ravel()
        gone = {layer * HEADS + head for layer, head in pruned(mask)} if mean.ndim == 2 else {*mask.pruned_ffns}
        left = sorted((value, place) for place, value in enumerate(flat) if place not in gone)
        gone |= {place for _, place in left[: math.floor(Fraction(share) * flat.size) - len(gone)]}
        if mean.ndim == 2:
            heads = {layer: [place % HEADS for place in gone if place // HEADS == layer] for layer in range(LAYERS)}
            mask = PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads=heads)
        else:
            mask = PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_ffns=tuple(gone))
        found.append(mask)
    return found


@pytest.mark.parametrize(
    ("ranking", "shares"), [("own:rescored@0.25", ["0.25", "0.5", "0.6"]), ("aggregate:rescored@0.4", ["0.4", "0.6"])]
)
def test_masks_are_those_of_a_plain_loop_over_importance_and_mask(finished, ranking, shares):
    of = ["demo_recall", "demo_facts"] if ranking.startswith("aggregate") else ["demo_recall"]
    heads = by_hand(of, shares, "heads", "gradient")
    ffns = by_hand(of, [share for share in shares if share < "0.5"] + ["0.5"], "ffns", "knockout")
    for evaluated in of:
        rows = {row.variant[1:3]: row for row in Sweep(finished).rows if row.variant.ranking == ranking
                and row.task == evaluated}  # fmt: skip
        assert mask_of(finished, rows["0.6", "0"]) == heads[-1]
        assert mask_of(finished, rows["0", "0.5"]) == ffns[-1]
        assert mask_of(finished, rows["0.6", "0.5"]) == heads[-1] | ffns[-1]
        assert pruned(mask_of(finished, rows["0.25", "0"])) <= pruned(heads[-1])
        lm = PrunedModel(mask=heads[-1] | ffns[-1], device="cpu")
        frame = evaluate(lm, None, [evaluated], num_fewshot=2, limit=4, **PLACE)
        content = disk.read_cell(disk.cell_path(finished, rows["0.6", "0.5"].cell))
        assert content["results"][evaluated]["acc,none"] == frame["acc"].iloc[0]


def test_files_of_steps_say_under_what_they_were_computed(finished):
    steps = [path for path in (finished / "importance").glob("*-under-*.json") if not path.name.startswith("aggregate")]
    assert len(steps) == 2 * (2 + 1 + 1 + 1)  # heads: 0.25, 0.5 and 0.4; FFNs: 0.25 and 0.4
    for path in steps:
        scores = ImportanceScores.load(path)
        mask = PruningMask.from_dict(scores.settings["mask"])
        assert scores.settings["under"] == mask_digest(mask)
        assert path.stem.endswith(f"-under-{scores.settings['under'][:12]}")
        if scores.component == "ffns":  # what is pruned already is no loss
            assert {scores.scores[layer] for layer in mask.pruned_ffns} == {0.0}
    means = list((finished / "importance").glob("aggregate-*-under-*.json"))
    assert {ImportanceScores.load(path).settings["task"] for path in means} == {"aggregate"}
    assert len(means) == 2


def test_scores_of_steps_are_no_scores_of_the_model_in_reports(finished):
    (found,) = score_sets(read_collection([finished]).importance)
    for (component, method), scores in found.importance.items():
        for (task, shots), values in scores.items():
            path = finished / "importance" / f"{task}-{shots}shot-{component}-{method}.json"
            assert np.array_equal(values, np.array(ImportanceScores.load(path).scores))


def test_stopped_at_any_step_it_goes_on_from_there(finished, tmp_path):
    total = len([path for path in (finished / "importance").glob("*") if not path.name.startswith("aggregate")])
    moments, folder = random.Random(0).sample(range(1, total + 1), 4), tmp_path / "sweep"
    computed = []

    class Killed(BaseException):
        pass

    def note(line):
        if line.startswith("importance of"):
            computed.append(line)
            if len(computed) in moments:
                raise Killed

    for _ in moments:
        with pytest.raises(Killed):
            run_sweep(settings(folder, **SMALL), note=note, progress=False)
    run_sweep(settings(folder, **SMALL), note=note, progress=False)
    assert len(computed) == total  # none twice
    same(folder, finished)


def test_a_step_that_fails_costs_the_shares_behind_it_alone(finished, tmp_path, monkeypatch):
    compute = worker.scores_of

    def fails(config, lm):
        if config.under is not None and config.under.num_pruned_heads == 18:
            raise ScoreError("out of luck")
        return compute(config, lm)

    monkeypatch.setattr(worker, "scores_of", fails)
    changes = {**SMALL, "ranking": ["own:rescored@0.25"], "prune_ffns": ["0"]}
    sweep = run_sweep(settings(tmp_path / "sweep", **changes), progress=False)
    failed = {row.variant.prune_heads for row in sweep.rows if row.cell in sweep.failed}
    assert failed == {"0.6"}
    assert {disk.read_failure(sweep.folder, cell).message for cell in sweep.failed} == {"out of luck"}
    monkeypatch.undo()
    sweep = run_sweep(settings(tmp_path / "sweep", **changes), retry_failed=True, progress=False)
    assert sweep.failed == []
    theirs = {row.cell for row in Sweep(finished).rows}
    assert {row.cell for row in sweep.rows} <= theirs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_method": "magnitude"}, "magnitude scores of heads are the same under every mask; leave rescored out"),
        ({"ffn_method": "random"}, "random scores of ffns are the same under every mask; leave rescored out"),
        ({"ranking": ["task:demo_fact:rescored@0.1"]}, "task 'demo_fact': unknown to the harness"),
    ],
)
def test_what_cannot_be_rescored_is_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(PruneError, match=message):
        run_sweep(settings(tmp_path / "sweep", **{**SMALL, **changes}), progress=False)
    assert not (tmp_path / "sweep").exists()


def test_a_dry_run_counts_the_files_of_all_steps(finished, tmp_path):
    def told(folder):
        (tmp_path / "sweep.yaml").write_text(settings(folder, **SMALL).model_dump_json())
        found = CliRunner().invoke(cli, ["sweep", "-C", str(tmp_path / "sweep.yaml"), "--dry_run"])
        assert found.exit_code == 0, found.output
        return found.output

    new = told(tmp_path / "new")
    assert "14 importance files to compute" in new
    assert "importance-demo_facts-2shot-heads: 4 files x 5 documents" in new
    assert "importance-demo_facts-2shot-ffns: 3 files x 5 documents" in new
    assert not (tmp_path / "new").exists()
    assert "0 to compute, 0 failed; 0 importance files to compute" in told(finished)


def test_mean_ablation_whole_groups_and_whole_attention_are_rescored_too(tmp_path):
    grid = {"tasks": ["demo_facts"], "num_fewshot": [2], "prune_heads": ["0.6"], "limit": 2, "importance_limit": 3}
    rankings = ["kv_group:most:own:rescored@0.3", "own:rescored@0.3", "attention:own:rescored@0.3"]
    sweep = run_sweep(settings(tmp_path / "sweep", ranking=rankings, ablation="mean", **grid), progress=False)
    assert sweep.failed == []
    for row in sweep.rows:
        if row.variant.ranking != "dense":
            mask, whole = mask_of(sweep.folder, row), row.variant.ranking.startswith("attention:")
            assert mask.num_pruned_heads == (3 * HEADS if whole else math.floor(0.6 * LAYERS * HEADS))
            assert not whole or set(map(len, mask.pruned_heads.values())) == {HEADS}
    steps = list((sweep.folder / "importance").glob("*-under-*.json"))
    assert len(steps) == 3
    assert len({json.loads(path.read_text())["means"] for path in steps}) == 1
