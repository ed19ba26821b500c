"""The benchmark of the scorers, in tiny: shares of the peak, two precisions; and the tables that the docs have."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import OPTConfig

FOLDER = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="benchmarks/ is not beside the tests")


@pytest.fixture
def benchmarks(monkeypatch):
    """bench_scoring and scoring_tables, as from the command line, with one tiny model."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["bench_scoring.py"])
    import bench_scoring
    import scoring_tables

    def tiny():
        return OPTConfig(
            num_hidden_layers=1,
            num_attention_heads=2,
            hidden_size=16,
            ffn_dim=16,
            word_embed_proj_dim=16,
            vocab_size=300,
        )

    monkeypatch.setattr(bench_scoring, "MODELS", {"tiny": tiny})
    monkeypatch.setattr(bench_scoring, "matmul_peak", lambda scorers: 100.0)
    return bench_scoring, scoring_tables


def test_shares_of_the_peak_in_two_precisions(benchmarks, tmp_path):
    bench_scoring, scoring_tables = benchmarks
    arguments = ["--models", "tiny", "--tasks", "copa,boolq", "--num_fewshot", "0", "--limit", "2", "--repeats", "1"]
    arguments += ["--batch_sizes", "2", "--dtype", "float32,bfloat16", "--no-memory", "--output_path", str(tmp_path)]
    done = CliRunner().invoke(bench_scoring.main, arguments, catch_exceptions=False)
    files = {json.loads(path.read_text())["dtype"]: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert files.keys() == {"float32", "bfloat16"}
    for found in files.values():
        assert [cell["task"] for cell in found["cells"]] == ["copa", "boolq"]
        for cell in found["cells"]:
            flops = cell["packed_gflops"] * cell["packed_s"]
            assert cell["packed_share_of_peak"] == pytest.approx(flops / cell["packed_s"] / 100)
            assert cell["hf_share_of_peak"] == pytest.approx(flops * cell["ratio_by_flops"] / cell["hf_s"] / 100)
    assert max(cell["max_difference"] for cell in files["float32"]["cells"]) < 1e-4
    assert "| copa | 0 |" in done.output
    tables = scoring_tables.tables(tmp_path).splitlines()
    assert len([line for line in tables if line.startswith("**")]) == 1, "both are of this machine"
    assert [line.split(" | ")[1:4] for line in tables if line.startswith("| [")] == [
        ["bfloat16", "0", "2"], ["float32", "0", "2"],
    ]  # fmt: skip


def test_nothing_begins_when_time_is_up_and_what_was_measured_is_kept(benchmarks, tmp_path):
    bench_scoring, _ = benchmarks
    arguments = ["--models", "tiny", "--tasks", "copa", "--num_fewshot", "0", "--limit", "1", "--repeats", "1"]
    arguments += ["--batch_sizes", "2", "--no-memory", "--output_path", str(tmp_path)]
    CliRunner().invoke(bench_scoring.main, [*arguments, "--minutes", "0"], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []
    CliRunner().invoke(bench_scoring.main, arguments, catch_exceptions=False)
    (path,) = tmp_path.iterdir()
    before = path.read_text()
    more = [*arguments[:3], "copa,boolq", *arguments[4:], "--minutes", "0"]
    assert CliRunner().invoke(bench_scoring.main, more, catch_exceptions=False).exit_code == 0
    assert path.read_text() == before


def test_the_page_has_the_tables_of_the_files_and_each_share_is_that_of_its_file(benchmarks):
    _, scoring_tables = benchmarks
    page = scoring_tables.PAGE.read_text(encoding="utf-8")
    assert scoring_tables.with_tables(page) == page, "python benchmarks/scoring_tables.py --write"
    found = json.loads((FOLDER / "results" / "scoring-cpu-float32-avx512-2026-11-26.json").read_text())
    shares = [
        cell["packed_gflops"] / found["matmul_peak_gflops"] for cell in found["cells"] if cell["num_fewshot"] == 5
    ]
    mean = math.exp(sum(map(math.log, shares)) / len(shares))
    assert f"{mean:.0%} ({min(shares):.0%} to {max(shares):.0%})" in page
