"""The benchmark for a GPU: it runs where there is none, with figures that are not kept, and says what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "bench_gpu.py"


def run(*arguments, hide_gpus=False):

    hidden = {"CUDA_VISIBLE_DEVICES": ""} if hide_gpus else {}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **hidden})


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="benchmarks/ is not beside the tests")
def test_the_gpu_benchmark_runs_and_refuses_without_a_gpu():
    small = ("--size", "opt-125m", "--num_hidden_layers", 2, "--batch_size", 2, "--length", 16, "--repeats", 1)
    before = set(SCRIPT.parent.joinpath("results").iterdir())
    tried = run(*small, "--device", "cpu")
    assert tried.returncode == 0, tried.stderr
    lines = [line.split("  ")[0] for line in tried.stdout.splitlines()]
    assert {"dense", "masked", "compact", "importance", "importance, checkpointing"} <= set(lines)
    assert set(SCRIPT.parent.joinpath("results").iterdir()) == before
    refused = run(*small, hide_gpus=True)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("Error: no GPU found")
