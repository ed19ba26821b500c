"""What programs call: `evaluate`, `importance_scores`, `compare`. Every number is also that of a command."""

import json
import subprocess
import sys

import lm_eval
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from lm_eval.models.huggingface import HFLM
from small_sweep import settings
from transformers import AutoModelForCausalLM, AutoTokenizer

import lm_eval_prune
from lm_eval_prune import (
    ImportanceScores,
    PrunedModel,
    PruneError,
    PruningMask,
    SweepConfig,
    aggregate_scores,
    analysis,
    bundled_model_path,
    compare,
    evaluate,
    importance_scores,
    masked,
    random_mask,
    run_sweep,
)
from lm_eval_prune.cli.main import cli
from lm_eval_prune.harness.importance import ImportanceConfig, compute_importance
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.masks import MaskError

QUICK = {"include_path": tasks_folder(), "include_defaults": False}
TASKS = ("demo_recall", "demo_labels")


@pytest.fixture(scope="module")
def lm():
    return PrunedModel(device="cpu", batch_size=8)


@pytest.fixture(scope="module")
def scores(lm):
    return importance_scores(lm, TASKS, num_fewshot=2, limit=6, **QUICK)


@pytest.fixture(scope="module")
def masks(scores):
    return {
        "dense": None,
        "half": PruningMask.from_importance(head_scores=scores, head_fraction="0.5"),
        "random": random_mask(6, 6, prune_heads="0.5", prune_ffns="0.2", seed=1),
    }


@pytest.fixture(scope="module")
def evaluated(lm, masks, tmp_path_factory):
    """(the table, the folder of its results)."""
    folder = tmp_path_factory.mktemp("evaluated")
    return evaluate(lm, masks, TASKS, num_fewshot=[0, 2], limit=12, output_path=folder, progress=False, **QUICK), folder


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, lm_eval_prune\n"
        "from lm_eval_prune import PruningMask\n"
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'numpy', 'pandas', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"


def test_everything_a_notebook_needs_is_exported():
    needed = {
        "ImportanceScores", "PrunedModel", "PruningMask", "SweepConfig", "aggregate_scores", "analysis", "compare",
        "evaluate", "importance_scores", "random_mask", "run_sweep", "score",
    }  # fmt: skip
    assert needed <= set(lm_eval_prune.__all__)
    assert analysis.rank_agreement([[1.0, 2.0]], [[1.0, 2.0]]).rho == pytest.approx(1)


def test_the_table_has_a_row_for_every_mask_task_and_number_of_shots(evaluated, masks):
    frame, _ = evaluated
    assert len(frame) == 3 * 2 * 2
    assert set(zip(frame["mask"], frame.task, frame.num_fewshot, strict=True)) == {
        (name, task, shots) for name in masks for task in TASKS for shots in (0, 2)
    }
    assert set(frame.num_documents) == {12}
    by_mask = frame.drop_duplicates("mask").set_index("mask")
    assert list(by_mask.heads_pruned[list(masks)]) == [0, 18, 18]
    assert list(by_mask.ffns_pruned[list(masks)]) == [0, 0, 1]
    assert by_mask.num_parameters_left["dense"] == 1_188_720


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("dense", "half")]


@pytest.mark.parametrize("name", ["random", *SLOW])
def test_its_numbers_are_those_of_lm_eval(name, evaluated, masks, tmp_path):
    frame, _ = evaluated
    (masks[name] or PruningMask.dense(6, 6)).save(tmp_path / "mask.json")
    found = lm_eval.simple_evaluate(
        model="pruned-hf",
        model_args=f"mask={tmp_path / 'mask.json'}",
        batch_size=8,
        tasks=list(TASKS),
        num_fewshot=2,
        limit=12,
        device="cpu",
        task_manager=lm_eval.tasks.TaskManager(include_path=str(tasks_folder()), include_defaults=False),
    )
    for task in TASKS:
        (row,) = frame[(frame["mask"] == name) & (frame.task == task) & (frame.num_fewshot == 2)].itertuples()
        theirs = found["results"][task]
        assert (row.acc, row.acc_stderr) == (theirs["acc,none"], theirs["acc_stderr,none"])


