"""Whether models of a family can be compacted: tried on a small random one, where no test holds the family.

The small model has the same classes and the same settings but for its dimensions. It is compacted by a mask that leaves
layers with some and none of their heads, also where the model counts a cache's tokens, unlike numbers of a group, and
layers without FFN.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Iterator
from typing import Any

from lm_eval_prune.decoders.family import is_proven, text_config
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.text import one_line

__all__ = ["behind_cache", "require_compactable"]

TOKENS, TOLERANCE = 24, 1e-4
CACHES = ("cache", "past_key_values")
"""What versions of transformers call it."""


def require_compactable(config: Any) -> None:
    """Raise UnsupportedModelError unless compact models of this family compute what masked ones do."""
    config = getattr(config, "original_config", config)
    if is_proven(config):
        return
    kind: Any = type(config)
    if reason := _refusal(kind, json.dumps(config.to_dict(), default=str, sort_keys=True)):
        raise UnsupportedModelError(f"model type {config.model_type!r} cannot be compacted: {reason}")


@functools.cache
def _refusal(kind: Any, content: str) -> str | None:
    import torch

    from lm_eval_prune.ablation import masked
    from lm_eval_prune.compaction.memory import compacted
    from lm_eval_prune.decoders.tiny import shrunk, tiny_model

    try:
        model = tiny_model(shrunk(kind, json.loads(content)))
        mask = _mask(model)
        vocabulary = text_config(model.config).vocab_size
        ids = torch.randint(3, vocabulary, (2, TOKENS), generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), masked(model, mask):
            expected = [model(ids).logits, *behind_cache(model, ids)]
        with torch.no_grad():
            smaller = compacted(model, mask)
            found = [smaller(ids).logits, *behind_cache(smaller, ids)]
    except UnsupportedModelError as error:
        return one_line(error)
    except Exception as error:  # whatever a model of any shape raises when its parts are not where they were
        return f"its classes do not run with fewer heads or FFNs: {type(error).__name__}: {one_line(error)[:200]}"
    for one, another in zip(found, expected, strict=True):
        if (one - another).abs().max() > TOLERANCE * (1 + another.abs().max()):
            return "without the heads and FFNs that a mask prunes, a small model of it computes something else"
    return None


def behind_cache(model: Any, ids: Any, count: int = 2) -> Iterator[Any]:
    """Logits of the last `count` tokens of `ids`, computed behind a cache of those before; none without a cache."""
    name = next((each for each in CACHES if each in inspect.signature(model.forward).parameters), CACHES[-1])
    first = model(ids[:, :-count], use_cache=True)
    if (cache := getattr(first, name, None)) is not None:
        yield model(ids[:, -count:], **{name: cache}, use_cache=True).logits


def _mask(model: Any) -> PruningMask:
    from lm_eval_prune.decoders import shape_of

    layers, heads = shape_of(model.config)
    pruned = {0: range(heads), 1: range(heads), 2: (0,), 3: range(1, heads)}
    return PruningMask(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pruned_heads={layer: tuple(of) for layer, of in pruned.items() if layer < layers},
        pruned_ffns=tuple(range(0, layers, 3)),
    )
