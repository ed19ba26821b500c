"""Inputs tried one after another, and the faults that they bring to light."""

from __future__ import annotations

import random
import shutil
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from lm_eval_prune.errors import PruneError
from tests.fuzz.guard import Reached, TooSlow, confined
from tests.fuzz.mutation import mutated
from tests.fuzz.readers import Target, prepare

__all__ = ["Fault", "faults", "input_of"]

LONGEST_MESSAGE = 4000
"""Characters; a message is one line for a person."""


class Fault(NamedTuple):
    """An input that ended in something else than an answer or an error of ours."""

    reader: str
    number: int
    kind: str
    """The exception, and where in the package it came from."""
    message: str
    data: bytes


def faults(reader: str, seed: int, numbers: Iterable[int], folder: Path) -> Iterator[Fault]:
    """Try the inputs of these numbers, below `folder`. The good ones are tried first; an error there is raised."""
    shared, own = folder / "shared", folder / "input"
    shared.mkdir(parents=True)
    target = prepare(reader, shared)
    for data in target.good:
        own.mkdir()
        target.read(data, own)
        shutil.rmtree(own)
    for number in numbers:
        data = input_of(target, reader, seed, number)
        own.mkdir()
        with patch("os.fsync"):  # most of the time otherwise
            found = _fault(target, data, own)
        if found is not None:
            yield Fault(reader, number, *found, data)
        shutil.rmtree(own)


def input_of(target: Target, reader: str, seed: int, number: int) -> bytes:
    """The input of this number, the same for the same seed."""
    draw = random.Random(f"{seed} {reader} {number}")
    return mutated(draw.choice(target.good), target.form, draw)


def _fault(target: Target, data: bytes, folder: Path) -> tuple[str, str] | None:
    try:
        with confined(folder):
            target.read(data, folder)
    except PruneError as error:
        return ("long message", str(error)[:200]) if len(str(error)) > LONGEST_MESSAGE else None
    except (Exception, Reached, TooSlow) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "lm_eval_prune" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"
        return f"{type(error).__name__} at {where}", str(error)[:200]
    return None
