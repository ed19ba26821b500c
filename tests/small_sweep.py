"""A small grid on the bundled model, and how two of its folders are compared: imported by the tests of sweeps."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from pathlib import Path

from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_prune import bundled_model_path
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.sweep.config import make_config
from tests import isolation

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
    "short": True,
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


def settings(folder, *, short=False, **changes):
    """`short`: of a model whose induction scores take few and short sequences, as only such fit its positions."""
    model = {"model_args": f"pretrained={short_model()}"} if short else {}
    return make_config({**GRID, **model, "output_path": folder, **changes})


@functools.cache
def short_model():
    """The folder of the bundled model with its first 256 positions alone, made once for all processes of the tests."""
    folder = Path(os.environ[isolation.OWN], "short-model")
    if not folder.exists():
        model = AutoModelForCausalLM.from_pretrained(bundled_model_path())
        positions = model.model.decoder.embed_positions
        positions.weight = nn.Parameter(positions.weight[: 256 + positions.offset].clone())
        model.config.max_position_embeddings = 256
        made = tempfile.mkdtemp(dir=folder.parent)
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(bundled_model_path()).save_pretrained(made)
        with contextlib.suppress(OSError):  # another process was faster
            Path(made).rename(folder)
    return folder


def without_timings(path):
    """A cell but for when and where it was computed: the checkout's commit is another one when somebody commits."""
    content = json.loads(path.read_text())
    for key in ("date", "git_hash", "upper_git_hash", "pretty_env_info"):
        del content[key]
    for key in ("timing", "sha256"):
        del content["cell"][key]
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
