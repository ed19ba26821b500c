"""A task's documents in two parts, one to choose by and one to judge on, that never meet.

What decides is a seeded hash of the document, or of the passage that it shares with others (`units.py`): a passage
stays whole, a document that stands twice is in one part, and the part does not depend on how many documents there are
or in which order they come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from lm_eval_prune.units import unit_of

__all__ = ["PARTS", "documents_of"]

PARTS = ("development", "test")
BITS = 64


def documents_of(documents: Sequence[Any], field: str, part: str, share: Fraction, seed: int) -> list[int]:
    """Indices of the `documents` that are in this part; about `share` of them are in `development`.

    field: of a document, that names its passage; empty where each stands by itself.
    """
    return [
        index
        for index, document in enumerate(documents)
        if _is_development(unit_of(document, field) or _text(document), share, seed) == (part == PARTS[0])
    ]


def _text(document: Any) -> str:
    return json.dumps(document, sort_keys=True, ensure_ascii=False, default=str)


def _is_development(unit: str, share: Fraction, seed: int) -> bool:
    hashed = hashlib.sha256(f"{seed}|{unit}".encode(errors="backslashreplace")).digest()[: BITS // 8]
    return Fraction(int.from_bytes(hashed, "big"), 2**BITS) < share
