"""A model without weights: names and shapes on the meta device, from which everything is counted."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders import LinearWeights
from lm_eval_prune.decoders.family import kind_and_settings, submodule
from lm_eval_prune.decoders.places import places_of, width_in, width_out
from lm_eval_prune.decoders.slices import num_products, parts_of
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.text import message_of

if TYPE_CHECKING:
    from lm_eval_prune.decoders.places import Places

__all__ = [
    "device_map_of",
    "empty_model",
    "layer_paths",
    "learned_positions_of",
    "linear_weights_of",
    "output_path",
    "products",
    "skeleton_of",
]


def skeleton_of(config: Any) -> Places:
    """The places of the whole model of a transformers `config`; of a compacted model's, those of its original.

    Raises UnsupportedModelError.
    """
    config = getattr(config, "original_config", config)
    key = kind_and_settings(config)
    if key not in _skeletons:
        if len(_skeletons) > 8:
            _skeletons.clear()
        _skeletons[key] = places_of(empty_model(config))
    return _skeletons[key]


_skeletons: dict[tuple[Any, str], Places] = {}


def empty_model(config: Any) -> Any:
    """A causal language model of a transformers `config` on the meta device, in float32.

    Raises UnsupportedModelError where none can be made.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        with torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
            model.tie_weights()
            return model
    except Exception as error:  # of many kinds: an activation that does not exist, numbers that do not fit
        raise UnsupportedModelError(
            f"{config.name_or_path or 'the model'}: model type {config.model_type!r} is not supported: "
            f"no model can be made of its configuration: {message_of(error)}"
        ) from error


def device_map_of(
    model: Any, dtype: str, max_memory: dict[int | str, Any]
) -> tuple[dict[str, int | str], dict[str, int]]:
    """The device map that `from_pretrained(device_map="auto", max_memory=...)` gives `model`, and bytes by parameter,
    a shared one once."""
    from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map

    model = copy.deepcopy(model).to(getattr(torch, dtype))
    undivided = model._no_split_modules
    balanced = get_balanced_memory(model, max_memory=max_memory, no_split_module_classes=undivided)
    device_map = infer_auto_device_map(model, max_memory=balanced, no_split_module_classes=undivided)
    return dict(device_map), {name: each.numel() * each.element_size() for name, each in model.named_parameters()}


def layer_paths(model: Any) -> list[str]:
    """The names of its layers, from the model."""
    places = places_of(model)
    return [places.path(layer) for layer in range(places.num_hidden_layers)]


def output_path(model: Any) -> str:
    """The name of its output layer."""
    output = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is output)


def products(places: Places) -> int:
    """Multiplications, each with an addition, for one token that passes all linear maps, output layer included."""
    return sum(
        num_products(places, f"{name}.{kind}", module, kind)
        for name, module in places.model.named_modules()
        for kind, _ in module.named_parameters(recurse=False)
    )


def learned_positions_of(places: Places) -> int | None:
    """Rows of the table of positions that a token can have; None where positions are computed."""
    table = places.positions
    return None if table is None else table.num_embeddings - getattr(table, "offset", 0)


def linear_weights_of(places: Places) -> LinearWeights:
    """What FLOPs are counted from; heads of all layers are alike."""
    first = places.layers[0]
    output = places.model.get_output_embeddings()
    project_out = submodule(places.base, places.family.project_out or "-")
    return LinearWeights(
        head=places.head_dim * (width_in(first.queries) + width_out(first.output)),
        group=2 * places.head_dim * width_in(first.queries),
        ffns=tuple(
            sum(part.products for part in parts_of(places, layer) if part.ffn and not part.heads)
            for layer in range(places.num_hidden_layers)
        ),
        projection=0 if project_out is None else project_out.weight.numel(),
        output=0 if output is None else output.weight.numel(),
        head_dim=places.head_dim,
        heads_per_group=places.num_attention_heads // places.num_key_value_heads,
        hidden_size=width_in(first.queries),
    )
