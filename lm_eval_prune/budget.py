"""How many tokens a pack may hold, in terms of the memory that `batch_size` asks for."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Shape", "free_memory", "is_out_of_memory", "output_rows", "slice_rows", "token_budget"]


class Shape(Protocol):
    """What memory depends on."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def ffn_width(self) -> int: ...


MOST_TOKENS = {"cpu": 4096}
"""Device type -> tokens beyond which a pack gains nothing; elsewhere MOST_ELSEWHERE."""
MOST_ELSEWHERE = 65536
MOST_LENGTHS = 8
"""A pack may hold so many of the longest sequence: what neighbours share is computed again by every pack, and is then
an eighth of it at most."""
SLICE_ROWS = {"cpu": 1024}
"""Device type -> tokens that go through an FFN together: bounds its inner width, and stays in cache."""
SLICE_ROWS_ELSEWHERE = 8192
MOST_ROWS = {"cpu": 512}
"""Device type -> positions that go through the output layer together at most: more gain nothing."""
MOST_ROWS_ELSEWHERE = 1024

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cublas_status_alloc_failed")
"""What such errors say: CUDA's allocator, the CPU's on Windows and on Linux, and cuBLAS."""

COPIES = 4
"""Copies of the residual stream that are allowed for: as many as 15 masks at once make. The budget does not depend on
the number of masks, so that a mask's sums do not depend on the masks beside it."""


def token_budget(shape: Shape, device_type: str, longest: int, batch_size: int | None) -> int:
    """Tokens of a pack that take no more memory than a padded batch of `batch_size` x `longest` tokens.

    The padded way holds, for every token, its logits, their log-softmax, and keys and values of all layers. A pack
    holds some vectors of the model's width, for one layer's attention at a time, and a copy of the residual stream
    wherever masks divide; the FFN's inner vectors exist for `slice_rows` tokens at a time. Three quarters of the
    logits' share go to `output_rows`. `batch_size` None stands for no limit but the one beyond which larger packs gain
    nothing.
    """
    most = max(MOST_TOKENS.get(device_type, MOST_ELSEWHERE), MOST_LENGTHS * longest)
    if batch_size is None:
        return most
    left = batch_size * longest * (shape.vocab_size // 2 + 2 * shape.num_hidden_layers * shape.hidden_size)
    always, in_slice = (8 + COPIES) * shape.hidden_size, 2 * shape.hidden_size + 2 * shape.ffn_width
    one_slice, more = left // (always + in_slice), (left - slice_rows(device_type) * in_slice) // always
    return max(1, min(most, max(one_slice, more)))


def slice_rows(device_type: str) -> int:
    """Tokens that go through an FFN together at most: bounds its inner width, and stays in cache."""
    return SLICE_ROWS.get(device_type, SLICE_ROWS_ELSEWHERE)


def output_rows(device_type: str, longest: int, batch_size: int | None) -> int:
    """Positions whose logits may be held at once, by the same measure."""
    most = MOST_ROWS.get(device_type, MOST_ROWS_ELSEWHERE)
    return most if batch_size is None else max(1, min(most, 3 * batch_size * longest // 4))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the allocator of the CPU, had too little memory."""
    import torch

    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)
    )


def free_memory() -> None:
    """Give back what an error of too little memory has left behind."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
