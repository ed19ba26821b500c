"""A checkpoint's config.json, for `compact`, `compact --zeroed` and `plan`."""

from __future__ import annotations

import shutil
from pathlib import Path

from lm_eval_prune import PruneError, PruningMask, compact_checkpoint
from lm_eval_prune.costs.plan import make_plan
from lm_eval_prune.decoders.configuration import read_configuration
from lm_eval_prune.random_opt import save_random_opt
from tests.fuzz.readers import Target

TINY = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "ffn_dim": 12,
    "vocab_size": 300,
    "word_embed_proj_dim": 8,
    "max_position_embeddings": 32,
}
MASK = PruningMask(num_hidden_layers=2, num_attention_heads=2, pruned_heads={0: (1,)}, pruned_ffns=(1,))
PLANNED = 7
"""Of so many inputs, one is planned for as well, and one compacted with zeros."""


def checkpoints(folder: Path) -> dict[str, Path]:
    """A tiny OPT, and the same compacted, without files that no reader here looks at."""
    whole = save_random_opt(folder / "whole", seed=1, **TINY)
    for file in whole.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    compact_checkpoint(whole, MASK, folder / "small")
    return {"whole": whole, "small": folder / "small"}


def prepare(folder: Path) -> Target:
    sources = checkpoints(folder)
    good = [(source / "config.json").read_bytes() for source in sources.values()]

    def read(data: bytes, own: Path) -> None:
        source = sources["small" if b"pruned_opt" in data else "whole"]
        model = own / "model"
        model.mkdir()
        shutil.copyfile(source / "model.safetensors", model / "model.safetensors")
        (model / "config.json").write_bytes(data)
        errors = []
        readers = [
            lambda: read_configuration(model),
            lambda: compact_checkpoint(model, MASK, own / "new", zeroed=len(data) % PLANNED == 1),
        ]
        if len(data) % PLANNED == 0 or data in good:
            readers.append(lambda: make_plan(str(model), devices="80GB,cpu:24GB", tasks=("copa",), num_fewshot=(0,)))
        for reader in readers:
            try:
                reader()
            except PruneError as error:
                if data in good:
                    raise AssertionError("a good configuration is refused") from error
                errors.append(error)
        if errors:
            raise errors[-1]

    return Target(good, read)
