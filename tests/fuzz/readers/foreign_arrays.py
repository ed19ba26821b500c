"""A mask of another project as .npy or .safetensors, for `mask --from`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lm_eval_prune.selection import read_mask_file
from tests.fuzz.readers import Target
from tests.fuzz.readers.masks import use

KEPT = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])


def prepare(folder: Path) -> Target:
    np.save(folder / "a.npy", KEPT.astype("float32"))
    np.save(folder / "b.npy", np.asfortranarray(KEPT[:, None, :, None, None].astype(bool)))
    save_file({"head_mask": torch.tensor(KEPT), "ffn_mask": torch.tensor([1, 0, 1])}, folder / "c.safetensors")
    save_file({"mask": torch.tensor(KEPT).bfloat16()}, folder / "d.safetensors", metadata={"a": "b"})
    return Target([path.read_bytes() for path in sorted(folder.iterdir())], read, "bytes")


def read(data: bytes, own: Path) -> None:
    path = own / "head_mask"
    path.write_bytes(data)
    use(read_mask_file(path, say=False), own)
