"""A model that refuses to be saved as something that it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lm_eval_prune.decoders.lent import lent
from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["unsaveable"]


@contextmanager
def unsaveable(model: nn.Module, reason: str) -> Iterator[None]:
    """`save_pretrained` and `push_to_hub` of transformers' models in `model` raise UnsupportedModelError(reason).

    Adapters around them are saved as ever. A copy taken inside refuses for good.
    """
    from transformers import PreTrainedModel

    refusing = [(module, _Refusal(reason)) for module in model.modules() if isinstance(module, PreTrainedModel)]
    with lent(refusing, "save_pretrained"), lent(refusing, "push_to_hub"):
        yield


class _Refusal:
    """Stands in a method's place; a class, so that a copied or pickled model has it too."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedModelError(self.reason)
