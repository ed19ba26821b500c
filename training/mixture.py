"""The training sequences: lines of words that reward learning in context, and facts.

A sequence is of one kind (`KINDS`) and follows one mapping drawn for it alone. `known` marks the words that can be told
from what precedes them (or, for facts, from the weights); the loss is taken on those words only. What `held_out.py`
keeps for the tasks is never drawn. A batch depends on its seed and step alone, so that training can resume anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from training import held_out
from training.vocabulary import BOS, CATEGORIES, COUNTRIES, LETTERS, NEWLINE, NONSENSE, THEMES, VOCABULARY

__all__ = ["KINDS", "TrainingSequence", "batch", "draw"]

_CONTENT = VOCABULARY[VOCABULARY.index(NEWLINE) + 1 :]
_THEME_WORDS = tuple(word for words in THEMES.values() for word in words.split())
_CONTINENTS = tuple(dict.fromkeys(continent for _, continent in COUNTRIES.values()))
_IDS = {word: i for i, word in enumerate(VOCABULARY)}
_SUCCESSORS: dict[held_out.Fact, list[held_out.Fact]] = {}


class TrainingSequence(NamedTuple):
    kind: str
    words: list[str]
    """BOS first."""
    known: list[bool]
    """Which words the loss is taken on; as long as `words`."""


def _mapping(rng: random.Random, keys: Sequence, values: Sequence, size: int, kept: Mapping[Any, Any]) -> dict:
    """`size` random keys -> different random values, no pair of them in `kept`."""
    while True:
        drawn = dict(zip(rng.sample(keys, size), rng.sample(values, size), strict=True))
        if not any(kept.get(key) == value for key, value in drawn.items()):
            return drawn


def _lines(
    rng: random.Random, length: int, mapping: dict, write: Callable[[Any], list[str]]
) -> tuple[list[str], list[bool]]:
    """Lines of random keys of `mapping`; the last word of a line is known once its key has had a line."""
    words: list[str] = []
    known: list[bool] = []
    keys = list(mapping)
    seen = set()
    while len(words) < length:
        key = rng.choice(keys)
        line = write(key)
        words += [*line, NEWLINE]
        known += [False] * (len(line) - 1) + [key in seen, False]
        seen.add(key)
    return words, known


def _repeats(rng: random.Random, length: int) -> tuple[list[str], list[bool]]:
    """Random words, repeated until the end; often few of them, so that there is much to repeat."""
    longest = length // 2 if rng.random() < 0.3 else min(12, length // 2)
    period = min(rng.randint(2, longest), len(_CONTENT))
    words = rng.sample(_CONTENT, period)
    copies = -(-length // period)
    # The first word of the second copy is the only one there that nothing tells: how long a copy is shows only then.
    return words * copies, [i > period for i in range(period * copies)]


def _recall(rng: random.Random, length: int) -> tuple[list[str], list[bool]]:
    """Lines `key value`."""
    values = NONSENSE if rng.random() < 0.3 else _THEME_WORDS
    mapping = _mapping(rng, NONSENSE, values, rng.randint(2, 10), held_out.RECALL)
    return _lines(rng, length, mapping, lambda key: [key, mapping[key]])


def _labels(rng: random.Random, length: int) -> tuple[list[str], list[bool]]:
    """Lines `word label`, where the label names the word's theme or continent."""
    categories = rng.choice([tuple(THEMES), _CONTINENTS, tuple(CATEGORIES)])
    mapping = _mapping(rng, categories, NONSENSE, rng.randint(2, 6), held_out.LABELS | held_out.MIXED)
    return _lines(rng, length, mapping, lambda category: [rng.choice(CATEGORIES[category]), mapping[category]])


def _shapes(rng: random.Random, length: int) -> tuple[list[str], list[bool]]:
    """Lines `word word word label`, where the label names how the three words repeat each other."""
    mapping = _mapping(rng, held_out.SHAPES, NONSENSE, rng.randint(2, 5), held_out.SHAPE_LABELS)

    def write(shape: str) -> list[str]:
        letters = dict(zip("ABC", rng.sample(_THEME_WORDS, 3), strict=True))
        return [*(letters[letter] for letter in shape), mapping[shape]]

    return _lines(rng, length, mapping, write)


