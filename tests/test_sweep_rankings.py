"""Rankings by the importance of other tasks: of named ones, and of the one that agrees most or least."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import spearmanr
from small_sweep import settings

from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import PruneError
from lm_eval_prune.harness.tasks import Member
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.frames import compare
from lm_eval_prune.report.page.rows import table_data
from lm_eval_prune.report.records import flat_records
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.estimate import estimate_sweep
from lm_eval_prune.sweep.jobs import ImportanceJob
from lm_eval_prune.sweep.ranking import parse_ranking
from lm_eval_prune.sweep.rankings import Masks
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.sweep.run import run_sweep
from lm_eval_prune.sweep.tasks import PlannedTask
from lm_eval_prune.variants import Variant

TASKS = ("demo_facts", "demo_labels", "demo_mixed", "demo_recall")
SMALL = {"tasks": list(TASKS), "num_fewshot": [0], "limit": 4, "importance_limit": 4}


def scores_in(folder, task, shots=0):
    path = folder / "importance" / f"{task}-{shots}shot-heads-gradient.json"
    return np.array(json.loads(path.read_text())["scores"])


def pruned(folder, row):
    heads = disk.read_cell(disk.cell_path(folder, row.cell))["pruning"]["mask"]["pruned_heads"]
    return {(int(layer), head) for layer, some in heads.items() for head in some}


def lowest(scores, share=0.5):
    order = np.argsort(scores, axis=None, kind="stable")[: int(share * scores.size)]
    return {divmod(int(place), scores.shape[1]) for place in order}


@pytest.fixture(scope="module")
def donors(tmp_path_factory):
    """A sweep whose rankings choose donors; with what was said of it."""
    folder, said = tmp_path_factory.mktemp("donors") / "sweep", []
    rankings = ["task:closest", "task:farthest", "own", "aggregate:demo_facts+demo_recall"]
    run_sweep(settings(folder, ranking=rankings, **SMALL), note=said.append, progress=False)
    return folder, said


@pytest.mark.parametrize(("ranking", "best"), [("task:closest", max), ("task:farthest", min)])
def test_donors_are_those_that_a_search_over_all_other_tasks_finds(donors, ranking, best):
    folder, said = donors
    rows = [row for row in Sweep(folder).rows if row.variant.ranking == ranking]
    assert sorted(row.task for row in rows) == sorted(TASKS)
    for row in rows:
        own = scores_in(folder, row.task).ravel()
        rhos = {task: spearmanr(own, scores_in(folder, task).ravel()).statistic for task in TASKS if task != row.task}
        donor = best(rhos, key=rhos.get)
        assert row.donor == donor
        assert pruned(folder, row) == lowest(scores_in(folder, donor))
        assert f"{ranking} for {row.task}, 0-shot: heads by {donor} (rho {rhos[donor]:.2f})" in said


def test_a_chosen_donor_is_in_the_plan_the_cell_the_board_and_every_table(donors, tmp_path):
    folder, _ = donors
    rows = {row.task: row for row in Sweep(folder).rows if row.variant.ranking == "task:closest"}
    assert {row.donor for row in Sweep(folder).rows if row.variant.ranking in ("own", "dense")} == {""}
    found = disk.read_cell(disk.cell_path(folder, rows["demo_facts"].cell))
    assert found["cell"]["donors"]["task:closest"] == rows["demo_facts"].donor
    frame = compare(folder).cells
    shown = frame[frame.ranking == "task:closest"].set_index("task").donor
    assert dict(shown) == {task: row.donor for task, row in rows.items()}
    assert set(frame[frame.ranking == "own"].donor) == {""}
    result = CliRunner().invoke(cli, ["leaderboard", str(folder), "--output_path", str(tmp_path / "board")])
    assert result.exit_code == 0, result.output
    (shown_row,) = [r for r in table_data(compare(folder).board)["rows"] if r["ranking"] == "task:closest"]
    explained = " ".join(cell["explained"] for cell in shown_row["cells"])
    (record,) = [
        each
        for each in csv.DictReader((tmp_path / "board" / "leaderboard.csv").open())
        if each["ranking"] == "task:closest"
    ]
    for task, row in rows.items():
        assert record[f"{task} acc donor"] == row.donor
        assert f"pruned by the importance to {row.donor}" in explained


def test_a_mean_over_named_tasks_prunes_tasks_that_are_not_among_them(donors):
    folder, _ = donors
    rows = [row for row in Sweep(folder).rows if row.variant.ranking == "aggregate:demo_facts+demo_recall"]
    mean = (scores_in(folder, "demo_facts") + scores_in(folder, "demo_recall")) / 2
    assert {row.task for row in rows} == set(TASKS)
    assert all(pruned(folder, row) == lowest(mean) for row in rows)


def test_named_tasks_need_not_be_evaluated_and_a_group_stands_for_its_tasks(tmp_path):
    rankings = ["aggregate:demo_labels+demo_recall", "most:aggregate:demo_labels@2", "aggregate:icl_demo"]
    grid = {**SMALL, "tasks": ["demo_facts"], "ranking": rankings, "limit": 2, "importance_limit": 2}
    sweep = run_sweep(settings(tmp_path / "sweep", **grid), progress=False)
    found = {row.variant.ranking: pruned(sweep.folder, row) for row in sweep.rows if row.variant.ranking != "dense"}
    every = ["demo_facts", "demo_labels", "demo_mixed", "demo_pattern", "demo_recall"]
    of = {task: scores_in(sweep.folder, task) for task in every}
    assert found[rankings[0]] == lowest((of["demo_labels"] + of["demo_recall"]) / 2)
    assert found[rankings[1]] == lowest(-scores_in(sweep.folder, "demo_labels", 2))
    assert found[rankings[2]] == lowest(np.mean([of[task] for task in every], axis=0))
    # The means lie beside the scores, under names of their own, and say what they are of.
    means = list((sweep.folder / "importance").glob("aggregate-*.json"))
    said = {ImportanceScores.load(path).settings["aggregate"] for path in means}
    assert len(means) == 3
    assert said == {"aggregate:demo_labels+demo_recall", "aggregate:demo_labels", "aggregate:icl_demo"}


def masks_of(values, heads=None, kv_heads=None, shots=0):
    """Masks over made-up scores: task -> (layers, heads) and (layers,)."""
    tasks = [PlannedTask(Member(name, name), shots, shots) for name in values]
    importance = {}
    for task in tasks:
        for component, scores in zip(("heads", "ffns"), values[task.name], strict=True):
            importance[ImportanceJob(task.member, component, shots)] = ImportanceScores.from_tensor(
                torch.tensor(scores, dtype=torch.float64), num_attention_heads=8, settings={"task": task.name}
            )
    config = settings("unused", tasks=list(values), num_fewshot=[shots], prune_ffns=["0", "0.5"])
    return Masks(config, tasks, importance, (4, 8), kv_heads), tasks


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "ranking", ["task:closest", "most:task:farthest", "kv_group:task:closest", "kv_group:most:task:farthest"]
)
def test_donors_of_heads_groups_and_ffns_are_found_apart(ranking, seed):
    draw = np.random.default_rng(seed)
    # Few different values: many ties among the scores.
    values = {f"t{place}": (draw.integers(0, 5, (4, 8)), draw.integers(0, 9, 4)) for place in range(6)}
    masks, tasks = masks_of(values, kv_heads=4)
    best = max if ranking.endswith("closest") else min

    def of_units(task, place):
        scores = values[task][place]
        return scores.reshape(4, 4, 2).sum(-1) if place == 0 and ranking.startswith("kv_group") else scores

    def searched(task, place):
        rhos = {
            other: round(spearmanr(of_units(task, place).ravel(), of_units(other, place).ravel()).statistic, 9)
            for other in values
            if other != task
        }
        rhos = {other: rho for other, rho in rhos.items() if not np.isnan(rho)}
        return best(rhos, key=rhos.get)  # of equal ones the first

    for task in tasks:
        heads, ffns = searched(task.name, 0), searched(task.name, 1)
        asked = parse_ranking(ranking)
        assert masks.of(asked, Variant(ranking, "0.5", "0"), task).donor == heads
        assert masks.of(asked, Variant(ranking, "0", "0.5"), task).donor == ffns
        both = masks.of(asked, Variant(ranking, "0.5", "0.5"), task)
        assert both.donor == (heads if heads == ffns else f"{heads}+{ffns}")
        sign = -1 if "most:" in ranking else 1
        assert set(both.mask.pruned_ffns) == set(np.argsort(sign * values[ffns][1], kind="stable")[:2].tolist())


def test_scores_that_are_all_equal_agree_with_nothing():
    flat, rising, falling = np.ones((4, 8)), np.arange(32.0).reshape(4, 8), -np.arange(32.0).reshape(4, 8)
    ffns = np.arange(4.0)
    masks, tasks = masks_of({"a": (rising, ffns), "b": (flat, ffns), "c": (falling, ffns)})
    asked, variant = parse_ranking("task:closest"), Variant("task:closest", "0.5", "0")
    assert masks.of(asked, variant, tasks[0]).donor == "c"
    with pytest.raises(PruneError, match="no other task's scores can be compared with b's"):
        masks.of(asked, variant, tasks[1])


def test_a_donor_that_was_chosen_by_evaluated_documents_is_an_oracle():
    rising = np.arange(32.0).reshape(4, 8)
    values = {"a": (rising, np.arange(4.0)), "b": (rising + 1, np.arange(4.0)), "c": (-rising, np.arange(4.0))}
    masks, tasks = masks_of(values)
    asked, variant = parse_ranking("task:closest"), Variant("task:closest", "0.5", "0")
    assert not masks.of(asked, variant, tasks[0]).oracle
    masks.importance[ImportanceJob(tasks[0].member, "heads", 0).name].settings["split"] = "validation"
    assert masks.of(asked, variant, tasks[0]).oracle
    assert not masks.of(asked, variant, tasks[2]).oracle


def test_before_importance_is_there_donors_are_pending(tmp_path):
    config = settings(tmp_path / "sweep", ranking=["task:closest"], **{**SMALL, "limit": 2, "importance_limit": 2})
    found = estimate_sweep(config)
    assert found.pending == ("task:closest",)
    assert {part.name.split(",")[0]: part.total for part in found.cells} == dict.fromkeys(TASKS, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranking": ["aggregate:demo_fact"]}, r"^task 'demo_fact': unknown to the harness; did you mean demo_facts"),
        ({"ranking": ["aggregate:demo_facts+x"]}, r"^task 'x': unknown to the harness"),
        ({"ranking": ["most:aggregate:y@5"]}, r"^task 'y': unknown to the harness"),
        ({"ranking": ["task:icl_demo"]}, r"^ranking task:icl_demo: 5 tasks; expected one \(aggregate:icl_demo takes"),
        ({"ranking": ["task:closest"], "tasks": ["demo_facts"]}, r"^ranking task:closest: the grid has one task; exp"),
        ({"ranking": ["most:task:farthest"], "tasks": ["demo_facts"]}, r"^ranking most:task:farthest: the grid has o"),
    ],
)  # fmt: skip
def test_a_ranking_by_tasks_that_cannot_be_is_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(PruneError, match=message):
        run_sweep(settings(tmp_path / "sweep", **{**SMALL, **changes}), progress=False)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("text", "tasks", "shots", "order"),
    [
        ("aggregate:hellaswag+piqa", ("hellaswag", "piqa"), None, "least"),
        ("aggregate:piqa@5", ("piqa",), 5, "least"),
        ("most:aggregate:a + b@0", ("a", "b"), 0, "most"),
        ("aggregate:2wiki+a-b", ("2wiki", "a-b"), None, "least"),
    ],
)
def test_means_over_named_tasks_are_read_as_written(text, tasks, shots, order):
    found = parse_ranking(text)
    assert (found.kind, found.tasks, found.num_fewshot, found.order) == ("aggregate", tasks, shots, order)


def test_a_board_without_donors_has_no_columns_of_them(tmp_path):
    run_sweep(settings(tmp_path / "sweep", ranking=["random:0"], **{**SMALL, "tasks": ["demo_facts"]}), progress=False)
    found = compare(tmp_path / "sweep")
    assert set(found.cells.donor) == {""}
    assert not any("donor" in key for key in flat_records(found.board)[0])


def test_a_sweep_that_goes_on_keeps_its_donors_and_computes_nothing_again(donors):
    folder, said = donors
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    rows, again = Sweep(folder).rows, []
    rankings = ["task:closest", "task:farthest", "own", "aggregate:demo_facts+demo_recall"]
    run_sweep(settings(folder, ranking=rankings, **SMALL), note=again.append, progress=False)
    assert Sweep(folder).rows == rows
    assert {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()} == before
    chosen = [line for line in said if line.startswith("task:")]
    assert [line for line in again if line.startswith("task:")] == chosen
    assert len(chosen) == 2 * len(TASKS)
