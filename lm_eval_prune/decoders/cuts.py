"""What compaction takes out of each weight of an OPT: which rows or columns stay.

Works on tensors in memory and on safetensors' slices of a file alike, so that nothing else of a weight is ever read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lm_eval_prune.decoders import removed_from

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import OPTForCausalLM

    from lm_eval_prune.decoders.pruned_opt import PrunedOPTForCausalLM
    from lm_eval_prune.decoders.pruned_opt_config import PrunedOPTConfig

__all__ = ["Cut", "cut_of", "empty_model", "parameter_cuts"]

_OF_HEADS = re.compile(r"layers\.(\d+)\.self_attn\.(?:([qkv])_proj\.(?:weight|bias)|out_proj\.weight)$")


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

    with torch.device("meta"):
        return PrunedOPTForCausalLM(config) if isinstance(config, PrunedOPTConfig) else OPTForCausalLM(config)


def parameter_cuts(config: Any, new_config: PrunedOPTConfig) -> Iterator[tuple[str, Tensor, Cut, torch.Size]]:
    """(name, empty parameter, what stays of the original's, the original's shape) of each weight of the smaller model.

    Tied weights come once.
    """
    shapes = {name: parameter.shape for name, parameter in empty_model(config).named_parameters()}
    for name, parameter in empty_model(new_config).named_parameters():
        yield name, parameter, cut_of(name, config, new_config), shapes[name]


def cut_of(name: str, config: Any, new_config: Any) -> Cut:
    """What stays of the weight `name` of the model of `config` in the smaller one of `new_config`."""
    found = _OF_HEADS.search(name)
    if found is None:
        return Cut(None)
    layer = int(found[1])
    there, kept = removed_from(config).kept_heads(layer), set(removed_from(new_config).kept_heads(layer))
    if len(kept) == len(there):
        return Cut(None)
    width = config.hidden_size // config.num_attention_heads
    ranges: list[tuple[int, int]] = []
    for place, head in enumerate(there):
        if head in kept:
            start = place * width
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, (place + 1) * width))
    return Cut(0 if found[2] else 1, tuple(ranges))
