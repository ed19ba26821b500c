"""A small grid on the bundled model, and how two of its folders are compared: imported by the tests of sweeps."""

from __future__ import annotations

import json

from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.sweep.config import make_config

GRID = {
    "tasks": ["demo_recall", "demo_facts"],
    "num_fewshot": [0, 2],
    "prune_heads": ["0", "0.5"],
    "ranking": ["own", "random:0+1"],
    "limit": 6,
    "importance_limit": 6,
    "bootstrap_iters": 100,
    "include_defaults": False,
    "include_path": str(tasks_folder()),
    "device": "cpu",
}
BEYOND = {
    "num_fewshot": [2],
    "prune_layers": ["0.34"],
    "ranking": [
        *("own:rescored@0.25", "most:function_vector", "most-without:induction:0.2"),
        *("layer:block_influence", "random:0"),
    ],
}
"""Changes to it: rankings that need more than one kind of score, scores that are known to be needed step by step, and
whole layers."""
NUM_CELLS = 2 * 2 * (1 + 1 + 2)
"""Dense, own, and random with two seeds, on two tasks at two numbers of shots."""


def settings(folder, **changes):
    return make_config({**GRID, "output_path": folder, **changes})


def without_timings(path):
    content = json.loads(path.read_text())
    for block, key in ((content, "date"), (content["cell"], "timing"), (content["cell"], "sha256")):
        block.pop(key)
    return content


def cells(folder):
    return {path.name: without_timings(path) for path in (folder / "cells").glob("*.json")}


def samples(folder):
    return {path.name: path.read_bytes() for path in (folder / "cells").glob("*.gz")}


def leftovers(folder):
    """Files that only a sweep at work needs."""
    files = [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".lock"))]
    cells = {path.stem for path in (folder / "cells").glob("*.json")}
    return files + [path for path in (folder / "cells").glob("*.gz") if path.name.split(".")[0] not in cells]


def same(folder, other):
    """Both hold the same cells and samples under the same names, and nothing half-written."""
    assert cells(folder) == cells(other)
    assert samples(folder) == samples(other)
    assert leftovers(folder) == []
    names = {path.name for path in other.rglob("*") if path.is_file()}
    assert {path.name for path in folder.rglob("*") if path.is_file()} == names
