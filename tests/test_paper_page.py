"""The page of the paper: without charts, and for a model of the paper's own size."""

import re

import pytest
from full_grid import TASKS, full_grid

from lm_eval_prune.paper import evidence, report
from lm_eval_prune.paper.claims import SECTIONS


@pytest.fixture
def large(monkeypatch, tmp_path):
    """A folder that reads as OPT-66B's: 64 x 72 heads, 14 tasks, 3 numbers of shots, and what was evaluated."""
    _, collection = full_grid()
    monkeypatch.setattr(evidence, "read_collection", lambda paths: collection)
    return tmp_path


NEEDED = (
    "figure-3",
    "figure-4",
    "figure-5",
    "figure-8",
    "figure-10",
    "figure-11",
    "figure-12",
    "figure-18",
    "figure-19",
)


@pytest.mark.slow
def test_a_page_of_the_papers_own_model_stays_below_six_megabytes(large, monkeypatch):
    made = report.paper_report(large)
    by_key = {part.section.key: part for part in made.parts}
    for key in NEEDED:
        assert by_key[key].figures, key
    assert len(by_key["figure-12"].figures) == 3  # a figure of 14 maps for each number of shots
    page = (large / "paper.html").read_bytes()
    assert len(page) < 6_000_000
    for task in TASKS:
        assert task.encode() in page


@pytest.mark.slow
def test_a_page_without_charts_says_so_and_has_the_rest(large, monkeypatch):
    missing = "altair is not installed: pip install 'lm-eval-prune[report]'"
    monkeypatch.setattr(report, "why_no_charts", lambda: missing)
    made = report.paper_report(large)
    page = (large / "paper.html").read_text(encoding="utf-8")
    assert [problem.kind for problem in made.problems].count("no charts on the page") == 1
    assert "no charts on the page" in page
    assert "altair is not installed" in page
    assert "data-vega" not in page
    assert not any(part.figures for part in made.parts)
    for section in SECTIONS:
        assert f'<section class="section" id="{section.key}">' in page
    tables = re.findall(r"<table", page)
    assert len(tables) > len(SECTIONS)
    assert "Spearman's rho of every pair of tasks" in page.replace("&#39;", "'")
