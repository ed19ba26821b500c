"""`lm-eval-prune demo`: sweeps in one folder, a table right at 80 columns, and the page."""

import json
import re

import pytest
from click.testing import CliRunner

from lm_eval_prune.cli.main import cli
from lm_eval_prune.sweep.demo import NUM_MASKS, demo_sweeps
from lm_eval_prune.sweep.results import Sweep

pytestmark = pytest.mark.slow

TASKS = ["recall", "labels", "pattern", "mixed", "facts"]
AS_PRINTED = {
    ("dense", "0", "0"): ((0.397, 0.730, 0.993), (1.00, 1.00, 0.97, 1.00, 1.00)),
    ("aggregate:5", "0.3", "0"): ((0.407, 0.737, 0.993), (1.00, 1.00, 0.97, 1.00, 1.00)),
    ("aggregate:5", "0.5", "0"): ((0.397, 0.733, 0.993), (1.00, 1.00, 0.97, 1.00, 1.00)),
    ("aggregate:5", "0.7", "0"): ((0.410, 0.730, 0.993), (1.00, 0.98, 0.98, 1.00, 1.00)),
    ("aggregate:5", "0.9", "0"): ((0.370, 0.383, 0.373), (0.13, 0.10, 0.32, 0.33, 0.98)),
    ("aggregate:5", "0.5", "0.2"): ((0.400, 0.740, 0.993), (1.00, 1.00, 0.97, 1.00, 1.00)),
    ("random", "0.5", "0"): ((0.310, 0.413, 0.481), (0.49, 0.53, 0.48, 0.48, 0.42)),
    ("most:aggregate:5", "0.1", "0"): ((0.287, 0.333, 0.270), (0.20, 0.23, 0.20, 0.40, 0.32)),
}
"""What the demo printed when the harness evaluated its ten masks one after the other: averages at 0, 1 and 5 shots, and
the tasks at 5 shots."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    found = CliRunner().invoke(cli, ["demo", "--output_path", str(folder)], env={"COLUMNS": "80"})
    assert found.exit_code == 0, found.output
    return folder, found.output


@pytest.fixture(scope="module")
def accuracies(demo):
    frame = Sweep(demo[0] / "sweep").to_frame()
    return frame.groupby(["ranking", "prune_heads", "prune_ffns", "num_fewshot", "task"])["acc"].mean()


def test_many_masks_together_give_the_table_that_one_after_the_other_gave(accuracies):
    for variant, (averages, by_task) in AS_PRINTED.items():
        found = accuracies[variant]
        assert tuple(round(found[shots].mean(), 3) for shots in (0, 1, 5)) == pytest.approx(averages, abs=5e-4)
        at_five = [found[5, f"demo_{task}"] for task in TASKS]
        assert at_five == pytest.approx(by_task, abs=5.1e-3)


def test_it_says_first_what_there_is_and_last_what_is_next(demo):
    lines = demo[1].rstrip().splitlines()
    assert lines[0] == "Loading torch, datasets, transformers, lm_eval"
    assert f"{5 * 3 * NUM_MASKS} cells on 5 tasks, 10 importance files" in lines
    assert "importance of ffns to demo_facts, 5-shot: 60 examples" in demo[1]
    assert lines[-1].startswith("Next, on a model of yours: lm-eval-prune sweep --model_args")
    assert "Custom kwargs" not in demo[1]


def test_its_table_is_whole_at_80_columns(demo, accuracies):
    shown = demo[1][demo[1].index("average acc") : demo[1].index("Most important heads")]
    lines = [line.rstrip() for line in shown.splitlines()]
    assert max(map(len, lines)) <= 80
    for variant in AS_PRINTED:
        numbers = [f"{accuracies[variant][shots].mean():.3f}" for shots in (0, 1, 5)]
        pattern = r"\b{} .*\b{} .*\b{}\b" if variant[0] != "dense" else r"\b{} +{} +{}$"
        assert any(re.search(pattern.format(*map(re.escape, numbers)), line) for line in lines), variant


def test_it_ends_with_the_leaderboards_page(demo, accuracies):
    folder, output = demo
    page = folder / "leaderboard" / "leaderboard.html"
    assert f"The comparison as a page to open: {page}" in output
    assert "figure-induction" in page.read_text(encoding="utf-8")
    board = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    shown = {(entry["variant"], entry["num_fewshot"]): entry for entry in board["entries"]}
    for shots in (0, 1, 5):
        entry = shown["aggregate:5, heads 0.7, FFNs 0", shots]
        assert entry["average"]["value"] == pytest.approx(accuracies["aggregate:5", "0.7", "0"][shots].mean())
        assert entry["average"]["difference"]["paired"] == 5 * 60
    assert shown["random, heads 0.5, FFNs 0 (3 seeds)", 5]["seeds"] == [0, 1, 2]
    assert board["problems"] == []


def test_a_second_time_nothing_is_computed(demo):
    folder, output = demo
    again = CliRunner().invoke(cli, ["demo", "--output_path", str(folder)], env={"COLUMNS": "80"})
    assert again.exit_code == 0
    assert "150 of 150 cells are there already" in again.output
    table = output.index("average acc")
    assert output[table:].strip() in again.output


def test_its_sweeps_differ_in_their_grids_alone(tmp_path):
    first, *others = demo_sweeps(tmp_path)
    for other in others:
        differing = {name for name in type(first).model_fields if getattr(first, name) != getattr(other, name)}
        assert differing <= {"ranking", "prune_heads", "prune_ffns"}


def test_no_bar_of_the_harness_is_left_disabled(demo):
    import lm_eval.api.task
    import tqdm

    assert lm_eval.api.task.tqdm is tqdm.tqdm
