"""A loaded model under another mask for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedModel
    from lm_eval_prune.masks import PruningMask

__all__ = ["wearing"]


@contextlib.contextmanager
def wearing(lm: PrunedModel, mask: PruningMask) -> Iterator[None]:
    """Inside, `mask` is the model's; then its own is again."""
    before, lm.mask = lm.mask, mask
    try:
        yield
    finally:
        lm.mask = before
