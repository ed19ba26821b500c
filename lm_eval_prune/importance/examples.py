"""Calibration examples, `(context_ids, continuation_ids)` pairs, and the batches that are made of them.

An example's input is its tokens without the last one; the last `len(continuation_ids)` positions of the input predict
the continuation. Batches are padded on the right: under a causal mask no real token ever sees the padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lm_eval_prune.errors import ExampleError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Batch", "Example", "batches", "checked", "continuation_rows"]

Example = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of the continuation whose likelihood counts; both at least one long."""


@dataclass(frozen=True)
class TokenizedExample:
    """One example, cut to the model's length."""

    index: int
    """Its place in the caller's sequence, for error messages and results."""
    tokens: list[int]
    """Context, then continuation."""
    num_continuation: int
    """How many tokens at the end are the continuation."""


@dataclass(frozen=True)
class Batch:
    """Several examples side by side, padded on the right with token 0."""

    examples: tuple[TokenizedExample, ...]
    input_ids: Tensor
    """(batch, tokens): each example without its last token."""
    rows: Tensor
    """(predictions,): for every continuation token, in order of examples, its predicting row of batch x tokens."""
    targets: Tensor
    """(predictions,): the continuation tokens."""
    owners: Tensor
    """(predictions,): the place in `examples` that each belongs to."""


def checked(examples: Sequence[Example], max_length: int, vocab_size: int) -> list[TokenizedExample]:
    """The examples cut as the harness cuts: from the left, to `max_length` inputs, never the continuation.

    Raises ExampleError naming the example: empty parts, a continuation beyond `max_length`, ids outside the vocabulary.
    """
    result = []
    for index, (context, continuation) in enumerate(examples):
        if not len(context) or not len(continuation):
            part = "continuation" if len(context) else "context"
            raise ExampleError(f"example {index}: its {part} is empty; expected at least one token")
        if len(continuation) > max_length:
            raise ExampleError(
                f"example {index}: its continuation of {len(continuation)} tokens is longer than the model's "
                f"{max_length} positions"
            )
        tokens = [*context, *continuation][-(max_length + 1) :]
        if not all(0 <= token < vocab_size for token in tokens):
            raise ExampleError(f"example {index}: token ids must be 0 to {vocab_size - 1}, the model's vocabulary")
        result.append(TokenizedExample(index, tokens, len(continuation)))
    if not result:
        raise ExampleError("no examples; expected at least one")
    return result


def batches(examples: Sequence[TokenizedExample], batch_size: int) -> Iterator[Batch]:
    """Batches of at most `batch_size` examples, longest first, so that little is padded and memory peaks at once."""
    if batch_size < 1:
        raise ExampleError(f"batch_size={batch_size}; expected at least 1")
    ordered = sorted(examples, key=lambda example: (-len(example.tokens), example.index))
    for start in range(0, len(ordered), batch_size):
        yield _batch(tuple(ordered[start : start + batch_size]))


def real_tokens(batch: Batch) -> Tensor:
    """bool (batch, tokens): the tokens of `input_ids` that are no padding."""
    lengths = torch.tensor([len(example.tokens) - 1 for example in batch.examples])
    return torch.arange(batch.input_ids.shape[1]) < lengths[:, None]


def continuation_rows(hidden: Tensor, batch: Batch) -> Tensor:
    """(predictions, width): from `hidden` (batch, tokens, width) the positions that predict continuation tokens."""
    return hidden.flatten(0, 1)[batch.rows.to(hidden.device)]


def _batch(examples: tuple[TokenizedExample, ...]) -> Batch:
    width = len(examples[0].tokens) - 1
    input_ids = torch.zeros(len(examples), width, dtype=torch.long)
    rows: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for place, example in enumerate(examples):
        tokens, num_continuation = example.tokens, example.num_continuation
        length = len(tokens) - 1
        input_ids[place, :length] = torch.tensor(tokens[:-1])
        rows.extend(range(place * width + length - num_continuation, place * width + length))
        targets.extend(tokens[-num_continuation:])
        owners.extend([place] * num_continuation)
    return Batch(examples, input_ids, torch.tensor(rows), torch.tensor(targets), torch.tensor(owners))
