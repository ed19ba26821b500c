"""Attention in a layer whose query heads share key/value heads in groups of unlike size.

Keys and values of each query head are repeated by their places, once they are rotated and cached; then the model's own
attention implementation computes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lm_eval_prune.decoders import attention

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OwnHeads"]

NAME = "lm_eval_prune_ragged"


class OwnHeads:
    """The model's configuration, as one layer's attention sees it: with the number of heads that this layer has."""

    def __init__(self, whole: Any, heads: int, groups: int, is_ragged: bool) -> None:
        own = {"num_attention_heads": heads, "num_key_value_heads": groups}
        vars(self).update(_whole=whole, _own=own, _is_ragged=is_ragged)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_whole", "_own", "_is_ragged"):
            raise AttributeError(name)
        return self._own[name] if name in self._own else getattr(self._whole, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._whole, name, value)

    def __reduce__(self) -> Any:
        return OwnHeads, (self._whole, *self._own.values(), self._is_ragged)

    @property
    def implementation(self) -> Any:
        """The attention implementation of the model."""
        return self._whole._attn_implementation

    @property
    def _attn_implementation(self) -> Any:
        own = self.implementation
        return NAME if self._is_ragged and own != attention.NAME else own


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *args: Any, **told: Any
) -> Any:
    stock = next(each for each in type(module).__mro__ if each.__module__.startswith("transformers."))
    eager: Any = getattr(sys.modules[stock.__module__], "eager_attention_forward", None)
    computed = ALL_ATTENTION_FUNCTIONS.get_interface(module.config.implementation, eager)
    places = list(module.key_places)
    return computed(module, query, key[:, places], value[:, places], attention_mask, *args, **told)


AttentionInterface.register(NAME, _attention)
