"""The whole study through the commands, for other families: each command in turn, from scores to reports."""

import functools
import json
import os
import sys

import datasets
import lm_eval.tasks.manager
import pytest

from lm_eval_prune import PruningMask
from lm_eval_prune.cli import main as cli
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.random_opt import save_random_model
from tests import families
from tests.fixtures_importance import few_tasks, write_tasks

TASK = "toy_choice"
VARIANTS = [
    "llama",
    "gpt2",
    "gpt_neox",
    "gemma2, windows and caps",
    "mistral, a window",
    "olmo2",
    "opt, norms last, projected",
    "qwen2, a window above",
    "qwen3",
    "smollm3",
]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs a command in this process, in a folder of its own with a small task, and expects it to end well."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lm_eval_prune.harness.tasks._task_manager", few_tasks)
    monkeypatch.setattr(lm_eval.tasks.manager.TaskManager, "__init__", _few(lm_eval.tasks.manager.TaskManager.__init__))
    # The harness's handler would keep writing to this test's standard error.
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda *args, **kwargs: None)
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "a machine")  # asks many programs
    monkeypatch.chdir(tmp_path)
    write_tasks(tmp_path / "tasks")

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", ["lm-eval-prune", name, *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        assert not code, (name, capsys.readouterr().err)

    return run


def _few(original):
    """Without the harness's thousands of task files, which take long to read."""

    @functools.wraps(original)
    def init(self, verbosity=None, include_path=None, include_defaults=True, **kwargs):
        own = [include_path] if isinstance(include_path, str | os.PathLike) else list(include_path or [])
        original(self, verbosity, [tasks_folder(), *own], False, **kwargs)

    return init


def sums_of(folder):
    """The log-likelihoods of a run's answers, in order."""
    (path,) = folder.rglob("samples_*.jsonl")
    samples = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [float(answer[0]) for sample in samples for answer in sample["filtered_resps"]]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_command_takes_any_family(variant, tmp_path, command):
    save_random_model(tmp_path / "model", families.config_of(variant, vocab_size=512))
    model, where = ("--model_args", "pretrained=model"), ("--include_path", "tasks", "--device", "cpu")
    common = (*where, "--tasks", TASK, "--limit", 4)
    one_shot = (*model, *common, "--num_fewshot", 1, "--output_path")
    for component in ("heads", "ffns"):
        for method in ("gradient", "knockout", "magnitude"):
            command("importance", *one_shot, "scores", "--component", component, "--method", method)
    scores = [f"scores/{TASK}-1shot-{kind}.json" for kind in ("heads-gradient", "ffns-knockout")]
    command(
        "mask", "--head_importance", scores[0], "--prune_heads", 0.5, "--ffn_importance", scores[1],
        "--prune_ffns", 0.4, "--output_path", "mask.json",
    )  # fmt: skip
    mask = PruningMask.load("mask.json")
    assert (mask.num_pruned_heads, mask.num_pruned_ffns) == (mask.num_heads // 2, 1)
    command("induction", *model, "--num_sequences", 2, "--device", "cpu", "--output_path", "induction")
    written = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "induction").glob("*.json")]
    assert all(0 <= score <= 1 for content in written for row in content.get("scores", ()) for score in row)
    command("compact", *model, "--mask", "mask.json", "--output_path", "small")
    command("means", *model, *where, "--tasks", TASK, "--num_fewshot", 1, "--output_path", "means")
    (means,) = (tmp_path / "means").iterdir()
    for name, harness_model, arguments in (
        ("dense", "pruned-hf", "pretrained=model"),
        ("pruned", "pruned-hf", "pretrained=model,mask=mask.json"),
        ("small_run", "pruned-hf", "pretrained=small"),
        ("small_hf", "hf", "pretrained=small,dtype=float32"),
        ("loaded_compact", "pruned-hf", "pretrained=model,mask=mask.json,load=compact"),
        ("at_means", "pruned-hf", f"pretrained=model,mask=mask.json,ablation=mean,means={means}"),
    ):
        command(
            "run", "--model", harness_model, "--model_args", arguments, *common, "--num_fewshot", 1,
            "--output_path", name, "--log_samples",
        )  # fmt: skip
    pruned = sums_of(tmp_path / "pruned")
    for name in ("small_run", "small_hf", "loaded_compact"):
        assert sums_of(tmp_path / name) == pytest.approx(pruned, abs=1e-4), name
    for name in ("dense", "at_means"):
        assert sums_of(tmp_path / name) != pytest.approx(pruned, abs=1e-2), name
    grid = (*model, *common, "--num_fewshot", "0,1")
    for dry in (["--dry_run"], []):
        command("sweep", *grid, "--prune_heads", "0,0.5", "--output_path", "sweep", *dry)
    assert len(list((tmp_path / "sweep" / "cells").glob("*.json"))) == 4
    command("leaderboard", "dense", "pruned", "small_run", "sweep", "--output_path", "board")
    assert (tmp_path / "board" / "leaderboard.html").stat().st_size > 1000
    command("plan", "model", "--mask", "mask.json", "--json", "plan.json")
    removals = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["removals"]
    assert removals[-1]["removed"] > 0
    command("paper", *grid, "--output_path", "paper", "--dry_run")
