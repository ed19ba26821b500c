"""The configuration of a compacted model: the original's, and what was removed from it.

Numbers of layers and heads stay the original model's, and heads and layers keep their original numbers, so that a mask
means the same before and after compaction. There is a class for each of transformers' configurations, made when it is
asked for: model type `pruned_T` for the original's T.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict

from lm_eval_prune.decoders.family import text_config
from lm_eval_prune.errors import MaskError
from lm_eval_prune.masks import PruningMask

__all__ = ["FOREIGN", "HOME", "LAYOUTS", "OWN", "PREFIX", "CompactedConfig", "config_class"]

PREFIX = "pruned_"
"""Of model types."""
LAYOUTS = ("kv-groups", "uniform", "layers")
"""Of smaller models of the stock class (stock.py): whole key/value groups, as many of every layer; as many heads of
every layer, and of each of its groups; layers."""
HOME = "lm_eval_prune.decoders.compacted"
"""Where classes of compacted models are found by their names."""
MODELING = '''"""The classes of this checkpoint are in the package lm-eval-prune: pip install lm-eval-prune."""

from {home} import {names}

__all__ = {all}
'''
OWN = ("model_type", "pruning_mask", "pruning_means", "original_model", "layer_head_num", "layer_inter_size")
"""Fields that say that a model is compacted, and how."""
FOREIGN = ("auto_map", "architectures", "transformers_version")
"""Fields of a configuration that are never carried into another model's: `auto_map` names code to run."""


class CompactedConfig:
    """What configurations of compacted models add. Raises MaskError for a mask that does not fit."""

    stock: Any
    """transformers' class for the original."""
    class_names: tuple[str, str]
    """Of the base model and of the causal language model."""
    original_model: str | None
    layer_head_num: list[int] | None
    pruning_means: dict[str, Any] | None

    def __post_init__(self: Any, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        text = text_config(self)
        shape = text.num_hidden_layers, text.num_attention_heads
        mask = PruningMask.dense(*shape)
        if self.pruning_mask is not None:
            mask = PruningMask.from_dict(self.pruning_mask, "config.json: pruning_mask")
        if mask.shape != shape:
            raise MaskError(
                "config.json: pruning_mask is for {} layers of {} heads, not {} of {}".format(*mask.shape, *shape)
            )
        width = _ffn_width(text)
        counts = {
            "layer_head_num": [len(mask.kept_heads(layer)) for layer in range(shape[0])],
            "layer_inter_size": [0 if layer in mask.pruned_ffns else width for layer in range(shape[0])],
        }
        for name, expected in counts.items():
            if (found := getattr(self, name)) is not None and found != expected:
                raise MaskError(f"config.json: {name} is {found}, but its pruning_mask leaves {expected}")
            setattr(self, name, expected)
        self.pruning_mask = mask.to_dict()

    def save_pretrained(self: Any, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As transformers' own, with the file that `trust_remote_code=True` looks for."""
        base, causal = self.class_names
        names = sorted({type(self).__name__, base, causal})
        module = f"modeling_{self.model_type}"
        self.auto_map = {
            "AutoConfig": f"{module}.{type(self).__name__}",
            "AutoModel": f"{module}.{base}",
            "AutoModelForCausalLM": f"{module}.{causal}",
        }
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        content = MODELING.format(home=HOME, names=", ".join(names), all=str(names).replace("'", '"'))
        Path(save_directory, f"{module}.py").write_text(content, encoding="utf-8")

    @classmethod
    def register_for_auto_class(cls, *args: Any, **kwargs: Any) -> None:
        """Nothing: `save_pretrained` writes what other programs need, and not a copy of our modules."""

    @property
    def original_config(self: Any) -> Any:
        """The configuration of the model that it was made of."""
        return self.stock(**{key: value for key, value in self.to_dict().items() if key not in (*OWN, *FOREIGN)})

    @property
    def removed(self: Any) -> PruningMask:
        """What was removed, as a mask."""
        return PruningMask.from_dict(self.pruning_mask or {}, "config.json: pruning_mask")


@functools.cache
def config_class(stock: Any) -> Any:
    """The class of configurations of compacted models whose originals have the configuration class `stock`."""
    own, original = PREFIX + stock.model_type, stock

    @strict
    class Compacted(CompactedConfig, stock):
        model_type = own
        stock = original

        pruning_mask: dict[str, Any] | None = None  # type: ignore[assignment]
        """What was removed, in the original model's coordinates: the content of a mask file. None removes nothing."""
        pruning_means: dict[str, Any] | None = None
        """Which means stand for what was removed: their SHA-256, and how they were made. None: nothing does."""
        original_model: str | None = None
        """Name or folder of the model that was compacted."""
        layer_head_num: list[int] | None = None
        """Query heads left in each layer; follows from the mask. The name that serving projects proposed."""
        layer_inter_size: list[int] | None = None
        """Inner width of each layer's FFN, 0 where it was removed; follows from the mask."""

    Compacted.__name__ = Compacted.__qualname__ = f"Pruned{stock.__name__}"
    Compacted.__module__ = HOME
    return Compacted


def _ffn_width(config: Any) -> int:
    names = ("ffn_dim", "intermediate_size", "n_inner", "ffn_hidden_size")
    found = next((width for name in names if isinstance(width := getattr(config, name, None), int)), None)
    return found or 4 * config.hidden_size
