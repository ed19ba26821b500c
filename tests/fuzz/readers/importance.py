"""An importance file: masks made from it, its mean with another, its figures."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from lm_eval_prune.errors import PruneError
from lm_eval_prune.importance.aggregate import write_aggregate
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.selection import select_mask
from tests.fuzz.readers import Target

HEADS = {
    "format": "lm-eval-prune-importance", "version": 1, "component": "heads", "method": "gradient", "model": "m",
    "revision": "x", "dtype": "float32", "model_args": {"peft": "y"}, "num_hidden_layers": 3, "num_attention_heads": 2,
    "task": "t", "num_fewshot": 5, "seed": 1, "limit": 0.5, "num_examples": 7, "split": "training", "doc_ids": [0, 1],
    "versions": {"torch": "2"}, "scores": [[1.0, 2], [3, 4], [0.1, -5]],
}  # fmt: skip
FFNS = {**HEADS, "component": "ffns", "method": "knockout", "metric": "acc", "scores": [0.5, -0.25, 0]}
SOURCE = {"path": "x", "sha256": "0", "num_examples": 3, "split": "test"}
MEAN = {**HEADS, "task": "aggregate", "tasks": ["a", "b"], "files": [SOURCE, SOURCE], "normalisation": "none"}
INDUCTION = {**HEADS, "method": "prefix-matching", "lengths": [25], "repeats": 4, "variance": [[0, 0]] * 3}
MASKED = {**HEADS, "mask": {"num_hidden_layers": 3, "num_attention_heads": 2, "pruned_heads": {}, "provenance": {}}}


def prepare(folder: Path) -> Target:
    good = [json.dumps(one).encode() for one in (HEADS, FFNS, MEAN, INDUCTION, MASKED)]
    for number, data in enumerate(good):
        (folder / f"{number}.json").write_bytes(data.replace(b'"task": "t"', b'"task": "other"'))
    beside = sorted(folder.iterdir())

    def read(data: bytes, own: Path) -> None:
        path = own / "scores.json"
        path.write_bytes(data)
        for other in beside:
            with suppress(PruneError):
                written = write_aggregate([path, other], own / "out", "l2" if b"y" in data else "none")
                assert written.parent == own / "out"
                written.unlink()
        for order in ("least", "most", "random"):
            with suppress(PruneError):
                select_mask(head_importance=path, prune_heads="0.5", order=order)
            with suppress(PruneError):
                select_mask(ffn_importance=path, prune_ffns="0.5", order=order)
        scores = ImportanceScores.load(path)
        assert scores.tensor().isfinite().all()
        assert len(scores.oracle_on) >= 0
        scores.save(own / "saved.json")
        assert ImportanceScores.load(own / "saved.json") == scores

    return Target(good, read)
