"""The whole study through the commands, for other families: scores, mask, run, sweep, leaderboard."""

import json
import sys

import datasets
import pytest

from lm_eval_prune import PruningMask
from lm_eval_prune.cli import main as cli
from lm_eval_prune.random_opt import save_random_model
from tests import families
from tests.fixtures_importance import few_tasks, write_tasks

TASK = "toy_choice"


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_every_command_takes_any_family(variant, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lm_eval_prune.harness.tasks._task_manager", few_tasks)
    # The harness's handler would keep writing to this test's standard error.
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda *args, **kwargs: None)
    monkeypatch.chdir(tmp_path)
    write_tasks(tmp_path / "tasks")
    save_random_model(tmp_path / "model", families.config_of(variant, vocab_size=512))

    def command(name, *arguments):
        monkeypatch.setattr(sys, "argv", ["lm-eval-prune", name, *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        assert not code, (name, capsys.readouterr().err)

    model, where = ("--model_args", "pretrained=model"), ("--include_path", "tasks", "--device", "cpu")
    common = (*where, "--tasks", TASK, "--limit", 4)
    command("importance", *model, *common, "--num_fewshot", 1, "--output_path", "scores")
    command(
        "importance", *model, *common, "--num_fewshot", 1, "--output_path", "scores",
        "--component", "ffns", "--method", "knockout",
    )  # fmt: skip
    scores = [f"scores/{TASK}-1shot-{kind}.json" for kind in ("heads-gradient", "ffns-knockout")]
    command(
        "mask", "--head_importance", scores[0], "--prune_heads", 0.5, "--ffn_importance", scores[1],
        "--prune_ffns", 0.4, "--output_path", "mask.json",
    )  # fmt: skip
    mask = PruningMask.load("mask.json")
    assert (mask.num_pruned_heads, mask.num_pruned_ffns) == (6, 1)
    command("induction", *model, "--num_sequences", 2, "--device", "cpu", "--output_path", "induction")
    assert all(
        0 <= score <= 1
        for path in (tmp_path / "induction").glob("*.json")
        for row in json.loads(path.read_text()).get("scores", ())
        for score in row
    )
    for name, arguments in (("dense", "pretrained=model"), ("pruned", "pretrained=model,mask=mask.json")):
        command(
            "run", "--model", "pruned-hf", "--model_args", arguments, *common, "--num_fewshot", 1,
            "--output_path", name, "--log_samples",
        )  # fmt: skip
    sums = []
    for name in ("dense", "pruned"):
        (path,) = (tmp_path / name).rglob("results_*.json")
        sums.append(json.loads(path.read_text()))
    assert sums[1]["pruning"] != sums[0]["pruning"]
    command("sweep", *model, *common, "--num_fewshot", "0,1", "--prune_heads", "0,0.5", "--output_path", "sweep")
    assert len(list((tmp_path / "sweep" / "cells").glob("*.json"))) == 4
    command("leaderboard", "dense", "pruned", "sweep", "--output_path", "board")
    assert (tmp_path / "board" / "leaderboard.html").stat().st_size > 1000
