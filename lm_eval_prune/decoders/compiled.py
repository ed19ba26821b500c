"""Models that torch.compile has compiled, wholly or in part.

Compiled code does not look for hooks that are put on a module afterwards: a mask would be ignored without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["is_compiled", "uncompiled"]


def is_compiled(model: nn.Module) -> bool:
    """Whether `model`, or a module in it, was given to torch.compile or had its own `compile` called."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Inside, a compiled model computes as it is written, hooks included. Others are left alone."""
    if not is_compiled(model):
        yield
        return
    if not hasattr(torch.compiler, "set_stance"):
        raise UnsupportedModelError(
            f"{type(model).__name__}: compiled, which needs torch 2.6; found {torch.__version__}: do not compile it"
        )
    with torch.compiler.set_stance("force_eager"):
        yield
