"""A study of few cells, for tests; `python small_study.py FOLDER` shares one between two children of one process.

The exit code is the number of children that failed.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import torch

import lm_eval_prune.harness.induction
import lm_eval_prune.sweep.run
import lm_eval_prune.sweep.worker  # noqa: F401  (once, and not in each child)
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.paper import study

SETTINGS = {
    "tasks": ("demo_facts", "demo_recall"), "include_path": str(tasks_folder()), "include_defaults": False,
    "num_fewshot": (0,), "limit": 3, "importance_limit": 3, "device": "cpu",
}  # fmt: skip


def run_small_study(folder: Path, **more) -> None:
    """Heads and FFNs, donors, a task outside and induction scores, each at one share."""
    grids = study.GRIDS, study.TRANSFER, study.DONOR_SHARES
    study.GRIDS = (
        {"ranking": ("own", "aggregate"), "prune_heads": ("0", "0.5")},
        {"ranking": ("own",), "prune_ffns": ("0.2",)},
    )
    study.TRANSFER = {"ranking": ("task:closest", "task:farthest"), "prune_heads": ("0.5",)}
    study.DONOR_SHARES = ("0.5",)
    try:
        made = study.make_study(folder, {**SETTINGS, **more}, unseen=["demo_mixed"], num_sequences=2)
        assert not any(sweep.failed for sweep in study.run_study(made, progress=False))
    finally:
        study.GRIDS, study.TRANSFER, study.DONOR_SHARES = grids


def start(folder: Path) -> int:
    """The process id of a child that runs the study."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        run_small_study(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(folder: str) -> int:
    torch.set_num_threads(1)
    children = [start(Path(folder)) for _ in range(2)]
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in children)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
