"""How many tokens a pack may hold, in terms of the memory that `batch_size` asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval_prune.decoders.opt_forward import OPTForward

__all__ = ["is_out_of_memory", "output_rows", "token_budget"]

MOST_TOKENS = {"cpu": 4096}
"""Device type -> tokens beyond which a pack gains nothing; elsewhere MOST_ELSEWHERE."""
MOST_ELSEWHERE = 65536
MOST_ROWS = {"cpu": 128}
"""Device type -> positions that go through the output layer together at most: more gain nothing, and on a CPU a larger
result would lie in fresh memory each time."""
MOST_ROWS_ELSEWHERE = 1024

COPIES = 4
"""Copies of the residual stream that are allowed for: as many as 15 masks at once make. The budget does not depend on
the number of masks, so that a mask's sums do not depend on the masks beside it."""


def token_budget(model: OPTForward, longest: int, batch_size: int | None) -> int:
    """Tokens of a pack that take no more memory than a padded batch of `batch_size` x `longest` tokens.

    The padded way holds, for every token, its logits, their log-softmax, and keys and values of all layers. A pack
    holds some vectors of the model's width, for one layer at a time, the FFN's inner ones, and a copy of the residual
    stream wherever masks divide; three quarters of the logits' share go to `output_rows`. `batch_size` None stands
    for no limit but the one beyond which larger packs gain nothing.
    """
    most = max(MOST_TOKENS.get(model.device.type, MOST_ELSEWHERE), 4 * longest)
    if batch_size is None:
        return most
    left = model.vocab_size // 2 + 2 * model.num_hidden_layers * model.hidden_size
    packed = (8 + COPIES) * model.hidden_size + model.ffn_dim
    return max(1, min(most, batch_size * longest * left // packed))


def output_rows(device_type: str, longest: int, batch_size: int | None) -> int:
    """Positions whose logits may be held at once, by the same measure."""
    most = MOST_ROWS.get(device_type, MOST_ROWS_ELSEWHERE)
    return most if batch_size is None else max(1, min(most, 3 * batch_size * longest // 4))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the allocator of the CPU, had too little memory."""
    import torch

    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "not enough memory" in text)
    )
