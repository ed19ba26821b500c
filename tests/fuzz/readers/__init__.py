"""The readers that are tried. A module here has a function `prepare(folder) -> Target`; its name is the reader's.

`folder` is empty, and there as long as the reader is tried: what all inputs need (a model, good files beside the bad
one) is made there once. `Target.read(data, folder)` is then called for each input, in an empty folder of the input's
own, and reads it as a user's command would, to the end: what is made of an input counts as well.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["READERS", "Target", "prepare"]


@dataclass(frozen=True)
class Target:
    """What is tried."""

    good: Sequence[bytes]
    """Inputs that are read without an error, which the others are made from."""
    read: Callable[[bytes, Path], object]
    """Reads an input in a folder of its own. Raises nothing but PruneError."""
    form: str = "json"
    """How inputs are spoilt: json (lines of JSON, too), text or bytes."""


READERS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def prepare(reader: str, folder: Path) -> Target:
    """The target of the reader of this name."""
    target = importlib.import_module(f"{__name__}.{reader}").prepare(folder)
    assert isinstance(target, Target)
    return target
