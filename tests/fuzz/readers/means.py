"""A file of mean outputs, as mean ablation takes it."""

from __future__ import annotations

from pathlib import Path

import torch

from lm_eval_prune.means import Means
from tests.fuzz.readers import Target


def prepare(folder: Path) -> Target:
    good = []
    for heads, width in ((4, 2), (1, 8)):
        made = Means(
            heads=torch.rand(2, heads, width), ffns=torch.rand(2, 8), settings={"task": "piqa", "num_fewshot": 5}
        )
        made.save(folder / "means.safetensors")
        good.append((folder / "means.safetensors").read_bytes())

    def read(data: bytes, own: Path) -> None:
        path = own / "means.safetensors"
        path.write_bytes(data)
        Means.load(path)

    return Target(good, read, form="bytes")
