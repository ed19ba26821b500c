"""What compaction takes out of each weight of an OPT: which rows or columns stay.

Works on tensors in memory and on safetensors' slices of a file alike, so that nothing else of a weight is ever read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from lm_eval_prune.decoders import removed_from
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.text import one_line

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import OPTForCausalLM

    from lm_eval_prune.decoders.pruned_opt import PrunedOPTForCausalLM
    from lm_eval_prune.decoders.pruned_opt_config import PrunedOPTConfig
    from lm_eval_prune.masks import PruningMask

__all__ = ["Cut", "Owner", "cut_of", "empty_model", "kept_ranges", "owner_of", "parameter_cuts"]

_OF_HEADS = re.compile(r"layers\.(\d+)\.self_attn\.(?:([qkv])_proj\.(?:weight|bias)|out_proj\.weight)$")
_OF_FFN = re.compile(r"layers\.(\d+)\.fc[12]\.(?:weight|bias)$")


class Owner(NamedTuple):
    """Whose a weight is."""

    component: Literal["heads", "ffn"] | None
    """None: of no component that a mask prunes."""
    layer: int = 0
    dim: int = 0
    """The dimension along which the layer's heads lie side by side."""

    def is_kept(self, mask: PruningMask) -> bool:
        """Whether the mask leaves anything of it."""
        if self.component == "heads":
            return bool(mask.kept_heads(self.layer))
        return self.component is None or self.layer not in mask.pruned_ffns


def owner_of(name: str) -> Owner:
    """Whose the weight `name` is: heads own their rows of q, k and v and columns of out_proj; an FFN its two maps."""
    if (of_heads := _OF_HEADS.search(name)) is not None:
        return Owner("heads", int(of_heads[1]), 0 if of_heads[2] else 1)
    if (of_ffn := _OF_FFN.search(name)) is not None:
        return Owner("ffn", int(of_ffn[1]))
    return Owner(None)


class Cut(NamedTuple):
    """The part of one weight that stays."""

    dim: int | None
    """The dimension that gets shorter; None keeps the weight whole."""
    ranges: tuple[tuple[int, int], ...] = ()
    """What stays along it: (first, end), ascending and not touching."""

    def of(self, weight: Any) -> Tensor:
        """The part that stays of a tensor, or of a safetensors slice; whole tensors are handed back as they are."""
        if self.dim is None:
            return weight[...]
        kept = [weight[start:stop] if self.dim == 0 else weight[:, start:stop] for start, stop in self.ranges]
        return kept[0] if len(kept) == 1 else torch.cat(kept, self.dim)


def empty_model(config: Any) -> OPTForCausalLM | PrunedOPTForCausalLM:
    """The model of `config` on the meta device: names and shapes, no memory."""
    from transformers import OPTForCausalLM

    from lm_eval_prune.decoders.pruned_opt import PrunedOPTForCausalLM
    from lm_eval_prune.decoders.pruned_opt_config import PrunedOPTConfig

    try:
        with torch.device("meta"):
            return PrunedOPTForCausalLM(config) if isinstance(config, PrunedOPTConfig) else OPTForCausalLM(config)
    except Exception as error:  # of many kinds: an activation that does not exist, numbers that do not fit
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UnsupportedModelError(
            f"{config.name_or_path}: no model can be made of its configuration: {reason}"
        ) from error


def parameter_cuts(config: Any, new_config: PrunedOPTConfig) -> Iterator[tuple[str, Tensor, Cut, torch.Size]]:
    """(name, empty parameter, what stays of the original's, the original's shape) of each weight of the smaller model.

    Tied weights come once.
    """
    shapes = {name: parameter.shape for name, parameter in empty_model(config).named_parameters()}
    for name, parameter in empty_model(new_config).named_parameters():
        yield name, parameter, cut_of(name, config, new_config), shapes[name]


def cut_of(name: str, config: Any, new_config: Any) -> Cut:
    """What stays of the weight `name` of the model of `config` in the smaller one of `new_config`."""
    owner = owner_of(name)
    if owner.component != "heads":
        return Cut(None)
    there, kept = (removed_from(one).kept_heads(owner.layer) for one in (config, new_config))
    if len(kept) == len(there):
        return Cut(None)
    return Cut(owner.dim, kept_ranges(there, kept, config.hidden_size // config.num_attention_heads))


def kept_ranges(there: Sequence[int], kept: Sequence[int], width: int) -> tuple[tuple[int, int], ...]:
    """Where the `kept` of the heads `there`, which lie side by side, are: (first, end), ascending and not touching."""
    staying = set(kept)
    ranges: list[tuple[int, int]] = []
    for place, head in enumerate(there):
        if head in staying:
            start = place * width
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, (place + 1) * width))
    return tuple(ranges)
