"""Linear maps against float64, whichever library computes them."""

import numpy as np
import pytest
import torch

from lm_eval_prune.decoders import linear as module
from lm_eval_prune.decoders.linear import linear

LAYOUTS = {
    "whole": lambda weight: weight,
    "as Conv1D has it": lambda weight: weight.T.contiguous().T,
    "every third row": lambda weight: weight.repeat_interleave(3, 0)[::3],
    "some columns": lambda weight: torch.cat([weight, weight], 1)[:, :64],
}
"""Ways in which the same weight [out, in] may lie in memory."""


@pytest.fixture(params=["as shipped", "without oneDNN"])
def _library(request, monkeypatch):
    if request.param == "without oneDNN":
        monkeypatch.setattr(module, "_one_dnn", lambda: None)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("rows", [0, 1, 16, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("outputs", [50, 4096])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_product_is_that_of_float64(rows, dtype, with_bias, outputs, layout):
    generator = torch.Generator().manual_seed(0)
    # Views, as sliced heads are: neither contiguous nor at the start of their storage.
    inputs = torch.randn(rows, 100, generator=generator).to(dtype)[:, 20:84]
    weight = LAYOUTS[layout](torch.randn(outputs, 64, generator=generator).to(dtype))
    bias = torch.randn(outputs, generator=generator).to(dtype) if with_bias else None
    found = linear(inputs, weight, bias)
    assert (found.shape, found.dtype) == ((rows, outputs), dtype)
    expected = inputs.double().numpy() @ weight.double().numpy().T + (0 if bias is None else bias.double().numpy())
    error = np.abs(found.double().numpy() - expected).max(initial=0)
    steps = error / np.abs(expected).max(initial=1e-9) / torch.finfo(dtype).eps
    assert steps < 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_dnn_gets_no_part_of_a_larger_weight(layout, monkeypatch):
    """It is right there too, but for 500 inputs of OPT's FFN it took 23 seconds."""
    asked = []
    one_dnn = torch.ops.mkldnn._linear_pointwise.default
    monkeypatch.setattr(module, "_one_dnn", lambda: lambda *given: asked.append(layout) or one_dnn(*given))
    monkeypatch.setattr(module, "CAPABILITIES", {torch.backends.cpu.get_cpu_capability()})
    weight = LAYOUTS[layout](torch.ones(4096, 64))
    assert torch.equal(linear(torch.ones(2, 64), weight), torch.full((2, 4096), 64.0))
    assert asked == ([layout] if layout in ("whole", "as Conv1D has it") else [])
    assert torch.equal(
        linear(torch.ones(2, 4096), LAYOUTS["as Conv1D has it"](torch.ones(64, 4096)))[0], torch.full((64,), 4096.0)
    )
    assert len(asked) <= 1, "a map with more inputs than outputs, which oneDNN rounds most"
