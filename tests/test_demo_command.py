"""`lm-eval-prune demo`: what it prints is what it writes, and what it writes is the harness's own form."""

import json

import pytest
from click.testing import CliRunner

from lm_eval_prune import PruningMask
from lm_eval_prune.cli.main import cli

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    found = CliRunner().invoke(cli, ["demo", "--limit", "12", "--output_path", str(folder)])
    assert found.exit_code == 0, found.output
    return folder, found.output


def averages(folder, variant):
    found = {}
    for shots in (0, 1, 5):
        results = json.loads((folder / "results" / f"{variant}-{shots}shot.json").read_text(encoding="utf-8"))
        found[shots] = results["groups"]["icl_demo"]["acc,none"]
    return found


def test_the_table_shows_the_results_files(demo):
    folder, output = demo
    line = next(line for line in output.splitlines() if line.startswith("dense "))
    assert line.split()[2:5] == [f"{value:.3f}" for value in averages(folder, "dense").values()]
    line = next(line for line in output.splitlines() if line.startswith("least important heads, 70 %"))
    assert line.split()[6:9] == [f"{v:.3f}" for v in averages(folder, "least-important-heads-70").values()]


def test_in_context_learning_is_found_and_sits_in_the_important_heads(demo):
    folder, _ = demo
    dense = averages(folder, "dense")
    assert dense[5] > 0.9
    assert dense[0] < 0.6
    assert averages(folder, "least-important-heads-50")[5] > 0.9 * dense[5]
    assert averages(folder, "most-important-heads-10")[5] < 0.5


def test_results_carry_the_mask_that_was_saved(demo):
    folder, _ = demo
    results = json.loads((folder / "results" / "random-heads-50-seed1-5shot.json").read_text(encoding="utf-8"))
    mask = PruningMask.load(folder / "masks" / "random-heads-50-seed1.json")
    assert results["pruning"]["mask"]["pruned_heads"] == mask.to_dict()["pruned_heads"]
    assert results["pruning"]["heads_pruned"] == mask.num_pruned_heads == 18


def test_it_ends_with_the_leaderboards_page(demo):
    folder, output = demo
    page = folder / "leaderboard" / "leaderboard.html"
    assert output.rstrip().endswith(str(page))
    assert "figure-induction" in page.read_text(encoding="utf-8")
    board = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    shown = {(entry["variant"], entry["num_fewshot"]): entry for entry in board["entries"]}
    for shots, value in averages(folder, "least-important-heads-70").items():
        entry = shown["aggregate 5-shot, heads 0.7, FFNs 0", shots]
        assert entry["average"]["value"] == pytest.approx(value)
        assert entry["average"]["difference"]["paired"] == 5 * 12
    assert shown["random, heads 0.5, FFNs 0 (3 seeds)", 5]["seeds"] == [0, 1, 2]
    assert board["problems"] == []


def test_no_bar_of_the_harness_is_left_disabled(demo):
    import lm_eval.api.task
    import tqdm

    assert lm_eval.api.task.tqdm is tqdm.tqdm
