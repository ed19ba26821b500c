"""A mask file, of ours or in JSON of another project, for `mask=FILE`, `mask --from` and all that a mask is asked."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from lm_eval_prune.errors import PruneError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.selection import read_mask_file
from tests.fuzz.readers import Target

SHAPE = (3, 4)
HEADER = {"format": "lm-eval-prune-mask", "version": 1, "num_hidden_layers": 3, "num_attention_heads": 4}
GOOD = [
    {**HEADER, "pruned_heads": {"0": [1, 3], "2": [0, 1, 2, 3]}, "pruned_ffns": [1], "provenance": {"seed": 3}},
    {**HEADER, "pruned_heads": {"0": "all", "1-2": "0-1,3"}, "pruned_ffns": "0,2"},
    {**HEADER, "pruned_heads": {"all": "all"}, "pruned_ffns": "all"},
    {"0": [1, 3], "2": [0, 1, 2, 3]},
    {"model_type": "opt", "num_hidden_layers": 3, "num_attention_heads": 4, "pruned_heads": {"0": [1, 3]}},
    {"heads_to_prune": [[0, 1], [0, 3]], "total_heads": 12, "pruned_heads": 2, "pruned_ffns": [1]},
    {"head_mask": [[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], "ffn_mask": [1, 0, 1]},
    [[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]],
    [[[[[1]], [[0]], [[1]], [[0]]]], [[[[1]], [[1]], [[1]], [[1]]]], [[[[0]], [[0]], [[0]], [[0]]]]],
    [[0, 1], [0, 3]],
    [{"layer": 0, "head": 1}, {"layer": 2, "head": 0}],
    ["0:1,3", "2:0"],
]


def prepare(folder: Path) -> Target:
    return Target([json.dumps(one).encode() for one in GOOD], read)


def read(data: bytes, own: Path) -> None:
    path = own / "mask.json"
    path.write_bytes(data)
    with suppress(PruneError):
        use(PruningMask.load(path), own)
    use(read_mask_file(path, SHAPE, say=False), own)


def use(mask: PruningMask, own: Path) -> None:
    """What commands do with a mask."""
    assert mask.head_mask.shape == mask.shape
    assert mask.ffn_mask.shape == mask.shape[:1]
    assert (mask | mask) == mask == (mask & mask)
    mask.save(own / "saved.json")
    assert PruningMask.load(own / "saved.json") == mask
