"""A checkpoint's weights, for `compact`: the header of a safetensors file, and pytorch_model.bin."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from lm_eval_prune import compact_checkpoint
from tests.fuzz.readers import Target
from tests.fuzz.readers.configurations import MASK, checkpoints


def prepare(folder: Path) -> Target:
    whole = checkpoints(folder)["whole"]
    tensors = load_file(whole / "model.safetensors")
    good = [(whole / "model.safetensors").read_bytes()]
    for kept in (tensors, {**tensors, "extra": torch.zeros(1, dtype=torch.int64)}):
        buffer = io.BytesIO()
        torch.save(kept, buffer)
        good.append(buffer.getvalue())

    def read(data: bytes, own: Path) -> None:
        model = own / "model"
        model.mkdir()
        shutil.copyfile(whole / "config.json", model / "config.json")
        name = "pytorch_model.bin" if b"PK" in data[:4] else "model.safetensors"
        (model / name).write_bytes(data)
        compact_checkpoint(model, MASK, own / "new")

    return Target(good, read, form="bytes")
