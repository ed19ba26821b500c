"""Requests as a prefix tree, kept flat.

A request is a pair (context ids, continuation ids). What a causal model reads of it is the two joined, without the
last token and cut from the left to `max_length`. Sorted by that, requests with a common beginning are neighbours, and
the length that each shares with the one before it is all that the tree consists of.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_prune.errors import PruneError

__all__ = ["TokenRequest", "TokenTrie", "build_trie"]

TokenRequest = tuple[Sequence[int], Sequence[int]]
"""(context ids, continuation ids), neither empty."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class TokenTrie:
    """n requests in the order of their inputs; position i of every field belongs to the same request."""

    inputs: list[Integers]
    """What the model reads; its last `len(targets[i])` positions predict the continuation."""
    targets: list[Integers]
    """The continuation's tokens."""
    shared: Integers
    """[n] how many tokens input i has in common with the beginning of input i - 1; shared[0] is 0."""
    original: Integers
    """[n] the place of request i in the caller's order."""
    num_truncated: int
    """How many requests were cut from the left."""

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def longest(self) -> int:
        """Length of the longest input; 0 without requests."""
        return max(map(len, self.inputs), default=0)


def build_trie(requests: Sequence[TokenRequest], max_length: int) -> TokenTrie:
    """The trie of `requests`, each input at most `max_length` tokens.

    Raises PruneError for an empty context or continuation, and for a continuation longer than `max_length`: the
    model could not read what predicts its first token.
    """
    inputs, targets = [], []
    for index, (context, continuation) in enumerate(requests):
        _check(index, len(context), len(continuation), max_length)
        whole = np.array([*context, *continuation], dtype=np.int64)
        inputs.append(whole[-(max_length + 1) : -1])
        targets.append(whole[len(context) :])
    # Big-endian bytes compare as the tokens do, and far faster than lists of integers.
    keys = [tokens.astype(">u4").tobytes() for tokens in inputs]
    order = sorted(range(len(inputs)), key=keys.__getitem__)
    ordered = [inputs[index] for index in order]
    shared = [0] * bool(ordered) + [_common_prefix(before, after) for before, after in itertools.pairwise(ordered)]
    return TokenTrie(
        inputs=ordered,
        targets=[targets[index] for index in order],
        shared=np.array(shared, dtype=np.int64),
        original=np.array(order, dtype=np.int64),
        num_truncated=sum(len(context) + len(rest) > max_length + 1 for context, rest in requests),
    )


def _check(index: int, context: int, continuation: int, max_length: int) -> None:
    if not context or not continuation:
        name = "continuation" if context else "context"
        raise PruneError(f"request {index}: its {name} has no tokens; expected at least one")
    if continuation > max_length:
        raise PruneError(
            f"request {index}: its continuation has {continuation} tokens; the model reads at most {max_length}"
        )


def _common_prefix(one: Integers, other: Integers) -> int:
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if len(differing) else length
