"""A model without weights: names and shapes on the meta device, from which everything is counted."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch

from lm_eval_prune.decoders import check_fits, removed_from, require_supported, shape_of
from lm_eval_prune.decoders.family import kind_and_settings, submodule
from lm_eval_prune.decoders.places import Places, places_of, width_in, width_out
from lm_eval_prune.decoders.slices import num_products, parts_gone, parts_of
from lm_eval_prune.decoders.stages import stages_of
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.text import message_of

__all__ = [
    "LinearWeights",
    "device_map_of",
    "empty_model",
    "flops_per_token",
    "layer_paths",
    "layers_divide",
    "learned_positions",
    "linear_weights",
    "num_pruned_parameters",
    "num_removed_parameters",
    "output_path",
    "products",
    "skeleton_of",
]


def skeleton_of(config: Any) -> Places:
    """The places of the whole model of a transformers `config`; of a compacted model's, those of its original.

    Raises UnsupportedModelError.
    """
    require_supported(config)
    config = getattr(config, "original_config", config)
    key = kind_and_settings(config)
    if key not in _skeletons:
        if len(_skeletons) > 8:
            _skeletons.clear()
        _skeletons[key] = places_of(empty_model(config))
    found = _skeletons[key]
    # A shared weight counts once. One that was made while transformers loads a model, which ties nothing, is tied now.
    found.model.tie_weights(recompute_mapping=False)
    return found


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


def num_pruned_parameters(config: Any, mask: PruningMask) -> int:
    """How many parameters `mask` removes from a model of this config, exactly and with biases.

    A head: its rows of the query map, its columns of the output map (whose bias stays) and, with the last query head of
    its group, its rows of the key and value maps. An FFN: all of its maps. The norm in front of either goes too where
    it serves nothing else. What a compacted model lacks already does not count.
    Raises MaskShapeError, UnsupportedModelError.
    """
    check_fits(mask, *shape_of(config))
    removed, places = removed_from(config), skeleton_of(config)
    both, before = (sum(part.numel for part in parts_gone(places, each)) for each in (removed | mask, removed))
    return both - before


def num_removed_parameters(config: Any) -> int:
    """How many parameters compaction has removed from the model of this config, less the constants that it has put in
    their place. Raises UnsupportedModelError."""
    if removed_from(config).is_dense:
        return 0
    return int(skeleton_of(config).model.num_parameters() - empty_model(config).num_parameters())


def flops_per_token(config: Any, mask: PruningMask) -> int:
    """Floating-point operations of a token's forward pass in the linear maps that `mask` keeps, output layer included.

    A multiplication and an addition for each weight. Left out is what depends on the length of the input (attention
    between tokens) and what is small beside it: biases, norms, activations, softmax.
    Raises MaskShapeError, UnsupportedModelError.
    """
    check_fits(mask, *shape_of(config))
    places = skeleton_of(config)
    return 2 * (products(places) - sum(part.products for part in parts_gone(places, mask)))


def learned_positions(config: Any) -> int | None:
    """The longest input, in tokens, of a model that has learned an embedding of each position; None for others.

    `config` is a transformers configuration. Raises UnsupportedModelError.
    """
    table = skeleton_of(config).positions
    return None if table is None else table.num_embeddings - getattr(table, "offset", 0)


def layers_divide(config: Any) -> bool:
    """Whether masks that differ in a layer's FFN alone share its attention: as far as the family is known to."""
    places = skeleton_of(config)
    return len(stages_of(places)) > places.num_hidden_layers


class LinearWeights(NamedTuple):
    """Weights of the linear maps, each a multiplication and an addition for every token that passes it."""

    head: int
    """Of one query head: half of them for queries, half for outputs."""
    group: int
    """Of one key/value head: half of them for keys, half for values."""
    ffns: tuple[int, ...]
    """Of each layer's FFN; of a mixture's experts those that a token meets."""
    projection: int
    """From embeddings of another width than the layers', and as many back; else 0."""
    output: int
    """Of the output layer."""
    head_dim: int
    """Width of a head's output."""
    heads_per_group: int
    """Query heads that share a key/value head."""
    hidden_size: int
    """Width of the residual stream."""


def linear_weights(config: Any) -> LinearWeights:
    """What FLOPs are counted from, of a model's configuration; heads of all layers are alike.

    Raises UnsupportedModelError.
    """
    places = skeleton_of(config)
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
