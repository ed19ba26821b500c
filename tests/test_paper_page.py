"""The page of the paper for a model of the paper's own size."""

import pytest
from full_grid import TASKS, full_grid

from lm_eval_prune.paper import evidence, report


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
def test_a_page_of_the_papers_own_model_stays_below_six_megabytes(large):
    made = report.paper_report(large)
    by_key = {part.section.key: part for part in made.parts}
    for key in NEEDED:
        assert by_key[key].figures, key
    assert len(by_key["figure-12"].figures) == 3  # a figure of 14 maps for each number of shots
    page = (large / "paper.html").read_bytes()
    assert len(page) < 6_000_000
    for task in TASKS:
        assert task.encode() in page
