"""In which precision a model computes on a CPU: our commands take float32 there, unless they are told.

Checkpoints are mostly stored in half precision, which many CPUs compute several times slower than float32, and less
exactly. Under `lm_eval` itself the harness's own default stays, the checkpoint's precision; there a line says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["HALVES", "is_slower_here", "with_cpu_precision"]

HALVES = (torch.float16, torch.bfloat16)
DECIDED = ("dtype", "mixed_precision_dtype", "load_in_8bit", "load_in_4bit", "quantization_config", "autogptq",
           "gptqmodel", "gguf_file")  # fmt: skip
"""Arguments of `hf` that say it."""
WIDTH, ROWS, REPEATS = 512, 128, 3
"""Of the product that is timed: as wide as a small model's."""
SLOWER = 1.2
"""Times the time of float32 that count as slower."""


def with_cpu_precision(arguments: Mapping[str, Any], device: str | None = None) -> dict[str, Any]:
    """The model's `arguments`, with dtype=float32 where it would compute on a CPU and they leave it open."""
    where = str(device or arguments.get("device") or ("cuda" if torch.cuda.is_available() else "cpu"))
    decided = any(arguments.get(name) for name in DECIDED)
    return dict(arguments) if decided or where.partition(":")[0] != "cpu" else {**arguments, "dtype": "float32"}


def is_slower_here(dtype: torch.dtype) -> bool:
    """Whether this CPU takes clearly longer for a matrix product in `dtype` than in float32; measured, once each."""
    return _seconds(dtype) > SLOWER * _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    times = []
    for _ in range(REPEATS + 1):  # the first prepares
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return min(times[1:])
