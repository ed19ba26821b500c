"""Linear maps against float64, whichever library computes them."""

import numpy as np
import pytest
import torch

from lm_eval_prune.decoders import linear as module
from lm_eval_prune.decoders.linear import linear


@pytest.fixture(params=["as shipped", "without oneDNN"])
def _library(request, monkeypatch):
    if request.param == "without oneDNN":
        monkeypatch.setattr(module, "_one_dnn", lambda: None)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("rows", [0, 1, 16, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("outputs", [50, 1024])
def test_the_product_is_that_of_float64(rows, dtype, with_bias, outputs):
    generator = torch.Generator().manual_seed(0)
    # Views, as sliced heads are: neither contiguous nor at the start of their storage.
    inputs = torch.randn(rows, 100, generator=generator).to(dtype)[:, 20:84]
    weight = torch.randn(3 * outputs, 64, generator=generator).to(dtype)[::3]
    bias = torch.randn(outputs, generator=generator).to(dtype) if with_bias else None
    found = linear(inputs, weight, bias)
    assert (found.shape, found.dtype) == ((rows, outputs), dtype)
    expected = inputs.double().numpy() @ weight.double().numpy().T + (0 if bias is None else bias.double().numpy())
    error = np.abs(found.double().numpy() - expected).max(initial=0)
    steps = error / np.abs(expected).max(initial=1e-9) / torch.finfo(dtype).eps
    assert steps < 8
