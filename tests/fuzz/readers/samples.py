"""The samples beside a results file, for `leaderboard`, against good ones of the dense model."""

from __future__ import annotations

import json
from pathlib import Path

from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.tables import markdown
from lm_eval_prune.variants import Variant
from tests.fuzz.readers import Target
from tests.sweep_folders import harness_run, pruning, samples

VARIANT = Variant("own", "0.5", "0")
NAME = "samples_piqa_2026-01-01T00-00-00.000001.jsonl"


def prepare(folder: Path) -> Target:
    files = {}
    for name in ("dense", "pruned"):
        path = harness_run(folder / name, tasks=("piqa",), count=5)
        files[name] = json.loads(path.read_text())
    files["pruned"]["pruning"] = pruning(VARIANT)
    good = [(folder / "dense" / NAME).read_bytes(), _without("metrics", "filter"), _without("doc_hash")]

    def read(data: bytes, own: Path) -> None:
        for name, content in files.items():
            (own / name).mkdir()
            (own / name / path.name).write_text(json.dumps(content))
            (own / name / NAME).write_bytes(data if name == "pruned" else good[0])
        board = compare(read_collection([own]), BoardConfig(flips=True))
        assert len(board.entries) == 2, "a row was lost"
        markdown(board)

    return Target(good, read)


def _without(*keys: str) -> bytes:
    """Lines as older releases of the harness wrote them."""
    lines = samples("piqa", 0, "old", 5)
    return b"".join(json.dumps({k: v for k, v in line.items() if k not in keys}).encode() + b"\n" for line in lines)
