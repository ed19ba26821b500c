"""A checkpoint's index of shards, for `compact`."""

from __future__ import annotations

import shutil
from pathlib import Path

from lm_eval_prune import compact_checkpoint
from tests.fuzz.readers import Target
from tests.fuzz.readers.configurations import MASK, checkpoints


def prepare(folder: Path) -> Target:
    whole = checkpoints(folder)["whole"]
    sharded = folder / "sharded"
    compact_checkpoint(whole, MASK, sharded, max_shard_size="3KB", zeroed=True)

    def read(data: bytes, own: Path) -> None:
        model = own / "model"
        model.mkdir()
        for file in [sharded / "config.json", *sharded.glob("*.safetensors")]:
            shutil.copyfile(file, model / file.name)
        (model / "model.safetensors.index.json").write_bytes(data)
        compact_checkpoint(model, MASK, own / "new")

    return Target([(sharded / "model.safetensors.index.json").read_bytes()], read)
