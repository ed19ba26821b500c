"""What is compared: variants of a model, each a ranking and how much of it is pruned; sweeps and reports name them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from lm_eval_prune.fractions import parse_fraction

__all__ = ["DENSE", "LARGEST", "Seed", "Variant", "file_name"]

LARGEST = 2**62
"""Of a number in a file: what tables of 64-bit numbers hold, sums of two included."""


def _share(text: str) -> str:
    parse_fraction(text)
    return text


Share = Annotated[str, AfterValidator(_share)]
Seed = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]


class Variant(NamedTuple):
    """Which components go first, and how many; a column of a sweep's grid. Pydantic checks the fields in files."""

    ranking: str
    """`dense`, `own`, `aggregate`, `task:NAME`, `random` or files; `most:` before it turns the order round."""
    prune_heads: Share
    """Share of all heads pruned, an exact decimal."""
    prune_ffns: Share
    """Share of all FFNs pruned, an exact decimal."""
    seed: Seed | None = None
    """Of a random ranking."""
    oracle: bool = False
    """The ranking looked at documents that are then evaluated."""

    def __str__(self) -> str:
        if self.ranking == "dense":
            return "dense"
        name = self.ranking if self.seed is None else f"{self.ranking} (seed {self.seed})"
        return f"{name}, heads {self.prune_heads}, FFNs {self.prune_ffns}" + (", oracle" if self.oracle else "")


DENSE = Variant("dense", "0", "0")


def file_name(path: str) -> str:
    """What a variant calls an importance file: its name, with the folder that it is in."""
    return "/".join(Path(path).parts[-2:])
