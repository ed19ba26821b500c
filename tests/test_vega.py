"""The charts' library runs in a process of its own, and the board is there where it dies."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from sweep_folders import grid, sweep

from lm_eval_prune.errors import ChartError
from lm_eval_prune.report import vega
from lm_eval_prune.report.leaderboard import leaderboard

DEATHS = {
    "a signal": ("import os, signal; os.kill(os.getpid(), signal.SIGTRAP)", "ended by SIGTRAP"),
    "an error": ("raise RuntimeError('no such chart')", "RuntimeError: no such chart"),
    "an exit code": ("raise SystemExit(3)", "exit code 3"),
    "half an answer": ("print('[\"abc')", "answer is cut"),
    "no answer in time": ("import time; time.sleep(60)", "timed out"),
}


@pytest.fixture
def dying(monkeypatch, tmp_path):
    """The name of a death -> from now on the library dies of it."""

    def choose(death):
        script = tmp_path / "dying.py"
        script.write_text(DEATHS[death][0])
        monkeypatch.setattr(vega, "SCRIPT", script)
        monkeypatch.setattr(vega, "SECONDS", 1)
        vega.start_bundling.cache_clear()

    yield choose
    vega.start_bundling.cache_clear()


@pytest.mark.parametrize("death", DEATHS)
def test_a_page_without_charts_says_so(death, dying, tmp_path):
    dying(death)
    sweep(tmp_path / "runs", grid(), count=10)
    with pytest.raises(ChartError, match=DEATHS[death][1]):
        vega.converted([({}, "svg")], 1.0)
    with pytest.raises(ChartError, match=DEATHS[death][1]):
        leaderboard([tmp_path / "runs"], tmp_path / "out", figure_formats=("svg",))
    page = (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8")
    assert "no charts on the page" in page
    assert DEATHS[death][1] in page
    assert "dense" in page
    assert 'id="data-vega"' not in page
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [
        ".csv",
        ".csv",
        ".html",
        ".json",
        ".md",
        ".parquet",
        ".tex",
    ]


def test_charts_are_on_the_page_where_it_lives(tmp_path):
    vega.start_bundling.cache_clear()
    sweep(tmp_path / "runs", grid(), count=10)
    made = leaderboard([tmp_path / "runs"], tmp_path / "out")
    assert 'id="data-vega"' in made.page.read_text(encoding="utf-8")
    assert not made.board.problems


@pytest.mark.slow
def test_an_address_space_of_40_gigabytes_is_enough_for_the_board(tmp_path):
    sweep(tmp_path / "runs", grid(), count=10)
    command = [
        sys.executable,
        "-m",
        "lm_eval_prune",
        "leaderboard",
        str(tmp_path / "runs"),
        "-o",
        str(tmp_path / "out"),
    ]
    limit = 40_000_000 * 1024
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 0
    assert "dense" in (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8")
