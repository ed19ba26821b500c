"""Where a transformers model keeps its heads, its FFNs and their weights.

The only package that knows: everyone else asks `decoder_of(model)` for its places, `trunk_of(model)` for its forward
pass in pieces, and speaks of heads and FFNs. A further model family is a few lines in `table.py`, or none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import MaskShapeError, UnsupportedModelError
from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lm_eval_prune.decoders.places import Places
    from lm_eval_prune.decoders.trunk import Trunk

__all__ = [
    "ORIGINAL_TYPE",
    "check_fits",
    "decoder_of",
    "input_device",
    "is_offloaded",
    "is_original_family",
    "key_value_heads",
    "removed_from",
    "require_supported",
    "shape_of",
    "trunk_of",
    "unwrapped",
]


ORIGINAL_TYPE = "opt"
"""The family of the study that this package comes from."""


def require_supported(config: Any, name: str | None = None) -> None:
    """Raise UnsupportedModelError unless a model of a transformers `config` may be supported, as far as its type tells.

    Whether it is, `decoder_of` says of the model itself.
    """
    from lm_eval_prune.decoders.family import is_known
    from lm_eval_prune.decoders.table import PROVEN, REFUSED

    model_type = getattr(config, "model_type", None)
    name = name or getattr(config, "_name_or_path", "") or "the model"
    if model_type in REFUSED:
        raise UnsupportedModelError(f"{name}: model type {model_type!r} is not supported: {REFUSED[model_type]}")
    if not is_known(config):
        raise UnsupportedModelError(
            f"{name}: model type {model_type!r} is not supported: transformers has no causal language model of it; "
            f"proven: {', '.join(PROVEN)}"
        )


def is_original_family(config: Any) -> bool:
    """Whether a transformers `config` is of the study's family, compacted or not."""
    from lm_eval_prune.decoders.family import model_type_of

    return model_type_of(config) == ORIGINAL_TYPE


def decoder_of(model: nn.Module) -> Places:
    """The decoder inside `model`, looked for behind wrappers (PEFT adapters, DataParallel, torch.compile).

    Raises UnsupportedModelError, also where a family that is not proven by tests fails the proof on this model.
    """
    from lm_eval_prune.decoders.places import places_of
    from lm_eval_prune.decoders.proof import require_proof

    inner = unwrapped(model)
    _require_configured(inner, model)
    places = places_of(inner)
    require_proof(places)
    return places


def trunk_of(model: nn.Module) -> Trunk:
    """The pieces of the causal language model inside `model`, as `decoder_of`. Raises UnsupportedModelError."""
    from lm_eval_prune.decoders.trunk import Trunk

    inner = unwrapped(model)
    _require_configured(inner, model)
    return Trunk(inner)


def input_device(model: nn.Module) -> torch.device:
    """Where token ids go: the device of the first weights that are loaded; accelerate moves on from there.

    Where all are offloaded, the device that they are brought to.
    """
    import torch
    from accelerate.utils import has_offloaded_params

    from lm_eval_prune.decoders.offloaded import device_of

    loaded = next((parameter.device for parameter in model.parameters() if not parameter.is_meta), None)
    offloaded = (device_of(module) for module in model.modules() if has_offloaded_params(module))
    return loaded or next(offloaded, torch.device("cpu"))


def is_offloaded(model: nn.Module) -> bool:
    """Whether accelerate brings weights in from elsewhere when they are used."""
    return any(parameter.is_meta for parameter in model.parameters())


def removed_from(config: Any) -> PruningMask:
    """What compaction has removed from the model of a transformers `config`, in the original's numbers; or nothing."""
    removed = getattr(config, "removed", None)
    return removed if isinstance(removed, PruningMask) else PruningMask.dense(*shape_of(config))


def shape_of(config: Any) -> tuple[int, int]:
    """(layers, query heads in each) of the model of a transformers `config`. Raises UnsupportedModelError without."""
    from lm_eval_prune.decoders.family import text_config

    config = text_config(config)
    layers, heads = (getattr(config, name, None) for name in ("num_hidden_layers", "num_attention_heads"))
    if not isinstance(layers, int) or not isinstance(heads, int):
        raise UnsupportedModelError(f"model type {config.model_type!r} is not supported: it has no heads to mask")
    return layers, heads


def key_value_heads(config: Any) -> int:
    """Key/value heads in each layer of the model of a transformers `config`. Raises UnsupportedModelError."""
    from lm_eval_prune.decoders.skeleton import skeleton_of

    return skeleton_of(config).num_key_value_heads


def check_fits(
    mask: PruningMask, num_hidden_layers: int, num_attention_heads: int, where: str = "the model", what: str = "mask"
) -> None:
    """Raise MaskShapeError, which begins with `what`, unless the mask is for this many layers and heads of `where`."""
    if mask.shape != (num_hidden_layers, num_attention_heads):
        raise MaskShapeError(
            f"{what} is for {mask.num_hidden_layers} layers of {mask.num_attention_heads} heads, but {where} has "
            f"{num_hidden_layers} layers of {num_attention_heads} heads"
        )


def _require_configured(inner: Any, model: nn.Module) -> None:
    if getattr(getattr(inner, "config", None), "model_type", None) is None or not hasattr(inner, "named_modules"):
        raise UnsupportedModelError(
            f"{type(model).__name__}: no supported decoder in it; expected a transformers model, such as "
            "AutoModelForCausalLM.from_pretrained(...), or the .model of a harness model"
        )
    if type(inner.config).__module__.startswith("transformers."):  # others may be of a type of their own
        require_supported(inner.config, type(inner).__name__)


def unwrapped(model: Any) -> Any:
    """The model behind wrappers (PEFT adapters, DataParallel, torch.compile)."""
    if hasattr(model, "get_base_model"):  # a PEFT adapter around it
        return unwrapped(model.get_base_model())
    for attribute in ("_orig_mod", "module"):  # torch.compile; DataParallel and its kin
        if hasattr(model, attribute):
            return unwrapped(getattr(model, attribute))
    return model
