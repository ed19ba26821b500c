"""Random token sequences for prefix matching and copying: distinct tokens, neither the commonest nor the rarest."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from lm_eval_prune.errors import ExampleError

__all__ = ["FIRST_LENGTH", "NUM_SEQUENCES", "fitting_lengths", "random_sequences", "ranked_tokens"]

log = logging.getLogger(__name__)

NUM_SEQUENCES = 100
FIRST_LENGTH, STEP = 25, 2
EXCLUDED = 0.04
"""Share of the vocabulary left out at either end of the ranks (Olsson et al. 2022)."""


def ranked_tokens(tokenizer: Any, vocab_size: int) -> list[int]:
    """Token ids from the most to the least frequent, special tokens aside.

    By the order of the tokenizer's merges, which are learned by frequency; where it has none, by id.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    merged = [vocabulary[token] for token in map("".join, _merges(tokenizer)) if token in vocabulary]
    ids = merged or sorted(vocabulary.values())
    return [token for token in dict.fromkeys(ids) if token < vocab_size and token not in special]


def random_sequences(ranked: Sequence[int], lengths: Sequence[int], seed: int) -> list[list[int]]:
    """A sequence of distinct tokens for each length, drawn from `ranked` without its first and last 4 %.

    Each draw has a generator of its own, seeded by `seed` and its place. Raises ExampleError for too few tokens.
    """
    import torch

    candidates = _candidates(ranked)
    sequences = []
    for place, length in enumerate(lengths):
        if length > len(candidates):
            raise ExampleError(
                f"{length} distinct tokens wanted, but the tokenizer leaves {len(candidates)} to draw from"
            )
        generator = torch.Generator().manual_seed(seed * 1_000_003 + place)
        drawn = torch.randperm(len(candidates), generator=generator)[:length]
        sequences.append([candidates[index] for index in drawn.tolist()])
    return sequences


def fitting_lengths(
    ranked: Sequence[int], max_length: int, repeats: int, count: int = NUM_SEQUENCES, *, times: int = 1
) -> list[int]:
    """25, 27, ... (`count` of them), as far as the repeated sequence fits `max_length` positions and tokens suffice.

    With `times` each is so many times as long: 4 makes them 100, 108, ..., 892.
    Warns where fewer than `count` fit. Raises ExampleError where none does.
    """
    longest = min((max_length - 1) // repeats, len(_candidates(ranked)))
    first, step = times * FIRST_LENGTH, times * STEP
    lengths = list(range(first, min(first + step * count, longest + 1), step))
    if not lengths:
        raise ExampleError(
            f"the shortest sequence, {first} tokens {repeats} times behind a BOS, does not fit: the model has "
            f"{max_length} positions, the tokenizer leaves {len(_candidates(ranked))} tokens to draw from"
        )
    if len(lengths) < count:
        log.warning("%d of %d sequences fit the model: lengths 25 to %d", len(lengths), count, lengths[-1])
    return lengths


def _candidates(ranked: Sequence[int]) -> Sequence[int]:
    excluded = int(EXCLUDED * len(ranked))
    return ranked[excluded : len(ranked) - excluded]


def _merges(tokenizer: Any) -> list[tuple[str, str]]:
    """The tokenizer's merges in the order they were learned; none where it has no such thing."""
    if hasattr(tokenizer, "bpe_ranks"):
        return sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return []
    merges = json.loads(backend.to_str()).get("model", {}).get("merges") or []
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [(left, right) for left, right in pairs]
