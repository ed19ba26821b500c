"""Whether models of a family can be compacted: tried on a small random one, where no test holds the family.

The small model has the same classes and the same settings but for its dimensions. It is compacted by a mask that leaves
layers with some and none of their heads, also where the model counts a cache's tokens, unlike numbers of a group, and
layers without FFN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from lm_eval_prune.decoders import shape_of
from lm_eval_prune.decoders.family import is_proven, kind_and_settings
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.text import one_line

__all__ = ["behind_cache", "require_compactable", "why_not"]

TOLERANCE = 1e-4


def require_compactable(config: Any) -> None:
    """Raise UnsupportedModelError unless compact models of this family compute what masked ones do."""
    config = getattr(config, "original_config", config)
    if is_proven(config):
        return
    if reason := _refusal(*kind_and_settings(config)):
        raise UnsupportedModelError(f"model type {config.model_type!r} cannot be compacted: {reason}")


@functools.cache
def _refusal(kind: Any, settings: str) -> str | None:
    from lm_eval_prune.compaction.memory import compacted

    def compact(model: Any) -> tuple[PruningMask, Any]:
        mask = _mask(model)
        return mask, compacted(model, mask)

    return why_not(
        kind,
        settings,
        compact,
        fails="its classes do not run with fewer heads or FFNs",
        differs="without the heads and FFNs that a mask prunes, a small model of it computes something else",
    )


def why_not(
    kind: Any, settings: str, compact: Callable[[Any], tuple[PruningMask, Any]], *, fails: str, differs: str
) -> str | None:
    """Why a small model of configuration class `kind` cannot be made smaller by `compact`; None where it can.

    `compact` takes that model, and gives a mask and what the mask leaves. The reason begins with `fails` where
    something raises, and is `differs` where the logits, also behind a cache, are not the masked model's.
    """
    import torch

    from lm_eval_prune.ablation import masked
    from lm_eval_prune.decoders.specimen import sample_ids
    from lm_eval_prune.decoders.tiny import small_model

    try:
        model = small_model(kind, settings)
        ids = sample_ids(model)
        mask, smaller = compact(model)
        with torch.no_grad():
            found = [smaller(ids).logits, *behind_cache(smaller, ids)]
            with masked(model, mask):
                expected = [model(ids).logits, *behind_cache(model, ids)]
    except UnsupportedModelError as error:
        return one_line(error)
    except Exception as error:  # whatever a model of any shape raises when its parts are not where they were
        return f"{fails}: {type(error).__name__}: {one_line(error)[:200]}"
    for one, another in zip(found, expected, strict=True):
        if (one - another).abs().max() > TOLERANCE * (1 + another.abs().max()):
            return differs
    return None


def behind_cache(model: Any, ids: Any, count: int = 2) -> Iterator[Any]:
    """Logits of the last `count` tokens of `ids`, computed behind a cache of those before; none without a cache."""
    from lm_eval_prune.decoders.trunk import cache_argument

    name = cache_argument(model)
    first = model(ids[:, :-count], use_cache=True)
    if (cache := getattr(first, name, None)) is not None:
        yield model(ids[:, -count:], **{name: cache}, use_cache=True).logits


def _mask(model: Any) -> PruningMask:
    layers, heads = shape_of(model.config)
    pruned = {0: range(heads), 1: range(heads), 2: (0,), 3: range(1, heads)}
    return PruningMask(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pruned_heads={layer: tuple(of) for layer, of in pruned.items() if layer < layers},
        pruned_ffns=tuple(range(0, layers, 3)),
    )
