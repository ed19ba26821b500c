"""`compact_checkpoint`: a checkpoint on disk to a smaller one, or to one with zeros (zeroed.py), shard by shard.

The model is never built: what stays of each weight is read from the original's files and written out, so that memory
holds one new shard and one weight.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lm_eval_prune.compaction.card import model_card
from lm_eval_prune.compaction.shards import NewWeight, write_shards
from lm_eval_prune.compaction.sources import copy_kept_files, require_own
from lm_eval_prune.compaction.stock import require_stock, stock_weights
from lm_eval_prune.compaction.trial import require_compactable
from lm_eval_prune.compaction.weights import PartialWeight, Weights
from lm_eval_prune.compaction.zeroed import zeroed_weights
from lm_eval_prune.decoders import check_fits, shape_of
from lm_eval_prune.decoders.compacted import compacted_config, plain_config, pruned_from
from lm_eval_prune.decoders.compacted_config import LAYOUTS
from lm_eval_prune.decoders.configuration import find_file, read_configuration
from lm_eval_prune.decoders.cuts import WHOLE, cuts_of, named_on_disk, tensors_of
from lm_eval_prune.decoders.family import text_config
from lm_eval_prune.decoders.folding import Folded, folded
from lm_eval_prune.decoders.places import places_of
from lm_eval_prune.decoders.skeleton import empty_model, num_pruned_parameters, num_removed_parameters, skeleton_of
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.folders import appearing, require_new

if TYPE_CHECKING:
    from lm_eval_prune.masks import PruningMask
    from lm_eval_prune.means import Means

__all__ = ["Compaction", "check_means", "compact_checkpoint", "original_config"]


class Compaction(NamedTuple):
    """What was written."""

    output_path: Path
    mask: PruningMask
    """All that the new model lacks of the original one."""
    num_parameters_before: int
    """Of the original model, before any compaction."""
    num_parameters: int
    """That are left; the others are gone, or zero in a zeroed checkpoint."""
    num_bytes_before: int
    """Size of the weights' files that were read."""
    num_bytes: int
    zeros: PruningMask | None = None
    """What a smaller model of the stock class has as zeros, in its own numbers; None in other forms."""


