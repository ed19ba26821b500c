"""Rankings by what heads do, with the top heads of another kind left out: against the definition, written plainly."""

from __future__ import annotations

import json
import random

import pytest
import torch
from click.testing import CliRunner
from small_sweep import GRID, settings

from lm_eval_prune import PrunedModel
from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import ArgumentError, FractionError, PruneError
from lm_eval_prune.harness.importance import ImportanceConfig, compute_importance
from lm_eval_prune.harness.induction import InductionConfig, compute_induction
from lm_eval_prune.importance.exclusion import places_without
from lm_eval_prune.ranked_masks import ranked_mask
from lm_eval_prune.report.frames import compare
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep import queues, worker
from lm_eval_prune.sweep.config import make_config
from lm_eval_prune.sweep.estimate import estimate_sweep
from lm_eval_prune.sweep.ranking import parse_ranking
from lm_eval_prune.sweep.run import run_sweep

RANKINGS = [
    "most:function_vector",
    "most:induction",
    "most-without:induction",
    "most-without:induction:0.1",
    "most-without:function_vector:0.2",
    "most-without:induction:0.1@5",
    "random:0",
]
SMALL = {"tasks": ["demo_labels", "demo_recall"], "num_fewshot": [2], "limit": 4, "importance_limit": 4}


def plainly(scores, others, share, fraction):
    """The heads that go, as Yin and Steinhardt's code picks them; scores by (layer, head)."""
    heads = sorted(scores, key=lambda head: -scores[head])  # stable: of equal ones the lower first
    others = sorted(others, key=lambda head: -others[head])[: int(share * len(heads))]
    return set([head for head in heads if head not in others][: int(fraction * len(heads))])


def by_head(rows):
    return {(layer, head): value for layer, row in enumerate(rows) for head, value in enumerate(row)}


def pruned(mask):
    return {(layer, head) for layer, heads in mask.pruned_heads.items() for head in heads}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("share", "fraction"), [(0, 0.3), (0.25, 0.25), (0.5, 0.5), (0.75, 0.125)])
def test_what_goes_is_what_the_paper_s_code_picks(seed, share, fraction):
    draw = random.Random(seed)
    # Few different values: many ties, which go to the lower head in either ranking.
    scores, others = (torch.tensor([[draw.randint(0, 4) for _ in range(4)] for _ in range(4)]) for _ in range(2))
    mask = ranked_mask(
        num_attention_heads=4,
        head_scores=scores,
        head_fraction=fraction,
        order="most",
        without_scores=others,
        leave_out=share,
    )
    assert pruned(mask) == plainly(by_head(scores.tolist()), by_head(others.tolist()), share, fraction)


@pytest.mark.parametrize("seed", range(3))
def test_groups_of_heads_go_and_are_left_out_together(seed):
    scores, others = torch.rand(2, 4, 8, generator=torch.Generator().manual_seed(seed))
    mask = ranked_mask(
        num_attention_heads=8,
        head_scores=scores,
        head_fraction="0.25",
        order="most",
        without_scores=others,
        leave_out="0.25",
        unit="kv_group",
        num_key_value_heads=4,
    )
    groups = [by_head(each.double().view(4, 4, 2).sum(-1).tolist()) for each in (scores, others)]
    expected = {(layer, 2 * group + one) for layer, group in plainly(*groups, 0.25, 0.25) for one in (0, 1)}
    assert pruned(mask) == expected


def test_in_a_range_of_layers_the_heads_left_out_are_those_of_the_whole_model():
    scores = torch.arange(16.0).view(4, 4)
    mask = ranked_mask(
        num_attention_heads=4,
        head_scores=scores,
        head_fraction="0.25",
        order="most",
        without_scores=scores,
        leave_out="0.5",  # layers 2 and 3
        layers=(1, 2),
    )
    assert pruned(mask) == {(1, 2), (1, 3)}
    with pytest.raises(FractionError, match="5 heads to prune of 8, but 4 are left out"):
        places_without(scores, scores, "0.5", "0.625", layers=(1, 2))


