"""What a loaded model says of itself in the harness's log: what is pruned of it, and how it computes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders import removed_from
from lm_eval_prune.decoders.skeleton import num_pruned_parameters, num_removed_parameters
from lm_eval_prune.harness.arguments import unread_arguments
from lm_eval_prune.harness.precision import HALVES, is_slower_here
from lm_eval_prune.text import printable

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["spelt", "tell"]

# A child of the harness's logger: its handler, level and form are ours, too.
logger = logging.getLogger("lm_eval.models.pruned")


def spelt(arguments: Mapping[str, Any]) -> str:
    """The arguments that are given, as a command line has them."""
    return ",".join(f"{name}={value}" for name, value in arguments.items() if value is not None)


def tell(lm: PrunedModel, where: str) -> None:
    """Log one line about the mask, which came from `where`, a warning for each argument that nothing reads, and one
    where half precision is slow on this CPU."""
    if lm.rank > 0:
        return
    for line in unread_arguments(lm.arguments, lm.pretrained):
        logger.warning("model_args: %s", printable(line))
    dtype = next(lm.model.parameters()).dtype
    if logger.isEnabledFor(logging.INFO):
        ablation = "" if lm.means is None else "ablation=mean, "
        how = f"{ablation}scorer={lm.scorer}, {_name(dtype)} on {lm.device.type}"
        logger.info("%s", printable(f"{_mask(lm, where)}; {how}"))
    if lm.device.type == "cpu" and dtype in HALVES and is_slower_here(dtype):
        logger.warning(
            "%s is slower than float32 on this CPU, and less exact; model_args dtype=float32 computes in that",
            _name(dtype),
        )


def _mask(lm: PrunedModel, where: str) -> str:
    mask = lm.mask | removed_from(lm.config)  # what compaction has removed is gone, too
    if mask.is_dense:
        return "no mask: nothing is pruned"
    there = lm.model.num_parameters()
    total, left = there + num_removed_parameters(lm.config), there - num_pruned_parameters(lm.config, mask)
    return (
        f"{where or 'mask'}: {mask.num_pruned_heads} of {mask.num_heads} heads and {mask.num_pruned_ffns} of "
        f"{mask.num_hidden_layers} FFNs pruned, {left:,} of {total:,} parameters left"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
