"""Linear maps, by the fastest float32 matrix product that torch has on a CPU.

torch hands float32 products to its BLAS library. oneDNN, which it ships as well, is faster on processors with AVX-512,
and on AMD's with AVX2, where MKL is slow for few rows and for many outputs. There is no public way to it that neither
copies the inputs nor keeps a second copy of the weights, so this module reaches for the one that torch's own compiler
calls.

oneDNN rounds more: 1.5 times BLAS's error (root mean square) with 768 inputs and 2.2 times with 1,536 and more. So a
map with more inputs than outputs stays with BLAS. What an FFN ends with is such a map: there oneDNN gains least, and
the few huge numbers in the residual stream of real models come from there.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["linear"]

FEWEST_WEIGHTS = 2**18
"""Smaller maps stay with BLAS: on a small model an interrupted sweep's cells had other last bits than a whole one's."""
CAPABILITIES = {"AVX2", "AVX512"}
"""What `torch.backends.cpu.get_cpu_capability` says of processors on which oneDNN was measured and found faster."""


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """inputs [n, in] @ weight [out, in]^T + bias [out] -> [n, out], as `torch.nn.functional.linear`."""
    if _one_dnn_takes(inputs, weight):
        return _one_dnn()(inputs, weight, bias, "none", [], "")
    return F.linear(inputs, weight, bias)


def _one_dnn_takes(inputs: Tensor, weight: Tensor) -> bool:
    return (
        inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == weight.device.type == "cpu"
        and weight.numel() >= FEWEST_WEIGHTS
        and weight.shape[0] >= weight.shape[1]
        and (weight.is_contiguous() or weight.T.is_contiguous())  # cut out: a thousand times as long
        and torch.backends.cpu.get_cpu_capability() in CAPABILITIES
        and not torch.is_autocast_enabled("cpu")
        and _one_dnn() is not None
    )


@functools.cache
def _one_dnn() -> Any:
    """oneDNN's linear map; None in builds of torch that lack it or have changed it."""
    try:
        found = torch.ops.mkldnn._linear_pointwise.default
        trial = torch.arange(6, dtype=torch.float32, device="cpu").view(2, 3)
        right = torch.equal(found(trial, trial, None, "none", [], ""), trial @ trial.T)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return found if right else None
