"""Sweeps on the bundled model: every cell once, equal to a plain evaluation, through kills, damage and failures."""

import errno
import fcntl
import functools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lm_eval
import numpy as np
import pytest
from click.testing import CliRunner
from small_sweep import NUM_CELLS, cells, leftovers, samples, settings

from lm_eval_prune import PruneError
from lm_eval_prune.cli.main import cli
from lm_eval_prune.harness.cells import TaskRun
from lm_eval_prune.harness.model import PrunedModel, PrunedOPT
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.ranked_masks import random_mask
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.config import load_configs, make_config
from lm_eval_prune.sweep.estimate import estimate_sweep
from lm_eval_prune.sweep.ranking import parse_ranking
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.sweep.run import run_sweep
from lm_eval_prune.sweep.setup import find_setup, require_same_setup
from lm_eval_prune.sweep.worker import Worker
from lm_eval_prune.variants import DENSE


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of the whole grid, computed without interruption; not to be changed."""
    folder = tmp_path_factory.mktemp("sweep") / "grid"
    with pytest.MonkeyPatch.context() as patch:
        loads = counted(patch, PrunedModel, "__init__")
        builds = counted(patch, TaskRun, "__init__")
        run_sweep(settings(folder), progress=False)
    assert (len(loads), len(builds)) == (1, 4)  # one model, and requests once for each task and shots
    return folder


def counted(patch, owner, name):
    """A list that grows with every call of it."""
    calls, original = [], getattr(owner, name)
    patch.setattr(owner, name, lambda *arguments, **settings: calls.append(name) or original(*arguments, **settings))
    return calls


@pytest.fixture
def grid(finished, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "grid"))


def test_the_grid_has_a_row_for_every_variant_task_and_shots(finished):
    frame = Sweep(finished).to_frame()
    assert len(frame) == NUM_CELLS
    assert set(frame.status) == {"done"}
    dense = frame[frame.ranking == "dense"]
    assert list(dense.heads_pruned) == [0] * 4
    assert set(frame[frame.ranking != "dense"].heads_pruned) == {18}
    assert frame["acc"].between(0, 1).all()
    assert leftovers(finished) == []
    assert not (finished / "claims").exists()


def test_own_rankings_come_from_the_importance_files_of_the_same_task_and_shots(finished):
    row = next(r for r in Sweep(finished).rows if r.variant.ranking == "own" and r.task == "demo_recall")
    name = f"demo_recall-{row.num_fewshot}shot-heads-gradient.json"
    scores = json.loads((finished / "importance" / name).read_text())["scores"]
    lowest = sorted((score, layer, head) for layer, r in enumerate(scores) for head, score in enumerate(r))[:18]
    pruned = disk.read_cell(disk.cell_path(finished, row.cell))["pruning"]["mask"]["pruned_heads"]
    assert {(int(layer), head) for layer, heads in pruned.items() for head in heads} == {
        (layer, head) for _, layer, head in lowest
    }


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["padded", "packed"])
def test_every_number_is_that_of_a_separate_run_of_the_harness(tmp_path, scorer):
    folder = tmp_path / "sweep"
    run_sweep(
        settings(folder, model_args=f"scorer={scorer}", tasks=["demo_recall"], ranking=["random:0"]), progress=False
    )
    for row in Sweep(folder).rows:
        share = {"prune_heads": row.variant.prune_heads}
        mask = random_mask(6, 6, **share, seed=row.variant.seed or 0)
        lm = PrunedOPT(mask=mask, scorer=scorer, device="cpu", batch_size=8)
        manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=tasks_folder())
        expected = lm_eval.simple_evaluate(
            lm, tasks=["demo_recall"], num_fewshot=row.num_fewshot, limit=6, bootstrap_iters=100, task_manager=manager
        )
        found = disk.read_cell(disk.cell_path(folder, row.cell))
        assert found["results"] == json.loads(json.dumps(expected["results"]))
        ours = disk.read_samples(disk.cell_path(folder, row.cell))
        for mine, theirs in zip(ours, expected["samples"]["demo_recall"], strict=True):
            assert mine["filtered_resps"] == [list(answer) for answer in theirs["filtered_resps"]]
            for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash", "acc"):
                assert mine[key] == theirs[key]
            assert ("prompt" in mine) == (row.variant == DENSE)  # what was asked is kept once
            if row.variant == DENSE:
                assert theirs["arguments"][0][0].endswith(mine["prompt"].removeprefix("…"))
                assert mine["choices"] == [continuation for _, continuation in theirs["arguments"]]


@pytest.mark.slow
def test_generated_answers_are_those_of_a_separate_run_of_the_harness(tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "data.jsonl").write_text("".join(f'{{"text": "{word} one {word}"}}\n' for word in ("two", "six", "ten")))
    (tasks / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tasks / 'data.jsonl'}}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{text}}'\ndoc_to_target: ' one'\n"
        "generation_kwargs: {max_gen_toks: 4, until: ['.']}\nmetric_list: [{metric: exact_match}]\n"
    )
    grid = {"tasks": ["own"], "num_fewshot": [0], "ranking": ["random:0"], "include_path": str(tasks), "limit": None}
    sweep = run_sweep(settings(tmp_path / "sweep", **grid), progress=False)
    answers = []
    for row in sweep.rows:
        lm = PrunedOPT(mask=random_mask(6, 6, prune_heads=row.variant.prune_heads, seed=0), device="cpu", batch_size=8)
        manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=tasks)
        expected = lm_eval.simple_evaluate(lm, tasks=["own"], bootstrap_iters=100, task_manager=manager)
        assert disk.read_cell(disk.cell_path(sweep.folder, row.cell))["results"] == expected["results"]
        answers.append([sample["filtered_resps"] for sample in sweep.samples(row.cell)])
        assert answers[-1] == [sample["filtered_resps"] for sample in expected["samples"]["own"]]
    assert answers[0] != answers[1]


def test_finished_cells_are_not_computed_again_and_a_new_column_adds_only_its_own(grid):
    before = {path: path.stat().st_mtime_ns for path in (grid / "cells").iterdir()}
    said = []
    run_sweep(settings(grid), say=said.append, progress=False)
    assert said == []
    run_sweep(settings(grid, ranking=["own", "random:0+1+2"], num_fewshot=[0]), say=said.append, progress=False)
    assert len(said) == 2
    assert all("random (seed 2)" in line and "to dense)" in line for line in said)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_damaged_cells_are_moved_aside_and_computed_again(grid):
    expected, expected_samples = cells(grid), samples(grid)
    names = sorted(path for path in (grid / "cells").glob("*.json"))
    names[0].write_bytes(names[0].read_bytes()[:100])
    names[1].write_text(names[1].read_text().replace('"acc,none": ', '"acc,none": 1', 1))
    names[2].with_suffix(".samples.jsonl.gz").write_bytes(b"")
    said = []
    run_sweep(settings(grid), say=said.append, progress=False)
    assert sum(line.startswith("damaged, computed again: ") for line in said) == 3
    assert cells(grid) == expected
    assert samples(grid) == expected_samples
    assert len(list((grid / "corrupt").glob("*.json"))) == 3


def test_a_failing_cell_is_recorded_and_does_not_stop_the_others(tmp_path, monkeypatch):
    from lm_eval_prune.harness import cells as harness_cells

    original = harness_cells.TaskRun.results

    def results(self, masks, progress, documents=None):
        if any(mask.num_pruned_heads for mask in masks) and self.task.task_name == "demo_facts":
            raise RuntimeError("CUDA out of memory")
        return original(self, masks, progress, documents)

    monkeypatch.setattr(harness_cells.TaskRun, "results", results)
    shutil.copytree(tasks_folder() / "demo", tmp_path / "tasks" / "demo")
    own_task(tmp_path / "tasks", [])
    config = settings(
        tmp_path / "sweep",
        tasks=["demo_facts", "own", "demo_recall"],
        num_fewshot=[0],
        include_path=str(tmp_path / "tasks"),
    )
    config = config.model_copy(update={"ranking": ("random:0",)})
    sweep = run_sweep(config, progress=False)
    status = sweep.status()
    assert (status.done, status.failed, status.missing) == (3, 3, 0)
    assert any("demo_facts" in line and "out of memory" in line for line in status.failures)
    assert any("own" in line and "cannot be loaded: Unable to find" in line for line in status.failures)
    result = CliRunner().invoke(cli, ["sweep", "status", str(tmp_path / "sweep")])
    assert result.exit_code == 1
    assert "3 cells done" in result.output
    monkeypatch.setattr(harness_cells.TaskRun, "results", original)
    assert len(run_sweep(config, progress=False).failed) == 3
    assert len(run_sweep(config, retry_failed=True, progress=False).failed) == 2


def test_a_log_likelihood_that_is_no_number_fails_its_cell_alone(tmp_path, monkeypatch):
    original = PrunedModel._loglikelihood_tokens

    def answers(lm, *arguments, **settings):
        found = original(lm, *arguments, **settings)
        return [(math.nan, False), *found[1:]] if lm.mask.num_pruned_heads else found

    monkeypatch.setattr(PrunedModel, "_loglikelihood_tokens", answers)
    sweep = run_sweep(
        settings(tmp_path, tasks=["demo_facts"], num_fewshot=[0], ranking=["random:0"], model_args="scorer=padded"),
        progress=False,
    )
    (line,) = sweep.status().failures
    assert "ScoreError: task demo_facts: document 0: a log-likelihood is NaN" in line
    assert sweep.status().done == 1


def test_status_tells_what_another_process_is_at(tmp_path, monkeypatch):
    config = settings(tmp_path, tasks=["demo_facts"], num_fewshot=[0], ranking=["own", "random:0"])
    seen, computed = [], Worker._importance

    def status():
        result = CliRunner().invoke(cli, ["sweep", "status", str(tmp_path)])
        assert result.exit_code == 0, result.output
        seen.append(result.output)

    def importance(worker, job):
        status()
        return computed(worker, job)

    monkeypatch.setattr(Worker, "_importance", importance)
    run_sweep(config, say=lambda line: status(), progress=False)
    assert seen[0] == f"{tmp_path}: no cells yet; computing importance: demo_facts-0shot-heads\n"
    counts = [f"{done} cells done, {3 - done} running, 0 missing, 0 failed\n" for done in (1, 2, 3)]
    assert seen[1:] == [f"{tmp_path}: {count}" for count in counts]


def test_damaged_records_are_one_line_that_says_what_to_do(grid):
    cell = Sweep(grid).rows[0].cell
    (grid / "failed").mkdir()
    (grid / "failed" / f"{cell}.json").write_text("{")
    disk.cell_path(grid, cell).unlink()
    with pytest.raises(PruneError, match=r"not valid JSON.*; --retry_failed computes the cell again"):
        Sweep(grid).status()
    assert run_sweep(settings(grid), retry_failed=True, progress=False).status().done == NUM_CELLS
    (plan,) = disk.plan_paths(grid)
    plan.write_bytes(plan.read_bytes()[:100])
    with pytest.raises(PruneError, match=r"not valid JSON.*; delete it, and the sweep's command writes it again"):
        run_sweep(settings(grid), progress=False)
    plan.unlink()
    assert run_sweep(settings(grid), progress=False).status().done == NUM_CELLS
    (grid / "claims" / "plan.lock").mkdir(parents=True)
    with pytest.raises(PruneError, match=r"plan.lock: cannot be locked: "):
        run_sweep(settings(grid), progress=False)


def test_a_file_system_without_locks_is_refused(grid, monkeypatch):
    def flock(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(PruneError, match=r"its file system has no locks \(flock\).*give an --output_path elsewhere"):
        run_sweep(settings(grid), progress=False)


def test_rankings_prune_by_the_scores_that_they_name(grid):
    file = grid / "importance" / "demo_facts-0shot-heads-gradient.json"
    rankings = ["own", "most:own", "kv_group:own", "kv_group:random:3", "aggregate", "task:demo_facts", str(file)]
    sweep = run_sweep(settings(grid, ranking=rankings, num_fewshot=[0]), progress=False)
    shown = {
        (row.variant.ranking, row.task): sweep.folder / "cells" / f"{row.cell}.json"
        for row in sweep.rows
        if row.num_fewshot == 0
    }

    def pruned(ranking, task):
        heads = disk.read_cell(shown[ranking, task])["pruning"]["mask"]["pruned_heads"]
        return {(int(layer), head) for layer, some in heads.items() for head in some}

    def ranked(*tasks):
        files = [grid / "importance" / f"{task}-0shot-heads-gradient.json" for task in tasks]
        scores = np.mean([json.loads(path.read_text())["scores"] for path in files], axis=0)
        return [divmod(int(place), 6) for place in np.argsort(scores, axis=None, kind="stable")]

    for task in ("demo_facts", "demo_recall"):
        assert pruned("own", task) == set(ranked(task)[:18])
        assert pruned("most:own", task) == set(ranked(task)[18:])
        assert pruned("kv_group:own", task) == pruned("own", task)  # each head has its own keys and values
        assert len(pruned("kv_group:random", task)) == 18
        assert pruned("aggregate", task) == set(ranked("demo_facts", "demo_recall")[:18])
        assert (
            pruned("task:demo_facts", task) == pruned(f"importance/{file.name}", task) == set(ranked("demo_facts")[:18])
        )


@pytest.mark.slow
def test_requests_that_a_task_repeats_keep_their_answers(tmp_path):
    tasks = tmp_path / "tasks"
    own_task(tasks, [{"text": f"{word} one {word}", "answer": 0} for word in ("two", "six", "ten")])
    with (tasks / "own.yaml").open("a") as file:
        file.write("repeats: 2\n")
    grid = {"tasks": ["own"], "num_fewshot": [0], "ranking": ["random:0"], "include_path": str(tasks), "limit": None}
    sweep = run_sweep(settings(tmp_path / "sweep", **grid), progress=False)
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=tasks)
    for row in sweep.rows:
        lm = PrunedOPT(mask=random_mask(6, 6, prune_heads=row.variant.prune_heads, seed=0), device="cpu", batch_size=8)
        expected = lm_eval.simple_evaluate(lm, tasks=["own"], bootstrap_iters=100, task_manager=manager)
        answers = [sample["filtered_resps"] for sample in sweep.samples(row.cell)]
        assert answers == [[list(each) for each in s["filtered_resps"]] for s in expected["samples"]["own"]]


def test_rows_tell_rankings_by_file_apart(grid, tmp_path):
    own = grid / "importance" / "demo_facts-0shot-heads-gradient.json"
    (tmp_path / "other").mkdir()
    other = shutil.copy(grid / "importance" / "demo_recall-0shot-heads-gradient.json", tmp_path / "other" / own.name)
    rankings = [str(own), f"most:{own}", str(other)]
    sweep = run_sweep(settings(grid, ranking=rankings, num_fewshot=[0], tasks=["demo_facts"]), progress=False)
    rows = {row.variant.ranking: row.cell for row in sweep.rows if row.variant.ranking.endswith(".json")}
    assert set(rows) == {f"importance/{own.name}", f"most:importance/{own.name}", f"other/{own.name}"}
    assert len(set(rows.values())) == 3


def test_several_draws_are_several_cells_but_without_shots(tmp_path):
    config = settings(tmp_path, tasks=["demo_facts"], num_fewshot=[0, 1], prune_heads=["0"], fewshot_seeds=[1, 2])
    rows = run_sweep(config, progress=False).rows
    assert [(row.num_fewshot, row.fewshot_seed) for row in rows] == [(0, 1), (1, 1), (1, 2)]
    prompts = [[sample["prompt_hash"] for sample in Sweep(tmp_path).samples(row.cell)] for row in rows]
    assert prompts[1] != prompts[2]


def own_task(folder, documents):
    """Write the task `own` into `folder`; without documents its data set is missing."""
    folder.mkdir(exist_ok=True)
    if documents:
        (folder / "data.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'data.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: ['yes', 'no']\n"
        "doc_to_target: answer\n"
    )


def test_a_task_that_has_changed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    documents = [{"text": "one two", "answer": 0}, {"text": "two one", "answer": 1}]
    own_task(tmp_path / "tasks", documents)
    grid = {"tasks": ["own"], "num_fewshot": [0], "ranking": ["random:0"], "include_path": str(tmp_path / "tasks")}
    assert run_sweep(settings(tmp_path / "sweep", **grid), progress=False).status().done == 2
    own_task(tmp_path / "tasks", [*documents, {"text": "one one", "answer": 1}])
    with pytest.raises(PruneError, match=r"the task own, 0-shot has changed \(documents_hash\) since"):
        run_sweep(settings(tmp_path / "sweep", **grid), progress=False)


IDENTITY = """
import json, sys
from lm_eval_prune.harness.task_identity import task_identity
name, _, identity = task_identity("own", 1, sys.argv[1], False)
print(json.dumps(identity, sort_keys=True))
"""


def identity_of_own_task(folder, number):
    """What decides its results, as a process of its own tells it."""
    environment = {**os.environ, "PYTHONHASHSEED": str(number)}
    done = subprocess.run(
        [sys.executable, "-c", IDENTITY, str(folder)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_task_with_functions_is_the_same_task_in_every_process(tmp_path):
    own_task(tmp_path, [{"text": f"Is {number} odd?", "answer": number % 2} for number in range(4)])
    yaml = (tmp_path / "own.yaml").read_text()
    function = yaml.replace("'{{text}}'", "!function utils.text")
    assert function != yaml
    (tmp_path / "own.yaml").write_text(function + "fewshot_split: test\n")
    found = []
    for ending, number in (("'!'", 1), ("'!'", 2), ("'?'", 1)):
        (tmp_path / "utils.py").write_text(f"def text(doc):\n    return doc['text'] + {ending}\n")
        found.append(identity_of_own_task(tmp_path, number))
        assert ending in json.dumps(found[-1])
    assert found[0] == found[1]
    assert found[1] != found[2]  # what a function does counts


def test_importance_of_another_model_is_refused_before_there_is_a_plan(tmp_path, monkeypatch):
    config = settings(tmp_path, tasks=["demo_facts"], num_fewshot=[0])

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lm_eval_prune.sweep.run.make_plan", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(config, progress=False)
    assert len(list((tmp_path / "importance").glob("*.json"))) == 1
    other = config.model_copy(update={"model_args": "dtype=bfloat16"})
    with pytest.raises(PruneError, match=r"another model or setup \(dtype"):
        run_sweep(other, progress=False)
    # Neither the scorer nor the number of processes matters to importance.
    require_same_setup(tmp_path, replace(find_setup(config, 2), scorer="padded"), [])
    shutil.rmtree(tmp_path / "importance")  # then nothing of the first model is left
    assert run_sweep(other, progress=False).status().done == 4


def test_what_failed_and_then_works_has_not_failed(tmp_path):
    shutil.copytree(tasks_folder() / "demo", tmp_path / "tasks" / "demo")
    own_task(tmp_path / "tasks", [])
    grid = {"num_fewshot": [0], "include_path": str(tmp_path / "tasks"), "ranking": ["random:0"]}
    folder = tmp_path / "sweep"
    assert run_sweep(settings(folder, tasks=["demo_facts", "own"], **grid), progress=False).status().failed == 2
    own_task(tmp_path / "tasks", [{"text": f"Is {number} odd?", "answer": number % 2} for number in range(4)])
    later = run_sweep(settings(folder, tasks=["demo_facts", "own", "demo_recall"], **grid), progress=False)
    status = later.status()
    assert (status.done, status.failed, status.missing) == (6, 0, 0)
    assert {row.task for row in later.rows} == {"demo_facts", "own", "demo_recall"}
    assert not list((folder / "failed").glob("*.json"))


def test_a_failure_stays_where_another_question_is_answered(tmp_path):
    shutil.copytree(tasks_folder() / "demo", tmp_path / "tasks" / "demo")
    own_task(tmp_path / "tasks", [])
    grid = {"num_fewshot": [0], "include_path": str(tmp_path / "tasks"), "ranking": ["aggregate"]}
    folder = tmp_path / "sweep"
    run_sweep(settings(folder, tasks=["demo_facts", "own"], **grid), progress=False)
    sweep = run_sweep(settings(folder, tasks=["demo_facts"], **grid), progress=False)
    found = {(row.task, row.variant.ranking, row.cell in sweep.failed) for row in sweep.rows}
    # The mean over both tasks is still missing; the one over demo_facts alone is another row.
    assert {("demo_facts", "aggregate", True), ("demo_facts", "aggregate", False)} <= found


def test_another_model_or_setup_is_refused(grid, checkpoint):
    with pytest.raises(PruneError, match=r"holds cells of another model or setup \(fingerprint"):
        run_sweep(settings(grid, model_args=f"pretrained={checkpoint}"), progress=False)
    with pytest.raises(PruneError, match=r"another model or setup \(scorer"):
        run_sweep(settings(grid, model_args="scorer=padded"), progress=False)
    with pytest.raises(PruneError, match=r"another model or setup \(dtype"):
        run_sweep(settings(grid, model_args="dtype=bfloat16"), progress=False)
    with pytest.raises(PruneError, match=r"computed with limit=6.0, now 7.0; delete the file"):
        run_sweep(settings(grid, importance_limit=7), progress=False)


@pytest.mark.parametrize("before", [{}, {"identity": 1}, {"identity": 3}], ids=str)
def test_a_folder_that_tells_models_apart_in_another_way_is_named_and_still_read(grid, before):
    (plan,) = (grid / "plans").glob("*.json")
    content = json.loads(plan.read_text())
    del content["fixed"]["model"]["identity"]
    content["fixed"]["model"] |= before
    plan.write_text(json.dumps(content))
    with pytest.raises(PruneError, match=r"grid: written by a release that told models apart in another way") as error:
        run_sweep(settings(grid), progress=False)
    assert "\n" not in str(error.value)
    assert not Sweep(grid).to_frame()["acc"].isna().any()


CHANGED_FILES = {
    "a chat template": ("chat_template.jinja", "{{ messages }}"),
    "what generation does": ("generation_config.json", '{"repetition_penalty": 5.0}'),
    "code of its own": ("modeling.py", "x = 1"),
}


@pytest.mark.parametrize(("name", "text"), CHANGED_FILES.values(), ids=list(CHANGED_FILES))
def test_any_file_of_a_checkpoint_decides_its_cells(checkpoint, tmp_path, name, text):
    model = Path(shutil.copytree(checkpoint, tmp_path / "m"))
    before = find_setup(settings(tmp_path / "s", model_args=f"pretrained={model}"), 1).identity()
    (model / name).write_text(text)
    after = find_setup(settings(tmp_path / "s", model_args=f"pretrained={model}"), 1).identity()
    assert before["model"]["fingerprint"] != after["model"]["fingerprint"]


def test_how_a_models_arguments_are_written_does_not_decide_its_cells(checkpoint, tmp_path):
    written = [
        f"pretrained={checkpoint},dtype=torch.float32",
        f"dtype=float32,revision=main,pretrained={checkpoint}/,trust_remote_code=False",
        {"pretrained": str(checkpoint), "dtype": "float32", "parallelize": False, "peft": None},
    ]
    found = [find_setup(settings(tmp_path, model_args=text), 1) for text in written]
    assert found[0].identity() == found[1].identity() == found[2].identity()


def test_the_table_is_exported_as_it_is(finished, tmp_path):
    import pandas as pd

    frame = Sweep(finished).to_frame()
    exactly = functools.partial(pd.read_csv, float_precision="round_trip")  # pandas 2 is off by a last digit otherwise
    for name, read in (("t.csv", exactly), ("t.parquet", pd.read_parquet)):
        result = CliRunner().invoke(cli, ["sweep", "export", str(finished), "--output_path", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert list(read(tmp_path / name)["acc"]) == list(frame["acc"])
    with pytest.raises(PruneError, match=r"ends in \.parquet or \.csv"):
        Sweep(finished).export(tmp_path / "t.xls")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["demo_facts", "demo_fact"]}, r"^task 'demo_fact': unknown to the harness; did you mean demo_facts"),
        ({"tasks": [__file__]}, r"test_sweep.py: a file; give its folder as include_path, and the task's name"),
        ({"ranking": ["task:demo_fact"]}, r"^task 'demo_fact': unknown to the harness; did you mean demo_facts"),
        ({"ranking": ["absent.json"]}, r"^absent.json: no such file"),
        ({"ranking": ["own", "task:../x"], "prune_heads": "0"}, r"^task '../x': unknown to the harness"),
        (
            {"knockout_metric": "../x", "prune_heads": "0"},
            r"^knockout_metric=../x: no task has it; they have acc.*loss$",
        ),
        ({"knockout_metric": "f2", "head_method": "gradient"}, r"^knockout_metric=f2: no task has it"),
        ({"knockout_metric": ""}, r"^knockout_metric=: no task has it"),
        ({"model_args": "load=shrunk"}, r"^load=shrunk: unknown; expected masked or compact"),
        ({"model_args": "device_map=banana"}, r"^device_map=banana: "),
        ({"model_args": "scorer=fast"}, r"^scorer=fast: unknown; expected packed, flex or padded"),
        ({"model_args": "pretrained=absent"}, r"^pretrained=absent: no such model"),
        ({"model_args": f"pretrained={Path(__file__).parent}"}, r"^pretrained=.*: no model configuration found"),
        ({"model_args": "batch_size=4"}, r"^model_args: batch_size: a setting of its own"),
        ({"model_args": "device=cpu"}, r"^model_args: device: a setting of its own"),
        ({"model_args": "dtype=float17"}, r"^dtype=float17: expected auto, float32"),
        ({"executor": "ray"}, r"^executor=ray needs the package ray: pip install 'lm-eval-prune\[ray\]'"),
    ],
)
def test_what_no_cell_is_to_blame_for_is_one_line_and_fails_no_cell(tmp_path, monkeypatch, changes, message):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(PruneError, match=message):
        run_sweep(settings(tmp_path, **{"num_fewshot": [0], **changes}), progress=False)
    assert not (tmp_path / "cells").exists()
    assert not (tmp_path / "failed").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(
        cli,
        ["sweep", "--tasks", "demo_facts", "--ranking", "random:0", "--output_path", str(tmp_path / "file" / "sweep")],
    )
    assert isinstance(result.exception, PruneError)
    assert "cannot be written: Not a directory" in str(result.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [a]\nprune_head: [0.1]\n", r"sweep.yaml, line 2: prune_head: .*; known are .*prune_heads"),
        ("tasks: [a]\n\nprune_heads: [0, 1.2]\n", r"sweep.yaml, line 3: prune_heads: share=1.2: expected a number"),
        ("tasks: [a]\nranking: [best]\n", r"line 2: ranking: ranking 'best': expected own, aggregate"),
        ("tasks: [a\n", r"sweep.yaml, line 2: not valid YAML"),
        ("limit: 4\n", r"sweep.yaml: tasks: missing; give --tasks, or tasks: in"),
        ("tasks: [a]\nlimit: 4\ntasks: [b]\n", r"sweep.yaml, line 3: tasks: stands in line 1 already"),
        ("tasks: [a]\n1: 2\n", r"sweep.yaml, line 2: 1: Keys should be strings"),
        (
            "tasks: [a]\nlimit: 2.5\n",
            r"line 2: limit: expected a whole number of documents, .* below 1 \(given 2.5\)",
        ),
        (
            "tasks: [a]\nlimit: .inf\n",
            r"line 2: limit: expected a whole number of documents, .* below 1 \(given inf\)",
        ),
        ("tasks: [a]\nnum_fewshot: [0, -1]\n", r"line 2: num_fewshot: Input should be greater than or equal to 0"),
        ("tasks: [a]\nbatch_size: 0\n", r"line 2: batch_size: Input should be greater than or equal to 1"),
        ("tasks: [a]\nranking: []\n", r"line 2: ranking: .*at least 1 item"),
        ("- a\n", r"expected settings"),
    ],
)
def test_wrong_settings_name_the_line_and_the_key(tmp_path, text, message):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(PruneError, match=message):
        load_configs(path, output_path=tmp_path)


def test_a_wrong_flag_is_not_said_to_be_in_the_file(tmp_path):
    (tmp_path / "sweep.yaml").write_text("tasks: [a]\nprune_heads: [0, 0.5]\n")
    with pytest.raises(PruneError, match=r"^prune_heads: share=1.5: expected a number from 0 to 1"):
        load_configs(tmp_path / "sweep.yaml", output_path=tmp_path, prune_heads="0,1.5")
    for no_text in (b"\xff", b"tasks: [caf\xe9]\n", b"\xff\xfe\x00"):
        (tmp_path / "sweep.yaml").write_bytes(no_text)
        with pytest.raises(PruneError, match=r"sweep.yaml: not a text file"):
            load_configs(tmp_path / "sweep.yaml", output_path=tmp_path)


def test_rankings_and_shares_are_read_as_written():
    config = make_config({"output_path": "x", "tasks": "a, b", "prune_heads": "0,0.10,0.3", "ranking": "own,task:c"})
    assert (config.tasks, config.prune_heads) == (("a", "b"), ("0", "0.1", "0.3"))
    assert parse_ranking("most:own").order == "most"
    assert parse_ranking("random:3+4").seeds == parse_ranking("random:3,4").seeds == (3, 4)
    assert parse_ranking("h.json+f.json").files == ("h.json", "f.json")
    with pytest.raises(PruneError, match="random:x"):
        parse_ranking("random:x")
    for text in ("own", "most:own", "random:3+4", "h.json+f.json"):
        found, plain = parse_ranking(f"kv_group:{text}"), parse_ranking(text)
        assert found == plain.model_copy(update={"text": f"kv_group:{text}", "unit": "kv_group"})
    for text in ("kv_group:", "kv_group:kv_group:own", "most:kv_group:own"):
        with pytest.raises(PruneError, match="expected own, aggregate"):
            parse_ranking(text)


@pytest.mark.slow
def test_a_dry_run_counts_the_cells_and_writes_nothing(grid):
    before = {path: path.stat().st_mtime_ns for path in grid.rglob("*")}
    config = settings(grid, ranking=["own", "random:0+1+2"], prune_ffns=["0", "0.5"])
    found = estimate_sweep(config)
    assert {path: path.stat().st_mtime_ns for path in grid.rglob("*")} == before
    # Of each task and shots there were dense, own and two random masks; own needs the FFNs' importance now.
    # Seeds 1 and 2 happen to prune the same three FFNs: 13 rows are 12 cells.
    assert [(part.total, part.missing, part.documents) for part in found.cells] == [(12, 8, 6)] * 4
    assert sorted(part.name for part in found.importance) == [
        f"importance-{task}-{shots}shot-ffns" for task in ("demo_facts", "demo_recall") for shots in (0, 2)
    ]
    assert all(part.flops > 0 and part.seconds > 0 and not part.problem for part in [*found.importance, *found.cells])
    assert found.flops <= found.unshared_flops + sum(part.flops for part in found.importance)


def test_a_dry_run_tells_what_is_left(grid, tmp_path, monkeypatch):
    path = written(tmp_path, grid, ranking=["random:0+1+2"], num_fewshot=[0], tasks=["demo_facts"])
    result = CliRunner().invoke(cli, ["sweep", "--config", str(path), "--dry_run"])
    assert result.exit_code == 0, result.output
    assert f"{grid}: 4 cells, 3 done, 1 to compute, 0 failed; 0 importance files to compute\n" in result.output
    assert re.search(r"\n  demo_facts, 0-shot: 1 of 4 cells x 6 documents: [\d.]+ [MG]FLOP, [\d.]+ s\n", result.output)
    assert re.search(r"\n  together about [\d.]+ [MG]FLOP, [\d.]+ s on one worker \(.*\)\n", result.output)

    monkeypatch.setattr(PrunedModel, "create_from_arg_obj", None)  # nothing to measure: the model is not loaded
    assert estimate_sweep(settings(grid)).seconds == 0
    result = CliRunner().invoke(cli, ["sweep", "--config", str(written(tmp_path, grid)), "--dry_run"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{grid}: 16 cells, 16 done, 0 to compute, 0 failed; 0 importance files")


def written(folder, grid, **changes):
    """The small grid as a settings file."""
    (folder / "sweep.yaml").write_text(settings(grid, **changes).model_dump_json())
    return folder / "sweep.yaml"


@pytest.mark.slow
def test_the_bundled_grid_that_comes_with_the_package_runs_as_it_is(tmp_path):
    arguments = ["--config", "bundled", "--limit", "4", "--importance_limit", "4"]
    result = CliRunner().invoke(cli, ["sweep", *arguments, "--device", "cpu", "--output_path", str(tmp_path)])
    assert result.exit_code == 0, result.output
    frame = Sweep(tmp_path).to_frame()
    assert len(frame) == 5 * 3 * (1 + 9 * 2)  # tasks, shots; dense, and nine combinations under two rankings
    assert set(frame.status) == {"done"}
    assert frame["acc"].between(0, 1).all()
    assert set(frame.ffns_pruned[frame.prune_ffns == "0.2"]) == {1}
    assert set(frame.heads_pruned[frame.prune_heads == "0.7"]) == {25}
    assert f"{frame.cell.nunique()} cells done, 0 running, 0 missing, 0 failed" in result.output


def test_the_grids_for_opt_66b_are_the_papers():
    heads, ffns, both = load_configs("opt-66b", output_path="sweep")
    assert (len(heads.tasks), heads.num_fewshot) == (14, (0, 1, 5))
    tenths = [f"0.{tenth}" for tenth in range(1, 10)]
    assert (heads.ranking, heads.prune_heads, heads.prune_ffns) == (("own", "aggregate"), ("0", *tenths), ("0",))
    assert (ffns.ranking, ffns.prune_heads, ffns.prune_ffns) == (("own",), ("0",), (*tenths,))
    assert (both.ranking, both.prune_heads, both.prune_ffns) == (("aggregate",), ("0", *tenths[:7]), (*tenths[:5],))
