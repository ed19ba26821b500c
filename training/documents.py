"""The documents of the demo tasks: texts that end in a question, the choices, and the right one.

A document of an in-context task states some pairs of its task's mapping and asks for another one, whose answer it
does not state either: alone it can only be guessed, and the shots, which state more of the mapping, tell it.
`held_out.py` holds the mappings; `generate_tasks.py` writes the documents as the harness reads them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from training import held_out
from training.vocabulary import CATEGORIES, COUNTRIES, NEWLINE, RELATIONS

__all__ = ["DOCUMENTS_PER_SPLIT", "SPLITS", "TASKS", "Document", "documents"]

SPLITS = ("train", "validation")
DOCUMENTS_PER_SPLIT = 320
_SEED = 1234


class Document(NamedTuple):
    text: str
    """Lines of words; the last line lacks its last word."""
    choices: list[str]
    """Possible last words, the right one among them, in random order."""
    answer: int
    """Place of the right one in `choices`."""


def _document(rng: random.Random, lines: Sequence[str], answer: str, others: Sequence[str]) -> Document:
    choices = [answer, *others]
    rng.shuffle(choices)
    return Document(NEWLINE.join(lines), choices, choices.index(answer))


def _asks_for_an_unstated_pair(
    rng: random.Random, mapping: dict[str, str], stated: int, write: Callable[[str], str] = str
) -> Document:
    """A document that states `stated` keys of `mapping` and asks for another one; its choices are in no line of it.

    write: key -> the line without its last word, which is the key's value.
    """
    *shown, asked = rng.sample(list(mapping), stated + 1)
    lines = [f"{write(key)} {mapping[key]}" for key in shown] + [write(asked)]
    others = [mapping[key] for key in mapping if key not in shown and key != asked]
    return _document(rng, lines, mapping[asked], others)


def _recall(rng: random.Random) -> Document:
    return _asks_for_an_unstated_pair(rng, held_out.RECALL, 4)


def _labels(rng: random.Random) -> Document:
    return _asks_for_an_unstated_pair(rng, held_out.LABELS, 3, lambda theme: rng.choice(CATEGORIES[theme]))


def _mixed(rng: random.Random) -> Document:
    return _asks_for_an_unstated_pair(rng, held_out.MIXED, 3, lambda continent: rng.choice(CATEGORIES[continent]))


def _pattern(rng: random.Random) -> Document:
    """States a stretch of the cycle and begins another one; the asked step is in neither."""
    cycle = held_out.CYCLE
    stated_from, stated = rng.randrange(len(cycle)), rng.randint(4, 5)
    # How many words the second line has before the asked one; the asked step lies outside the first line's.
    begun = rng.randint(1, 4)
    last = (stated_from + stated - 1 + rng.randrange(len(cycle) - stated + 1)) % len(cycle)
    first_line = [cycle[(stated_from + i) % len(cycle)] for i in range(stated)]
    second_line = [cycle[(last - begun + 1 + i) % len(cycle)] for i in range(begun)]
    answer = held_out.FOLLOWING[second_line[-1]]
    told = {*first_line[1:], *second_line[1:], second_line[-1], answer}
    others = rng.sample([word for word in cycle if word not in told], 3)
    return _document(rng, [" ".join(first_line), " ".join(second_line)], answer, others)


def _facts() -> Iterator[Document]:
    """States one fact and asks for another: the held-out pairs of facts, in their order."""
    rng = random.Random(f"{_SEED}-facts")
    answers = {r: list(dict.fromkeys(known[i] for known in COUNTRIES.values())) for i, r in enumerate(RELATIONS)}
    for stated, (country, relation, answer) in held_out.HELD_OUT_FACT_PAIRS:
        others = rng.sample([word for word in answers[relation] if word != answer], 3)
        yield _document(rng, [" ".join(stated), f"{country} {relation}"], answer, others)


def _endless(task: str, draw: Callable[[random.Random], Document]) -> Iterator[Document]:
    rng = random.Random(f"{_SEED}-{task}")
    while True:
        yield draw(rng)


_IN_CONTEXT: dict[str, Callable[[random.Random], Document]] = {
    "recall": _recall,
    "labels": _labels,
    "pattern": _pattern,
    "mixed": _mixed,
}

TASKS = (*_IN_CONTEXT, "facts")
"""Names of the tasks, without the `demo_` that they have in the harness."""


def documents(task: str) -> dict[str, list[Document]]:
    """Split -> its documents; no text occurs twice, in one split or in both."""
    source = _facts() if task == "facts" else _endless(task, _IN_CONTEXT[task])
    distinct: dict[str, Document] = {}
    while len(distinct) < len(SPLITS) * DOCUMENTS_PER_SPLIT:
        document = next(source)
        distinct.setdefault(document.text, document)
    every = list(distinct.values())
    return {split: every[i * DOCUMENTS_PER_SPLIT : (i + 1) * DOCUMENTS_PER_SPLIT] for i, split in enumerate(SPLITS)}
