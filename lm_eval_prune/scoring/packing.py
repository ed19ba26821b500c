"""Runs of neighbouring requests, as many as fit a token budget: one pack is one pass through the layers.

Inside a pack every node of the trie stands once, in depth-first order, so that the tokens below any token lie directly
behind it. Packs share nothing: what several of them begin with is computed in each, which cuts at the shortest
common beginnings keep rare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lm_eval_prune.scoring.trie import Integers, TokenTrie

__all__ = ["Pack", "build_pack", "end_of_pack", "new_tokens"]

WORTH_SHARING = 32
"""A common beginning under 1/32 of a sequence is computed again: sharing it would cost the causal fast path more."""


@dataclass(frozen=True)
class Pack:
    """N tokens in depth-first order, S of them asked for, P (request, continuation token) pairs."""

    requests: slice
    """The trie's requests that are answered."""
    token_ids: Integers
    """[N]"""
    positions: Integers
    """[N] how many tokens come before this one in its sequence."""
    ends: Integers
    """[N] where the tokens below this one end: token q may attend to token k exactly if k <= q < ends[k]."""
    branches: Integers
    """Tokens with more than one token directly below them, ascending."""
    asked: Integers
    """[S] tokens that predict a continuation token, ascending."""
    pair_asked: Integers
    """[P] index into `asked`; a request's pairs are neighbours, in the order of its continuation."""
    pair_targets: Integers
    """[P] the continuation token."""
    pair_starts: Integers
    """[number of requests] where each request's pairs begin."""

    def __len__(self) -> int:
        return len(self.token_ids)


def new_tokens(trie: TokenTrie, index: int) -> int:
    """How many tokens request `index` adds to a pack that already holds the request before it."""
    return len(trie.inputs[index]) - _kept(trie, index)


def end_of_pack(trie: TokenTrie, first: int, budget: int) -> int:
    """Where the pack that begins with request `first` ends, at most `budget` tokens or one request.

    Of the ends that leave the pack at least half full, the one that makes the next pack repeat least for what this one
    holds.
    """
    sizes = [len(trie.inputs[first])]
    stop = first + 1
    while stop < len(trie) and sizes[-1] + new_tokens(trie, stop) <= budget:
        sizes.append(sizes[-1] + new_tokens(trie, stop))
        stop += 1
    if stop == len(trie):
        return stop
    ends = [first + 1 + index for index, size in enumerate(sizes) if 2 * size >= budget] or [stop]
    return min(ends, key=lambda end: (_kept(trie, end) / sizes[end - first - 1], -end))


def build_pack(trie: TokenTrie, first: int, stop: int) -> Pack:
    """The pack of the requests from `first` up to `stop`."""
    longest = max(len(tokens) for tokens in trie.inputs[first:stop])
    path = np.zeros(longest, dtype=np.int64)  # depth -> where the current request's token stands in the pack
    pieces: list[Integers] = []
    depths: list[Integers] = []
    pair_tokens: list[Integers] = []
    closed: list[tuple[Integers, int]] = []
    branches: set[int] = set()
    size = length = 0
    for index in range(first, stop):
        tokens = trie.inputs[index]
        kept = 0 if index == first else _kept(trie, index)
        closed.append((path[kept:length].copy(), size))
        if 0 < kept < length and kept < len(tokens):
            branches.add(int(path[kept - 1]))
        length = len(tokens)
        path[kept:length] = np.arange(size, size + length - kept)
        pieces.append(tokens[kept:])
        depths.append(np.arange(kept, length))
        pair_tokens.append(path[length - len(trie.targets[index]) : length].copy())
        size += length - kept
    closed.append((path[:length].copy(), size))
    ends = np.empty(size, dtype=np.int64)
    for tokens, end in closed:
        ends[tokens] = end
    asked, pair_asked = np.unique(np.concatenate(pair_tokens), return_inverse=True)
    counts = [len(targets) for targets in trie.targets[first:stop]]
    return Pack(
        requests=slice(first, stop),
        token_ids=np.concatenate(pieces),
        positions=np.concatenate(depths),
        ends=ends,
        branches=np.array(sorted(branches), dtype=np.int64),
        asked=asked,
        pair_asked=pair_asked.astype(np.int64),
        pair_targets=np.concatenate(trie.targets[first:stop]),
        pair_starts=np.cumsum([0, *counts[:-1]]),
    )


def _kept(trie: TokenTrie, index: int) -> int:
    """How many tokens request `index` takes over from the request before it."""
    shared = int(trie.shared[index])
    return shared if shared * WORTH_SHARING >= len(trie.inputs[index]) else 0
