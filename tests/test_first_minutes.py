"""The first ten minutes of three kinds of user, and of one who only reads results, from a built wheel."""

import re
import subprocess
from pathlib import Path

import pytest
from installed import ROOT, built_wheel, environment, run, variables, with_all_dependencies, with_only
from small_sweep import settings

from lm_eval_prune import run_sweep

SCRIPTS = Path(__file__).parent / "first_minutes"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the tests run outside a checkout"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an environment with our wheel and all that it depends on."""
    python = environment(tmp_path_factory.mktemp("user") / "env", wheel)
    with_all_dependencies(python, "lm_eval")
    where = run(python, "-c", "import lm_eval_prune; print(lm_eval_prune.__file__)", cwd=python.parent)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    return python


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("notebook.py", "random half"),
        ("cluster.sh", "10 cells done, 0 running, 0 missing, 0 failed"),
        ("lm_eval.sh", "dense"),
    ],
)
def test_it_goes_as_the_docs_say(script, said, python, tmp_path):
    """The scripts end with another code where what they look at is not as it should be."""
    program = python if script.endswith(".py") else "bash"
    assert said in run(program, SCRIPTS / script, cwd=tmp_path, env=variables(python))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    grid = {"tasks": ["demo_facts"], "num_fewshot": [0], "ranking": ["random:0"], "limit": 6}
    return run_sweep(settings(tmp_path_factory.mktemp("sweep") / "grid", **grid), progress=False)


@pytest.fixture(scope="module")
def light(wheel, tmp_path_factory):
    """The interpreter of an environment with our wheel and the packages that the docs name for reading results."""
    (line,) = re.findall(r"^pip install (click .*)$", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE)
    python = environment(tmp_path_factory.mktemp("light") / "env", wheel)
    with_only(python, line.split())
    for module in ("torch", "transformers", "lm_eval", "altair", "vl_convert"):
        run(python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec('{module}') is not None)")
    return python


def test_results_are_read_without_torch_and_the_harness(light, sweep, tmp_path):
    command = light.parent / "lm-eval-prune"
    said = run(command, "leaderboard", sweep.folder, "--output_path", "board", cwd=tmp_path, env=variables(light))
    assert "random" in said
    assert "pip install 'lm-eval-prune[report]'" in said
    page = (tmp_path / "board" / "leaderboard.html").read_text()
    assert "demo_facts" in page
    suffixes = {path.suffix for path in (tmp_path / "board").iterdir()}
    assert suffixes >= {".html", ".md", ".tex", ".csv", ".json", ".parquet"}
    status = run(command, "sweep", "status", sweep.folder, env=variables(light))
    assert "2 cells done, 0 running, 0 missing, 0 failed" in status
    code = (
        "import sys, lm_eval_prune as p\n"
        "cells = p.compare(sys.argv[1]).cells\n"
        "mask = p.PruningMask.dense(6, 6).prune_head(0, 1)\n"
        "print(len(cells), mask, p.SweepConfig(output_path='x', tasks='piqa').tasks)"
    )
    found = run(light, "-c", code, sweep.folder, cwd=tmp_path, env=variables(light))
    assert found.strip() == "2 <PruningMask: 1 of 36 heads, 0 of 6 FFNs pruned> ('piqa',)"


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["demo"], "torch"),
        (["importance", "--tasks", "piqa", "--output_path", "x"], "torch"),
        (["sweep", "--config", "bundled", "--output_path", "x"], "torch"),
        (["leaderboard", "GRID", "--figures", "svg"], "altair"),
    ],
)
def test_what_needs_more_says_so_in_a_line(arguments, needed, light, sweep, tmp_path):
    words = [str(sweep.folder) if word == "GRID" else word for word in arguments]
    done = subprocess.run(
        [light.parent / "lm-eval-prune", *words],
        cwd=tmp_path,
        env=variables(light),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert f"the package {needed}" in line
    assert "pip install" in line
    assert not (tmp_path / "x").exists()
