"""How long a forward pass takes on this machine, as a sum over what a compact model keeps.

Five compact models of the whole one are timed: all of it, half of each layer's groups of heads, one group, none, and no
FFN. Four numbers of at least zero explain their times best (least squares, scipy's nnls):

    time = base + attention x layers with any head + group x groups of heads + ffn x FFNs

A layer's attention costs something whatever its number of heads, so that the last group saves more than the others. The
sum is a model of the times, not the times: what came of it is measured on the mask that is chosen (`search.json`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import nnls

from lm_eval_prune.compaction.memory import compact
from lm_eval_prune.decoders import removed_from
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import read_json, write_json
from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.locks import held
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.strict_json import validated

__all__ = ["TOKENS", "Latency", "fitted", "forward_seconds", "measured", "probes", "settled"]

TOKENS = 128
"""Of the one text that is read, without a cache."""
WARM_UP, REPEATS = 3, 20
NANOSECONDS = 1e9
SecondsOf = Callable[[Any], float]


class Latency(BaseModel):
    """What each part of a forward pass takes, in nanoseconds, and where that was measured."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: Literal["lm-eval-prune-latency"] = "lm-eval-prune-latency"
    version: Literal[1] = 1
    base: int = Field(ge=0)
    attention: int = Field(ge=0)
    """Of a layer with any head, beside its groups of heads."""
    group: int = Field(ge=0)
    """Of the heads of one key/value head."""
    ffn: int = Field(ge=0)
    device: str = ""
    dtype: str = ""
    threads: int = 0
    """Of torch, on a CPU."""
    tokens: int = TOKENS

    def of(self, mask: PruningMask, num_key_value_heads: int) -> int:
        """Nanoseconds under `mask`, compacted."""
        layers, groups, ffns = parts_kept(mask, num_key_value_heads)
        return self.base + self.attention * layers + self.group * groups + self.ffn * ffns


def settled(path: Path, measure: Callable[[], Latency]) -> Latency:
    """The times in the file `path`; measured and written by the first of all processes that ask.

    A search is one of the times that it began with, whatever the machine does later. Raises FileFormatError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_suffix(".lock"), wait=True, remove=True):
        if not path.exists():
            write_json(path, measure().model_dump())
        return validated(Latency, read_json(path), f"{path}: not times that a search measured")


def measured(lm: PrunedModel, num_key_value_heads: int, seconds_of: SecondsOf | None = None) -> Latency:
    """The times of a loaded model. Raises PruneError where it cannot be compacted, or was before."""
    if not removed_from(lm.config).is_dense:
        raise ArgumentError(
            "budget latency: the model is compacted already; give the whole one, whose layers are alike"
        )
    seconds_of = seconds_of or forward_seconds
    masks = probes(lm.mask.shape, num_key_value_heads)
    seconds = [seconds_of(compact(lm.model, mask)) for mask in masks]
    found = fitted(masks, seconds, num_key_value_heads)
    dtype = str(lm.model.dtype).removeprefix("torch.")
    return found.model_copy(update={"device": lm.device.type, "dtype": dtype, "threads": torch.get_num_threads()})


def forward_seconds(model: Any, clock: Callable[[], float] = time.perf_counter) -> float:
    """The least time of several forward passes: what else the machine does only adds to it."""
    device = next(model.parameters()).device
    ids = torch.arange(TOKENS, device=device)[None] % model.get_input_embeddings().num_embeddings
    wait = torch.cuda.synchronize if device.type == "cuda" else contextlib.nullcontext
    seconds = []
    with torch.inference_mode():
        for _ in range(WARM_UP + REPEATS):
            wait()
            start = clock()
            model(ids, use_cache=False)
            wait()
            seconds.append(clock() - start)
    return min(seconds[WARM_UP:])


def probes(shape: tuple[int, int], num_key_value_heads: int) -> list[PruningMask]:
    """The masks that are timed, the whole model's first; each once."""
    layers, heads = shape
    size = heads // num_key_value_heads
    whole = PruningMask.dense(layers, heads)

    def keeping(groups: int) -> PruningMask:
        gone = dict.fromkeys(range(layers), tuple(range(groups * size, heads)))
        return PruningMask(num_hidden_layers=layers, num_attention_heads=heads, pruned_heads=gone)

    kept = dict.fromkeys((num_key_value_heads, (num_key_value_heads + 1) // 2, 1, 0))
    no_ffn = PruningMask(num_hidden_layers=layers, num_attention_heads=heads, pruned_ffns=tuple(range(layers)))
    return [whole, *(keeping(groups) for groups in kept if groups < num_key_value_heads), no_ffn]


def fitted(masks: Iterable[PruningMask], seconds: Iterable[float], num_key_value_heads: int) -> Latency:
    """The four numbers that explain the `seconds` under these masks best."""
    rows = np.array([(1, *parts_kept(mask, num_key_value_heads)) for mask in masks], dtype=float)
    found, _ = nnls(rows, np.array(list(seconds)) * NANOSECONDS)
    base, attention, group, ffn = (round(value) for value in found.tolist())
    return Latency(base=base, attention=attention, group=group, ffn=ffn)


def parts_kept(mask: PruningMask, num_key_value_heads: int) -> tuple[int, int, int]:
    """Layers with any head, groups of heads with any, and FFNs."""
    layers, heads = mask.shape
    size = heads // num_key_value_heads
    groups = [len({head // size for head in mask.kept_heads(layer)}) for layer in range(layers)]
    return sum(map(bool, groups)), sum(groups), layers - mask.num_pruned_ffns
