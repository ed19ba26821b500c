"""A mask of another project as text, for `mask --from`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lm_eval_prune.errors import PruneError
from lm_eval_prune.selection import read_mask_file
from tests.fuzz.readers import Target
from tests.fuzz.readers.masks import SHAPE, use

GOOD = [
    b"0:1,3 2:0,1,2,3",
    b"0:1\n0:3\r\n2:0\n",
    b"0:1,3; 2:0",
    b"1 0 1 0\n1 1 1 1\n0 0 0 0\n",
    b"1.0,0.0\n0e+00,1e0\n",
]


def prepare(folder: Path) -> Target:
    return Target(GOOD, read, "text")


def read(data: bytes, own: Path) -> None:
    path = own / "heads.txt"
    path.write_bytes(data)
    for choice in ({"counting_from": 1}, {"invert": True}):
        with suppress(PruneError):
            read_mask_file(path, SHAPE, say=False, **choice)
    with suppress(PruneError):
        use(read_mask_file(path, say=False), own)
    shape = (2, 2) if b"e" in data else SHAPE
    use(read_mask_file(path, shape, say=False), own)
