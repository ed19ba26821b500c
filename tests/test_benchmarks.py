"""The benchmarks for a GPU, in tiny on the CPU: what they measure, and what is written when."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import LlamaConfig, OPTConfig

from lm_eval_prune.scoring import flex

FOLDER = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="benchmarks/ is not beside the tests")

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "vocab_size": 300}
TINY = {
    "opt": lambda: OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=32),
    "llama": lambda: LlamaConfig(**SMALL, num_key_value_heads=2, intermediate_size=32),
}


@pytest.fixture
def bench_gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    import bench_gpu

    monkeypatch.setattr(bench_gpu, "MODELS", TINY)
    monkeypatch.setattr(flex.flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    return bench_gpu


def run(bench_gpu, folder, *more):
    arguments = ["--models", "opt,llama", "--tasks", "copa", "--num_fewshot", "0", "--limit", "3", "--repeats", "1"]
    arguments += ["--batch_sizes", "1,2", "--dtype", "float32", "--device", "cpu", "--output_path", str(folder), *more]
    return CliRunner().invoke(bench_gpu.main, arguments, catch_exceptions=False)


def test_every_part_measures_every_way_and_all_answer_alike(bench_gpu, tmp_path):
    assert run(bench_gpu, tmp_path).exit_code == 0
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())["parts"]
    kinds = ("scoring", "sweep", "importance")
    assert list(found) == [f"{model}, {kind}, copa, 0-shot" for model in TINY for kind in kinds]
    for model in TINY:
        scoring, sweep, importance = (found[f"{model}, {kind}, copa, 0-shot"] for kind in kinds)
        assert scoring["hf_batch_size"] in (1, 2)
        for way in ("packed", "flex", "packed, 70/20", "flex, 70/20"):
            assert scoring[way]["s"] > 0
            assert scoring[way]["ratio_to_hf"] == pytest.approx(scoring["hf"]["s"] / scoring[way]["s"])
        assert max(scoring["differences"].values()) < 1e-4
        assert len(scoring["differences"]) == 3
        assert sweep["ten masks, flex"]["ratio_to_ten_hf"] > 0
        assert importance["gradient, batches of 2"]["examples_per_second"] > 0
        assert importance["all FFN knockouts"]["of_as_many_evaluations"] > 0


def test_parts_are_written_as_they_are_done_and_the_same_command_goes_on(bench_gpu, tmp_path, monkeypatch):
    assert run(bench_gpu, tmp_path, "--minutes", "0").output.count("not begun") == 6

    def cut(*arguments):
        raise KeyboardInterrupt

    def broken(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench_gpu, "KINDS", {**bench_gpu.KINDS, "sweep": broken, "importance": cut})
    with pytest.raises(KeyboardInterrupt):
        bench_gpu.main.callback(
            "opt", "copa", "0", 2, "2", 1, "float32", "cpu", 8.0, tmp_path
        )  # fmt: skip
    (path,) = tmp_path.iterdir()
    before = json.loads(path.read_text())["parts"]
    assert list(before) == ["opt, scoring, copa, 0-shot", "opt, sweep, copa, 0-shot"]
    assert before["opt, sweep, copa, 0-shot"] == {"error": "OutOfMemoryError: CUDA out of memory"}
    monkeypatch.setitem(bench_gpu.KINDS, "importance", lambda *arguments: {"made up": {"s": 1.0}})
    bench_gpu.main.callback("opt", "copa", "0", 2, "2", 1, "float32", "cpu", 8.0, tmp_path)
    assert json.loads(path.read_text())["parts"] == {**before, "opt, importance, copa, 0-shot": {"made up": {"s": 1.0}}}


def test_a_way_that_fails_says_why_and_the_others_are_measured(bench_gpu, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(flex, "attend_by_blocks", broken)
    bench_gpu.main.callback("opt", "copa", "0", 2, "2", 1, "float32", "cpu", 8.0, tmp_path)
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())["parts"]["opt, scoring, copa, 0-shot"]
    assert found["flex"] == found["flex, 70/20"] == {"error": "RuntimeError: no such kernel"}
    assert found["packed"]["s"] > 0


def test_without_a_gpu_they_say_so(bench_gpu, monkeypatch):
    import bench_forward

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for main in (bench_gpu.main, bench_forward.main):
        refused = CliRunner().invoke(main, [])
        assert refused.exit_code == 2
        assert refused.output.splitlines()[-1].startswith("Error: no GPU found")


def test_forward_passes_are_timed_and_a_trial_writes_nothing(bench_gpu):
    import bench_forward

    before = set(FOLDER.joinpath("results").iterdir())
    small = ["--size", "opt-125m", "--num_hidden_layers", "1", "--batch_size", "1", "--length", "16", "--repeats", "1"]
    tried = CliRunner().invoke(bench_forward.main, [*small, "--device", "cpu"], catch_exceptions=False)
    lines = [line.split("  ")[0] for line in tried.output.splitlines()]
    assert {"dense", "masked", "compact", "importance", "importance, checkpointing"} <= set(lines)
    assert set(FOLDER.joinpath("results").iterdir()) == before