def compact_checkpoint(
    model: str | os.PathLike[str],
    mask: PruningMask,
    output_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    max_shard_size: str | int = "5GB",
    results: Sequence[str | os.PathLike[str]] = (),
    name: str | None = None,
    zeroed: bool = False,
    layout: str = "ragged",
    means: Means | None = None,
    progress: bool = False,
) -> Compaction:
    """Write what `mask` leaves of the checkpoint `model` (a folder, or a Hub id) to the new folder `output_path`.

    With `zeroed` the new checkpoint is a plain one of the stock class and of the original's size, for every other tool:
    what the mask prunes is zero in it, also what a compacted `model` lacks already. With a `layout` of
    "kv-groups", "uniform" or "layers" it is a smaller model of the stock class (`decoders/stock.py`), in which what
    that class cannot lack is zero. With `means`, what is pruned gives
    these (mean ablation), as biases of the new checkpoint.
    Weights keep their dtypes and are written as safetensors in shards of at most `max_shard_size`; the tokenizer is
    copied, and a model card written, with the harness's `results` files of this mask. `name` is what the card calls the
    original. The folder appears whole or not at all. Raises PruneError: for a folder that is not empty, a mask or
    results that do not fit, a mask that is not of the layout, a class that has no such model,
    weights that are missing, cut short or of the wrong shape, files that are links out of the
    checkpoint's folder.
    """
    output_path = Path(output_path)
    require_new(output_path)
    config = original_config(model, revision)
    if (file := find_file(model, "config.json", revision)) is not None:
        require_own(file)
    check_fits(mask, *shape_of(config), where=os.fspath(model))
    _require_one_form(zeroed, layout, means is not None or getattr(config, "pruning_means", None) is not None)
    if means is not None:
        check_means(means, config, model)
    weights = Weights.of(model, revision)
    smaller = compacted_config(config, mask, name or os.fspath(model), means)
    removed = num_removed_parameters(smaller)
    if smaller.pruning_means is None:
        assert num_pruned_parameters(config, mask) == removed - num_removed_parameters(config)
    stock = None if layout == "ragged" else require_stock(config, smaller.removed, layout)
    if stock is not None:
        stock.config.pruned_from = pruned_from(smaller, layout)
        found = stock_weights(weights, config, smaller.removed, stock, model)
        new_config, new_weights = stock.config, _on_disk(stock.model, found)
    elif zeroed:
        found = zeroed_weights(weights, config, smaller.removed, model)
        new_config, new_weights = plain_config(smaller), _on_disk(skeleton_of(config).model, found)
    else:
        new_config, new_weights = smaller, located(weights, config, smaller, model, means)
    new_config.dtype = weights.dtype
    num_before = skeleton_of(config).model.num_parameters()
    num_left = num_before - removed if stock is None else stock.model.num_parameters()
    card = model_card(smaller, num_before, num_left, results, zeroed=zeroed, stock=stock)
    with appearing(output_path) as folder:
        write_shards(folder, new_weights, max_shard_size, progress)
        new_config.save_pretrained(folder)
        for file in folder.glob("*.safetensors"):  # safetensors lets nobody else read what it writes
            shutil.copymode(folder / "config.json", file)
        copy_kept_files(model, revision, folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        written = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    zeros = None if stock is None else stock.zeros
    return Compaction(output_path, smaller.removed, num_before, num_left, weights.num_bytes, written, zeros)


def _on_disk(model: Any, weights: Mapping[str, NewWeight]) -> dict[str, NewWeight]:
    return {key: weights[name] for name, key in named_on_disk(model, weights).items()}


def _require_one_form(zeroed: bool, layout: str, has_means: bool) -> None:
    if layout not in ("ragged", *LAYOUTS):
        raise ArgumentError(f"layout={layout}: unknown; expected ragged, {', '.join(LAYOUTS)}")
    if zeroed and layout != "ragged":
        raise ArgumentError(f"zeroed and layout={layout} exclude one another: a zeroed checkpoint has the original's")
    if has_means and (zeroed or layout != "ragged"):
        form = "zeroed" if zeroed else f"layout={layout}"
        raise ArgumentError(f"{form} and means exclude one another: the stock class has no place for constants")


def original_config(model: str | os.PathLike[str], revision: str | None = None) -> Any:
    """The configuration of a checkpoint. Raises PruneError where there is none, or of no supported model."""
    config = read_configuration(os.fspath(model), revision=revision)
    require_compactable(config)
    return config


def located(
    weights: Weights, config: Any, new_config: Any, where: object, means: Means | None = None
) -> dict[str, NewWeight]:
    """By name, every weight of the smaller model. Raises FileFormatError for the first that is missing or misshapen."""
    source = empty_model(config)
    found, places = places_of(source), weights.places(source, where)
    constants = getattr(new_config, "pruning_means", None) is not None
    cuts, there = cuts_of(found, new_config.removed, constants=constants), tensors_of(source)
    biases = folded(found, new_config.removed, means) if constants else {}

    def weight(name: str, shape: torch.Size) -> NewWeight:
        if name not in biases and name in there:
            part = PartialWeight(places(name), cuts.get(name, WHOLE))
            return NewWeight(shape, part.stored.dtype, lambda: part[...])
        bias = biases.get(name, Folded(torch.zeros(shape)))  # of a constant for what was gone before, and gave nothing
        columns = PartialWeight(places(bias.weight), bias.columns) if bias.weight else None
        before = PartialWeight(places(bias.bias), WHOLE) if bias.bias else None
        dtype = columns.stored.dtype if columns else weights.dtype

        def made() -> torch.Tensor:
            return bias.of(columns[...] if columns else None, before[...] if before else None).to(dtype)

        return NewWeight(shape, dtype, made)

    return {name: weight(name, tensor.shape) for name, tensor in tensors_of(empty_model(new_config)).items()}


def check_means(means: Means, config: Any, where: str | os.PathLike[str]) -> None:
    """Raise MaskShapeError unless they are of the model of this configuration."""
    means.check_fits(shape_of(config), skeleton_of(config).head_dim, text_config(config).hidden_size, os.fspath(where))