def test_the_results_files_are_compared_pairwise_as_sweeps_are(evaluated):
    frame, folder = evaluated
    board = compare(folder)
    assert board.problems == []
    assert set(board.averages.num_fewshot) == {0, 2}
    half = board.cells[board.cells.ranking == "half"]
    assert set(half.prune_heads) == {0.5}
    assert set(half.difference_paired) == {12}
    for row in half.itertuples():
        asked = frame[(frame.task == row.task) & (frame.num_fewshot == row.num_fewshot)].set_index("mask").acc
        assert row.value == asked["half"]
        assert row.difference == pytest.approx(asked["half"] - asked["dense"])
    assert "half" in repr(board)


def test_importance_is_that_of_the_commands(lm, scores, tmp_path):
    config = ImportanceConfig(
        component="heads",
        method="gradient",
        tasks=TASKS,
        num_fewshot=(2,),
        limit=6,
        output_path=tmp_path,
        include_path=str(tasks_folder()),
        include_defaults=False,
    )
    files = [outcome.path for outcome in compute_importance(config, lambda: lm)]
    for task, file in zip(TASKS, files, strict=True):
        importance_scores(lm, task, num_fewshot=2, limit=6, **QUICK).save(tmp_path / "python.json")
        assert json.loads(file.read_text()) == json.loads((tmp_path / "python.json").read_text())
    found = CliRunner().invoke(cli, ["aggregate", *map(str, files), "--output_path", str(tmp_path)])
    assert found.exit_code == 0, found.output
    command = ImportanceScores.load(tmp_path / "aggregate-2shot-heads-gradient.json")
    assert command.scores == scores.scores
    ours, theirs = dict(scores.settings), dict(command.settings)
    assert [file.pop("path") for file in theirs["files"]] == list(map(str, files))
    assert all(file.pop("sha256") for file in theirs["files"])
    assert ours == theirs


def test_scores_are_values_that_go_where_arrays_go(scores, tmp_path):
    array = np.asarray(scores)
    assert array.shape == (6, 6)
    assert np.array_equal(array, scores.tensor().numpy())
    assert analysis.rank_agreement(scores, array).rho == pytest.approx(1)
    mask = PruningMask.from_importance(head_scores=scores, head_fraction="0.5")
    assert mask == PruningMask.from_importance(head_scores=array.tolist(), head_fraction="0.5")
    assert mask.provenance == {"prune_heads": 0.5}
    scores.save(tmp_path / "scores.json")
    assert ImportanceScores.load(tmp_path / "scores.json") == scores
    weights = importance_scores(bundled_model_path(), component="ffns", method="magnitude", device="cpu")
    alone = PruningMask.from_importance(ffn_scores=weights, ffn_fraction="0.2")
    assert (alone.shape, alone.num_pruned_ffns) == ((6, 6), 1)


def test_scores_of_evaluated_documents_make_an_oracle_of_the_mask(lm):
    seen = importance_scores(lm, "demo_recall", num_fewshot=0, limit=2, split="validation", **QUICK)
    mask = PruningMask.from_importance(head_scores=seen, head_fraction="0.5")
    assert mask.provenance["oracle_on"] == ["demo_recall"]


def test_a_mean_over_scores_refuses_what_a_mean_over_files_does(scores, lm):
    one = importance_scores(lm, "demo_recall", num_fewshot=2, limit=2, **QUICK)
    for wrong, message in (
        ([one, one], "is already in"),
        ([one, scores], "aggregate already"),
        ([], "expected at least one"),
        ([one, importance_scores(lm, "demo_labels", num_fewshot=0, limit=2, **QUICK)], "num_fewshot is 0"),
    ):
        with pytest.raises(PruneError, match=message):
            aggregate_scores(wrong)


