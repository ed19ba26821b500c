"""What the proof has found of the models of families that no test holds."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

__all__ = ["Findings", "findings"]


class Findings(NamedTuple):
    """Of one model; reasons are None where nothing speaks against it."""

    refusal: str | None = None
    """Why neither heads nor FFNs can be masked."""
    unwatched: str | None = None
    """Why its attention cannot be watched or computed in another way."""
    unpacked: str | None = None
    """Why several texts cannot be computed as one sequence."""
    divides: bool = False
    """Whether its layers' attention and FFN can be computed one after the other."""


findings: WeakKeyDictionary[Any, Findings] = WeakKeyDictionary()
"""By model. Of proven families, there is nothing."""
