"""A model without weights: names and shapes on the meta device, from which everything is counted."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders import LinearWeights
from lm_eval_prune.decoders.family import POSITIONS, submodule
from lm_eval_prune.decoders.places import places_of, width_in, width_out
from lm_eval_prune.decoders.slices import num_products, parts_of
from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from lm_eval_prune.decoders.places import Places

__all__ = ["learned_positions_of", "linear_weights_of", "products", "skeleton_of"]


def skeleton_of(config: Any) -> Places:
    """The places of the whole model of a transformers `config`; of a compacted model's, those of its original.

    Raises UnsupportedModelError.
    """
    config = getattr(config, "original_config", config)
    key = json.dumps(config.to_dict(), default=str, sort_keys=True)
    if key not in _skeletons:
        if len(_skeletons) > 8:
            _skeletons.clear()
        _skeletons[key] = places_of(_empty_model(config))
    return _skeletons[key]


_skeletons: dict[str, Places] = {}


def _empty_model(config: Any) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        with torch.device("meta"), no_init_weights():
            return AutoModelForCausalLM.from_config(copy.deepcopy(config))
    except (ValueError, TypeError, AttributeError, ImportError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UnsupportedModelError(
            f"model type {config.model_type!r} is not supported: no model can be made of its configuration: {reason}"
        ) from error


def products(places: Places) -> int:
    """Multiplications, each with an addition, for one token that passes all linear maps, output layer included."""
    return sum(
        num_products(places, f"{name}.{kind}", module, kind)
        for name, module in places.model.named_modules()
        for kind, _ in module.named_parameters(recurse=False)
    )


def learned_positions_of(places: Places) -> int | None:
    """Rows of the table of positions that a token can have; None where positions are computed."""
    holder = submodule(places.base, places.family.layers.rpartition(".")[0])
    table = next((found for name in POSITIONS if (found := getattr(holder, name, None)) is not None), None)
    if not isinstance(table, torch.nn.Embedding):
        return None
    return table.num_embeddings - getattr(table, "offset", 0)


def linear_weights_of(places: Places) -> LinearWeights:
    """The same by what has them, in the first layer."""
    first = places.layers[0]
    output = places.model.get_output_embeddings()
    project_out = submodule(places.base, places.family.project_out or "-")
    return LinearWeights(
        head=places.head_dim * (width_in(first.queries) + width_out(first.output)),
        group=2 * places.head_dim * width_in(first.queries),
        ffn=sum(part.products for part in parts_of(places, 0) if part.ffn and not part.heads),
        projection=0 if project_out is None else project_out.weight.numel(),
        output=0 if output is None else output.weight.numel(),
        head_dim=places.head_dim,
        heads_per_group=places.num_attention_heads // places.num_key_value_heads,
    )
