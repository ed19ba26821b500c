"""What compaction leaves of each weight: which rows or columns stay.

Works on tensors in memory and on safetensors' slices of a file alike, so that nothing else of a weight is ever read.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lm_eval_prune.decoders.constant import Constant
from lm_eval_prune.decoders.slices import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from lm_eval_prune.decoders.places import Places
    from lm_eval_prune.decoders.slices import Part
    from lm_eval_prune.masks import PruningMask

__all__ = ["WHOLE", "Cut", "cuts_of", "named_in_model", "named_on_disk", "tensors_of", "without"]


class Cut(NamedTuple):
    """The part of one weight that stays."""

    dim: int | None
    """The dimension that gets shorter; None keeps the weight whole."""
    ranges: tuple[tuple[int, int], ...] = ()
    """What stays along it: (first, end), ascending; none of them where nothing stays."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing stays."""
        return self.dim is not None and not self.ranges

    def of(self, weight: Any) -> Tensor:
        """The part that stays of a tensor, or of a safetensors slice; whole tensors are handed back as they are."""
        if self.dim is None:
            return weight[...]
        ranges = self.ranges or [(0, 0)]
        kept = [weight[start:stop] if self.dim == 0 else weight[:, start:stop] for start, stop in ranges]
        return kept[0] if len(kept) == 1 else torch.cat(kept, self.dim)


WHOLE = Cut(None)


def cuts_of(places: Places, mask: PruningMask, *, constants: bool = False) -> dict[str, Cut]:
    """By their names in the model, the weights of which `mask` leaves a part, or nothing; all others stay whole.

    `constants`: whether something stands for what goes (`folding.py`).
    """
    cuts = {}
    for index in sorted({*mask.pruned_heads, *mask.pruned_ffns}):
        block = places.layers[index].module
        gone: dict[str, list[Part]] = defaultdict(list)
        stays = isinstance(places.layers[index].added, Constant)  # what stands for an FFN that is gone already
        for part in parts_of(places, index, constants=constants):
            if part.goes(mask, index) and not (part.ffn and stays):
                gone[part.name].append(part)
        for name, parts in gone.items():
            cuts[f"{places.path(index)}.{name}"] = _without(parts, block.get_parameter(name).shape)
    return cuts


def _without(parts: list[Part], shape: torch.Size) -> Cut:
    dim = parts[0].dim
    if dim is None:
        return Cut(0)
    return Cut(dim, without([(part.start, part.stop) for part in parts], shape[dim]))


def without(gone: Iterable[tuple[int, int]], size: int) -> tuple[tuple[int, int], ...]:
    """What the ranges `gone` leave of `size` rows or columns, as ranges (first, end), ascending."""
    ranges, place = [], 0
    for start, stop in sorted(gone):
        if start > place:
            ranges.append((place, start))
        place = max(place, stop)
    if place < size:
        ranges.append((place, size))
    return tuple(ranges)


def tensors_of(model: Any) -> dict[str, Tensor]:
    """What a checkpoint of a model holds, by name: tied weights once, and numbers that are no weights."""
    stored = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return {**dict(model.named_parameters()), **buffers}


def named_in_model(model: Any, keys: Iterable[str]) -> dict[str, str | None]:
    """For names in the model, those that a checkpoint with `keys` has for them, as `from_pretrained` takes them: also
    of the base model alone, and of a weight tied to it. None for weights that are stored in parts (of experts, say)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    conversions = get_model_conversion_mapping(model)
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    names, there = {}, model.state_dict()
    for key in keys:
        name, in_parts = rename_source_key(key, renamings, converters, model.base_model_prefix, there)
        names[name] = None if in_parts else key
    tied: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tied[id(parameter)].append(name)
    for group in tied.values():
        found = next((names[name] for name in group if name in names), "")
        names.update({name: found for name in group if name not in names and found != ""})
    return names


def named_on_disk(model: Any, names: Iterable[str]) -> dict[str, str]:
    """For names in the model, those that `save_pretrained` writes."""
    from transformers.conversion_mapping import PrefixChange, get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    conversions = reversed(get_model_conversion_mapping(model, add_legacy=False))
    reverted = [each.reverse_transform() for each in conversions if not isinstance(each, PrefixChange)]
    renamings = [each for each in reverted if isinstance(each, WeightRenaming)]
    return {name: rename_source_key(name, renamings, [], reverse=True)[0] for name in names}
