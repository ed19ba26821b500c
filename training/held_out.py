"""What the model never sees in training: the mappings of the demo tasks.

Each task fixes one mapping (which nonsense word names which theme, say). `mixture.py` never draws a pair of these
mappings, so no line of a recall, labels or mixed document can be in a training sequence, nor a step of the pattern
task's cycle in a line of neighbours; let alone a whole document. A facts document states two facts; its ordered pair of
facts never stands on two consecutive lines.
"""

from __future__ import annotations

import random

from training.vocabulary import COUNTRIES, NONSENSE, RELATIONS, THEMES

__all__ = [
    "CYCLE",
    "FACTS",
    "FOLLOWING",
    "HELD_OUT_FACT_PAIRS",
    "LABELS",
    "MIXED",
    "RECALL",
    "RULES",
    "SHAPES",
    "SHAPE_LABELS",
    "STEPS",
    "Fact",
]

Fact = tuple[str, str, str]
"""Country, relation, answer: the words of one line."""

FACTS: tuple[Fact, ...] = tuple(
    (country, relation, answer)
    for country, answers in COUNTRIES.items()
    for relation, answer in zip(RELATIONS, answers, strict=True)
)

SHAPES = ("AAA", "AAB", "ABA", "ABB", "ABC")
"""How three words repeat each other."""

RULES = (-2, -1, 0, 1, 2, 3)
"""How far an operator moves its letter along the cycle of letters."""

_SEED = 20221219
_rng = random.Random(_SEED)
_words = _rng.sample(NONSENSE, 8 + 6 + 6 + 6 + 5)
_continents = tuple(dict.fromkeys(continent for _, continent in COUNTRIES.values()))
_themes = _rng.sample(sorted(THEMES), 6)

RECALL: dict[str, str] = dict(
    zip(_words[:8], _rng.sample([THEMES[theme].split()[0] for theme in sorted(THEMES)], 8), strict=True)
)
"""Key -> value of the recall task."""

LABELS: dict[str, str] = dict(zip(_themes, _words[8:14], strict=True))
"""Theme -> label of the labels task."""

MIXED: dict[str, str] = dict(zip(_continents, _words[14:20], strict=True))
"""Continent -> label of the mixed task."""

STEPS: dict[str, int] = dict(zip(_words[20:26], _rng.sample(RULES, 6), strict=True))
"""Operator -> rule. The bundled model did not learn this kind of line, so no task asks for it."""

SHAPE_LABELS: dict[str, str] = dict(zip(SHAPES, _words[26:31], strict=True))
"""Shape -> label. The bundled model did not learn this kind of line either."""

_fact_pairs = [(first, second) for first in FACTS for second in FACTS if first[0] != second[0]]
HELD_OUT_FACT_PAIRS: tuple[tuple[Fact, Fact], ...] = tuple(_rng.sample(_fact_pairs, 720))
"""Ordered pairs of facts kept for the facts task, in random order."""

CYCLE: tuple[str, ...] = tuple(_rng.sample([word for word in NONSENSE if word not in _words], 12))
"""The order of the pattern task: after the last word comes the first."""

FOLLOWING: dict[str, str] = dict(zip(CYCLE, (*CYCLE[1:], CYCLE[0]), strict=True))
"""Word of `CYCLE` -> the word after it."""