def test_a_model_may_be_a_name_a_module_or_a_harness_model(lm, masks):
    path = bundled_model_path()
    tokenizer = AutoTokenizer.from_pretrained(path)
    module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    made = AutoModelForCausalLM.from_config(module.config).eval()
    made.load_state_dict(module.state_dict())
    made.name_or_path = made.config._name_or_path = ""
    asked = {"masks": masks["half"], "tasks": "demo_recall", "num_fewshot": 2, "limit": 4, "progress": False, **QUICK}
    expected = evaluate(lm, **asked)
    for model, further in (
        (str(path), {"device": "cpu"}),
        (path, {"device": "cpu", "model_args": "dtype=float32,max_length=512"}),
        ("lm-eval-prune/bundled", {"device": "cpu"}),
        (module, {}),
        (made, {"tokenizer": tokenizer}),
        (made, {"tokenizer": path}),
        (HFLM(pretrained=str(path), device="cpu", batch_size=4), {}),
    ):
        assert evaluate(model, **asked, **further).equals(expected)
    assert torch.equal(made.lm_head.weight, module.lm_head.weight)
    with pytest.raises(PruneError, match="give tokenizer="):
        evaluate(made, **asked)


def test_settings_of_a_harness_model_are_taken_over():
    hf = HFLM(pretrained=str(bundled_model_path()), device="cpu", max_length=64, add_bos_token=False, batch_size=3)
    from lm_eval_prune.harness.handed_over import harness_model

    ours = harness_model(hf)
    assert (ours.max_length, ours.add_bos_token, ours.batch_size) == (64, False, 3)
    assert ours.model is hf.model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_or_lm": 7}, "a int is no model"),
        ({"model_or_lm": "no/such-model"}, "pretrained=no/such-model"),
        ({"tasks": []}, "no tasks"),
        ({"tasks": "demo_recal"}, "did you mean demo_recall"),
        ({"num_fewshot": -1}, "num_fewshot=-1"),
        ({"num_fewshot": ()}, "at least one number"),
        ({"num_fewshot": True}, "num_fewshot=true"),
        ({"limit": 0}, "limit=0"),
        ({"limit": 2.5}, "limit=2.5"),
        ({"masks": 7}, "a int; expected a PruningMask"),
        ({"masks": "absent.json"}, "absent.json"),
        ({"masks": PruningMask.dense(3, 4)}, "3"),
        ({"tokenizer": "x"}, "tokenizer: the harness model has its own"),
        ({"batch_size": 4}, "batch_size: the harness model has its own"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change, message, lm, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = {"model_or_lm": lm, "masks": None, "tasks": "demo_recall", "num_fewshot": 0, "limit": 2, **QUICK}
    with pytest.raises(PruneError, match=message) as raised:
        evaluate(**{**asked, **change})
    assert "\n" not in str(raised.value)


def test_models_that_are_no_modules_are_refused_by_name(lm):
    mask = PruningMask.dense(6, 6)
    for model, name in (("facebook/opt-125m", "str"), (lm, "PrunedModel"), (None, "NoneType")):
        with pytest.raises(PruneError, match=f"{name}: no supported decoder"), masked(model, mask):
            pass


def test_masks_without_names_are_called_by_what_they_prune(lm, tmp_path):
    PruningMask.dense(6, 6).prune_head(2, 3).save(tmp_path / "mine.json")
    masks = [None, tmp_path / "mine.json", PruningMask.dense(6, 6).prune_ffn(1), PruningMask.dense(6, 6).prune_ffn(2)]
    frame = evaluate(lm, masks, "demo_facts", num_fewshot=0, limit=2, progress=False, **QUICK)
    assert list(frame["mask"]) == ["dense", "mine", "1 of 6 FFNs", "1 of 6 FFNs (2)"]


def test_a_single_head_is_pruned():
    mask = PruningMask.dense(3, 4).prune_head(1, 2).prune_head(1, 0).prune_ffn(2)
    assert (dict(mask.pruned_heads), mask.pruned_ffns) == ({1: (0, 2)}, (2,))
    assert mask.prune_head(1, 2) == mask
    for layer, head in ((3, 0), (0, 4), (-1, 0)):
        with pytest.raises(MaskError, match="does not exist"):
            mask.prune_head(layer, head)


def test_a_sweep_stands_where_its_folder_may(tmp_path):
    config = settings(tmp_path / "grid", tasks=["demo_facts"], num_fewshot=[0], ranking=["random:0"], limit=4)
    assert isinstance(config, SweepConfig)
    sweep = run_sweep(config, progress=False)
    board = compare(sweep)
    frame = sweep.to_frame().set_index("ranking")
    values = board.cells.set_index("ranking").value
    assert dict(values) == {name: frame.acc[name] for name in ("dense", "random")}