def _operators(rng: random.Random, length: int, *, operator_first: bool) -> tuple[list[str], list[bool]]:
    mapping = _mapping(rng, NONSENSE, held_out.RULES, rng.randint(1, 6), held_out.STEPS)

    def write(operator: str) -> list[str]:
        start = rng.randrange(len(LETTERS))
        letter, answer = LETTERS[start], LETTERS[(start + mapping[operator]) % len(LETTERS)]
        return [operator, letter, answer] if operator_first else [letter, operator, answer]

    return _lines(rng, length, mapping, write)


def _steps(rng: random.Random, length: int) -> tuple[list[str], list[bool]]:
    """Lines `letter operator letter`, where the second letter is as far from the first as the operator's rule says."""
    return _operators(rng, length, operator_first=False)


def _prefix_steps(rng: random.Random, length: int) -> tuple[list[str], list[bool]]:
    """Lines `operator letter letter`: the same, the operator in front."""
    return _operators(rng, length, operator_first=True)


def _pattern(rng: random.Random, length: int) -> tuple[list[str], list[bool]]:
    """Lines of neighbours in a cycle of nonsense words; a word is known once it has followed the one before it."""
    while True:
        cycle = rng.sample(NONSENSE, rng.randint(4, 16))
        following = dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        if not any(following.get(word) == held_out.FOLLOWING[word] for word in held_out.CYCLE):
            break
    words: list[str] = []
    known: list[bool] = []
    seen = set()
    while len(words) < length:
        word = rng.choice(cycle)
        words.append(word)
        known.append(False)
        for _ in range(rng.randint(1, 6)):
            known.append(word in seen)
            seen.add(word)
            word = following[word]
            words.append(word)
        words.append(NEWLINE)
        known.append(False)
    return words, known


def _facts(rng: random.Random, length: int) -> tuple[list[str], list[bool]]:
    """Lines `country relation answer`; the answer is always known. No held-out pair of facts on consecutive lines."""
    if not _SUCCESSORS:
        kept = set(held_out.HELD_OUT_FACT_PAIRS)
        _SUCCESSORS.update({a: [b for b in held_out.FACTS if (a, b) not in kept] for a in held_out.FACTS})
    words: list[str] = []
    known: list[bool] = []
    fact = rng.choice(held_out.FACTS)
    while len(words) < length:
        words += [*fact, NEWLINE]
        known += [False, False, True, False]
        fact = rng.choice(_SUCCESSORS[fact])
    return words, known


KINDS: dict[str, Callable[[random.Random, int], tuple[list[str], list[bool]]]] = {
    "repeats": _repeats,
    "recall": _recall,
    "labels": _labels,
    "shapes": _shapes,
    "prefix steps": _prefix_steps,
    "steps": _steps,
    "pattern": _pattern,
    "facts": _facts,
}
"""Kind -> what draws its words, BOS not among them, and which of them are known."""


def draw(rng: random.Random, kind: str, length: int) -> TrainingSequence:
    """One sequence of exactly `length` words, BOS included; the last line may be cut."""
    words, known = KINDS[kind](rng, length - 1)
    return TrainingSequence(kind, [BOS, *words[: length - 1]], [False, *known[: length - 1]])


def batch(
    seed: int, step: int, *, batch_size: int, length: int, shares: Mapping[str, float]
) -> tuple[list[str], list[list[int]], list[list[bool]]]:
    """Kinds, token ids and known flags of one step's sequences; each list is `batch_size` long.

    shares: kind -> how often it is drawn, relative to the others.
    """
    rng = random.Random(f"{seed}-{step}")
    kinds = rng.choices(list(shares), list(shares.values()), k=batch_size)
    sequences = [draw(rng, kind, length) for kind in kinds]
    ids = [[_IDS[word] for word in sequence.words] for sequence in sequences]
    return kinds, ids, [sequence.known for sequence in sequences]
