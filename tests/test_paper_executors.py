"""The study of the paper elsewhere: shared by two processes, and on a Ray cluster."""

import json
from pathlib import Path

import pytest
import torch
from small_study import run_small_study
from test_sweep_executors import cluster  # noqa: F401

from lm_eval_prune.paper.report import paper_report
from tests import processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process reports."""
    folder = tmp_path_factory.mktemp("alone") / "study"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the others have it: the order of a sum depends on it
    try:
        run_small_study(folder)
    finally:
        torch.set_num_threads(threads)
    return reported(folder)


def reported(folder):
    """The numbers of the report; where the folder lies is in commands and problems."""
    paper_report(folder)
    content = json.loads((folder / "paper.json").read_text(encoding="utf-8"))
    assert content["problems"] == []
    return [{key: one[key] for key in ("key", "has_data", "claims", "tables", "notes")} for one in content["sections"]]


def test_two_processes_that_share_a_study_report_what_one_does(alone, tmp_path):
    done = processes.run(Path(__file__).with_name("small_study.py"), tmp_path / "study", timeout=600)
    assert done.returncode == 0, done.stderr
    assert reported(tmp_path / "study") == alone


def test_a_study_on_ray_reports_what_one_process_does(alone, cluster, tmp_path):  # noqa: F811
    run_small_study(tmp_path / "study", executor="ray", ray_address=cluster.address)
    assert reported(tmp_path / "study") == alone
