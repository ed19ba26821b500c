"""New weights written as safetensors, a shard at a time: memory holds one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file

from lm_eval_prune.errors import ArgumentError, FileFormatError
from lm_eval_prune.progress import Bar

__all__ = ["NewWeight", "write_shards"]


@dataclass(frozen=True)
class NewWeight:
    """One weight of the new checkpoint, made when it is asked for; `weight[...]` makes it, too, as of a safetensors
    slice."""

    shape: torch.Size
    dtype: torch.dtype | None
    read: Callable[[], torch.Tensor]

    def __getitem__(self, everything: object) -> torch.Tensor:
        return self.read()


def write_shards(
    folder: Path, weights: Mapping[str, NewWeight], max_shard_size: str | int, progress: bool = False
) -> None:
    """Write weights by name as `save_pretrained` names its files. Raises ArgumentError, FileFormatError."""
    shapes = {name: torch.empty(weight.shape, dtype=weight.dtype, device="meta") for name, weight in weights.items()}
    try:
        if str(max_shard_size).startswith("-"):
            raise ValueError
        split = split_torch_state_dict_into_shards(shapes, max_shard_size=max_shard_size)
    except (ValueError, OverflowError) as error:
        raise ArgumentError(f"max_shard_size={max_shard_size}: expected a size such as 5GB") from error
    bar = Bar(split.filename_to_tensors.items(), desc="Compacting", unit="shard", disable=not progress)
    for file, names in bar:
        tensors = {name: weights[name].read() for name in names}
        try:
            save_file(tensors, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # of a full disk, too
            raise FileFormatError(f"{folder / file}: cannot be written: {error}") from error
        del tensors  # before the next shard's are read
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