@pytest.fixture(scope="module")
def few_sequences():
    """Prefix matching on 8 sequences, not 100."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (queues, worker):
            patch.setattr(module, "induction_config", few)
        yield


def few(config, folder):
    return InductionConfig(output_path=folder, seed=config.seed, num_sequences=8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, few_sequences):
    folder = tmp_path_factory.mktemp("exclusion") / "sweep"
    sweep = run_sweep(settings(folder, ranking=RANKINGS, prune_heads=["0", "0.1", "0.3"], **SMALL), progress=False)
    assert not sweep.failed
    return sweep


def scores_in(folder, name):
    return by_head(json.loads((folder / "importance" / name).read_text())["scores"])


def test_every_cell_prunes_what_the_files_in_its_folder_say(finished):
    folder, checked = finished.folder, 0
    induction = scores_in(folder, "prefix-matching.json")
    for row in finished.rows:
        ranking, fraction = row.variant.ranking, float(row.variant.prune_heads)
        if ranking in ("dense", "random"):
            continue
        shots = 5 if ranking.endswith("@5") else 2
        vectors = scores_in(folder, f"{row.task}-{shots}shot-heads-function_vector.json")
        expected = {
            "most:function_vector": plainly(vectors, induction, 0, fraction),
            "most:induction": plainly(induction, vectors, 0, fraction),
            "most-without:induction": plainly(vectors, induction, 0.02, fraction),
            "most-without:induction:0.1": plainly(vectors, induction, 0.1, fraction),
            "most-without:function_vector:0.2": plainly(induction, vectors, 0.2, fraction),
            "most-without:induction:0.1@5": plainly(vectors, induction, 0.1, fraction),
        }[ranking]
        mask = disk.read_cell(disk.cell_path(folder, row.cell))["pruning"]["mask"]["pruned_heads"]
        assert {(int(layer), head) for layer, heads in mask.items() for head in heads} == expected, row
        checked += 1
    assert checked == 2 * 2 * 6


def test_the_scores_are_those_of_the_commands_that_make_them(finished, tmp_path):
    lm = PrunedModel(device="cpu", dtype="float32")
    next(compute_induction(InductionConfig(output_path=tmp_path, num_sequences=8), lambda: lm))
    vectors = ImportanceConfig(
        component="heads",
        method="function_vector",
        tasks=("demo_labels",),
        num_fewshot=(2,),
        limit=4,
        **places(tmp_path),
    )
    list(compute_importance(vectors, lambda: lm))
    for name in ("prefix-matching.json", "demo_labels-2shot-heads-function_vector.json"):
        ours, theirs = (json.loads((where / name).read_text()) for where in (finished.folder / "importance", tmp_path))
        assert ours["scores"] == theirs["scores"]
        assert ours["method"] == theirs["method"]


def test_boards_name_each_ranking_and_a_second_sweep_computes_nothing(finished):
    shown = {entry.ranking for entry in compare(finished.folder).board.entries}
    assert shown == {"dense", "random", *RANKINGS[:-1]}
    grid = settings(finished.folder, ranking=RANKINGS, prune_heads=["0", "0.1", "0.3"], **SMALL)
    found = estimate_sweep(grid)
    assert (found.importance, sum(part.missing for part in found.cells)) == ([], 0)


def test_a_dry_run_counts_the_scores_and_means_that_are_missing(tmp_path):
    grid = settings(tmp_path / "sweep", ranking=["most-without:induction"], ablation="mean", **SMALL)
    found = {part.name: part for part in estimate_sweep(grid).importance}
    assert sorted(found) == [
        "importance-demo_labels-2shot-heads-function_vector",
        "importance-demo_labels-2shot-means",
        "importance-demo_recall-2shot-heads-function_vector",
        "importance-demo_recall-2shot-means",
        "importance-induction",
    ]
    assert all(part.flops > 0 and part.seconds > 0 and not part.problem for part in found.values())
    assert {part.documents for name, part in found.items() if name != "importance-induction"} == {4}
    assert found["importance-induction"].documents >= 10
    assert not (tmp_path / "sweep").exists()


def test_function_vectors_of_zero_shots_fail_alone_and_of_others_shots_do_not(tmp_path):
    rankings = ["most:function_vector", "most:function_vector@2"]
    grid = {**SMALL, "num_fewshot": [0], "tasks": ["demo_labels"], "limit": 2, "importance_limit": 2}
    sweep = run_sweep(settings(tmp_path / "sweep", ranking=rankings, **grid), progress=False)
    failed = [disk.read_failure(sweep.folder, cell) for cell in sweep.failed]
    assert [(each.variant.split(",")[0], each.message) for each in failed] == [
        ("most:function_vector", "task demo_labels: 0 shots; shuffled labels need 2 or more")
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("most-without:own", "expected own"),
        ("most-without:induction:2", "the share left out=2: expected a number from 0 to 1"),
        ("most-without:induction:1/3", "expected a number from 0 to 1, a decimal"),
        ("without:induction", "expected own"),
        ("most:induction@5", "expected own"),
        ("most:most-without:induction", "expected own"),
    ],
)
def test_a_ranking_that_cannot_be_is_told(text, told):
    with pytest.raises(ArgumentError, match=told):
        parse_ranking(text)


@pytest.mark.parametrize("ranking", ["induction", "most:function_vector@5", "kv_group:most-without:induction"])
def test_rankings_of_heads_refuse_shares_of_ffns(ranking):
    with pytest.raises(ArgumentError, match=r"ranks heads, but prune_ffns is 0, 0\.5; expected 0"):
        make_config({**GRID, "output_path": "x", "ranking": [ranking], "prune_ffns": ["0", "0.5"]})


def places(folder):
    return {"output_path": folder, "include_path": GRID["include_path"], "include_defaults": False}


def write(path, scores, **changes):
    content = {"format": "lm-eval-prune-importance", "version": 1, "component": "heads", "num_hidden_layers": 2}
    path.write_text(json.dumps({**content, "num_attention_heads": 3, "scores": scores, **changes}))
    return str(path)


def test_the_mask_command_leaves_out_and_says_so(tmp_path):
    by = write(tmp_path / "fv.json", [[0.6, 0.1, 0.5], [0.2, 0.4, 0.3]])
    without = write(tmp_path / "induction.json", [[0.9, 0.1, 0.2], [0.3, 0.4, 0.8]], task="t", split="validation")
    ask = ["mask", "--head_importance", by, "--prune_heads", "0.34", "-o", str(tmp_path / "mask.json")]
    left = ["--without_importance", without, "--leave_out", "0.34"]
    result = CliRunner().invoke(cli, [*ask, "--order", "most", *left], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    mask = json.loads((tmp_path / "mask.json").read_text())
    assert mask["pruned_heads"] == {"0": [2], "1": [1]}
    provenance = mask["provenance"]
    assert (provenance["leave_out"], provenance["without_importance"]["path"]) == (0.34, without)
    assert provenance["oracle_on"] == ["t"]
    other = write(tmp_path / "other.json", [[0.9, 0.1]] * 3, num_hidden_layers=3, num_attention_heads=2)
    for changes, told in (
        (left, "heads are left out of a ranking by head_importance, with order=most"),
        (["--order", "most", "--leave_out", "0.1"], "leave_out=0.1 needs without_importance=FILE"),
        (["--order", "most", "--without_importance", other], "importance files of different models"),
        (["--order", "most", *left[:3], "0.9"], "2 heads to prune of 6, but 5 are left out"),
        (["--order", "most", *left[:3], "x"], "leave_out='x': expected a number from 0 to 1"),
    ):
        with pytest.raises(PruneError, match=told):
            CliRunner().invoke(cli, [*ask, *changes], catch_exceptions=False, standalone_mode=False)
