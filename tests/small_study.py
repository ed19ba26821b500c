"""A study of few cells, for tests and for the processes that they start: `python small_study.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

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


if __name__ == "__main__":
    run_small_study(Path(sys.argv[1]))
