"""`compact_checkpoint`: a checkpoint on disk to a smaller one, shard by shard.

The model is never built: what stays of each weight is read from the original's files and written out, so that memory
holds one new shard and one weight.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from tqdm import tqdm

from lm_eval_prune.compaction.card import model_card
from lm_eval_prune.compaction.weights import PartialWeight, Stored, Weights, find_file
from lm_eval_prune.decoders import check_fits, is_original_family, num_pruned_parameters, num_removed_parameters
from lm_eval_prune.decoders.configuration import read_configuration
from lm_eval_prune.decoders.cuts import Cut, parameter_cuts
from lm_eval_prune.errors import ArgumentError, FileFormatError, UnsupportedModelError
from lm_eval_prune.folders import appearing, require_new

if TYPE_CHECKING:
    import torch

    from lm_eval_prune.decoders.pruned_opt_config import PrunedOPTConfig
    from lm_eval_prune.masks import PruningMask

__all__ = ["Compaction", "compact_checkpoint", "original_config"]

KEPT_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
    "LICENSE.md",
)
"""Files beside the weights that are copied as they are, where there are any."""


class Compaction(NamedTuple):
    """What was written."""

    output_path: Path
    mask: PruningMask
    """All that the new model lacks of the original one."""
    num_parameters_before: int
    """Of the original model, before any compaction."""
    num_parameters: int
    num_bytes_before: int
    """Size of the weights' files that were read."""
    num_bytes: int


def compact_checkpoint(
    model: str | os.PathLike[str],
    mask: PruningMask,
    output_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    max_shard_size: str | int = "5GB",
    results: Sequence[str | os.PathLike[str]] = (),
    name: str | None = None,
    progress: bool = False,
) -> Compaction:
    """Write what `mask` leaves of the checkpoint `model` (a folder, or a Hub id) to the new folder `output_path`.

    Weights keep their dtypes and are written as safetensors in shards of at most `max_shard_size`; the tokenizer is
    copied, and a model card written, with the harness's `results` files of this mask. `name` is what the card calls the
    original. The folder appears whole or not at all. Raises PruneError: for a folder that is not empty, a mask or
    results that do not fit, weights that are missing, cut short or of the wrong shape.
    """
    output_path = Path(output_path)
    require_new(output_path)
    config = original_config(model, revision)
    check_fits(mask, config.num_hidden_layers, config.num_attention_heads, where=os.fspath(model))
    from lm_eval_prune.decoders.pruned_opt_config import compacted_config

    weights = Weights.of(model, revision)
    new_config = compacted_config(config, mask, name or os.fspath(model))
    new_config.dtype = weights.dtype
    parts = located(weights, config, new_config, model)
    num_parameters = sum(part.parameter.numel() for part in parts.values())
    num_before = num_parameters + num_removed_parameters(new_config)
    assert num_pruned_parameters(config, mask) == num_removed_parameters(new_config) - num_removed_parameters(config)
    card = model_card(new_config, num_before, num_parameters, results)
    with appearing(output_path) as folder:
        _write_shards(folder, parts, weights.dtype, max_shard_size, progress)
        new_config.save_pretrained(folder)
        for file in folder.glob("*.safetensors"):  # safetensors lets nobody else read what it writes
            shutil.copymode(folder / "config.json", file)
        for kept in KEPT_FILES:
            if (found := find_file(model, kept, revision)) is not None:
                shutil.copyfile(found, folder / kept)
        (folder / "README.md").write_text(card, encoding="utf-8")
        written = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Compaction(output_path, new_config.removed, num_before, num_parameters, weights.num_bytes, written)


def original_config(model: str | os.PathLike[str], revision: str | None = None) -> Any:
    """The configuration of a checkpoint. Raises PruneError where there is none, or of no supported model."""
    config = read_configuration(os.fspath(model), revision=revision)
    if not is_original_family(config):
        raise UnsupportedModelError(f"{model}: model type {config.model_type!r} cannot be compacted; expected an OPT")
    if config.hidden_size % config.num_attention_heads:
        raise ArgumentError(
            f"{model}: {config.num_attention_heads} heads do not divide a width of {config.hidden_size}"
        )
    return config


class Part(NamedTuple):
    """One weight of the smaller model, and where it comes from."""

    parameter: torch.Tensor
    """Its shape, on the meta device."""
    stored: Stored
    cut: Cut


def located(weights: Weights, config: Any, new_config: PrunedOPTConfig, where: object) -> dict[str, Part]:
    """By name, every weight of the smaller model. Raises FileFormatError for the first that is missing or misshapen."""
    return {
        name: Part(parameter, weights.place(name, shape, where), cut)
        for name, parameter, cut, shape in parameter_cuts(config, new_config)
    }


def _write_shards(
    folder: Path, parts: dict[str, Part], dtype: torch.dtype, max_shard_size: str | int, progress: bool
) -> None:
    shapes = {name: part.parameter.to(dtype) for name, part in parts.items()}
    try:
        if str(max_shard_size).startswith("-"):
            raise ValueError
        split = split_torch_state_dict_into_shards(shapes, max_shard_size=max_shard_size)
    except ValueError as error:
        raise ArgumentError(f"max_shard_size={max_shard_size}: expected a size such as 5GB") from error
    bar = tqdm(split.filename_to_tensors.items(), desc="Compacting", unit="shard", disable=not progress)
    for file, names in bar:
        tensors = {name: PartialWeight(parts[name].stored, parts[name].cut)[...] for name in names}
        try:
            save_file(tensors, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # of a full disk, too
            raise FileFormatError(f"{folder / file}: cannot be written: {error}") from error
        del tensors  # before the next shard's are read
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
