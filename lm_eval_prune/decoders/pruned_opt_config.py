"""The configuration of a compacted OPT: the original's, and what was removed from it.

Numbers of layers and heads stay the original model's, and heads and layers keep their original numbers, so that a mask
means the same before and after compaction.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.models.opt.configuration_opt import OPTConfig

from lm_eval_prune.decoders.registration import MODEL_TYPE, register_models
from lm_eval_prune.errors import MaskError
from lm_eval_prune.files import is_folder
from lm_eval_prune.masks import PruningMask

__all__ = ["MODELING_FILE", "PrunedOPTConfig", "compacted_config", "plain_config"]

MODELING_FILE = "modeling_pruned_opt.py"
"""Written beside config.json, for programs that load this model type with `trust_remote_code=True`."""
MODELING = '''"""The classes of this checkpoint are in the package lm-eval-prune: pip install lm-eval-prune."""

from lm_eval_prune.decoders.pruned_opt import PrunedOPTForCausalLM, PrunedOPTModel
from lm_eval_prune.decoders.pruned_opt_config import PrunedOPTConfig

__all__ = ["PrunedOPTConfig", "PrunedOPTForCausalLM", "PrunedOPTModel"]
'''
AUTO_MAP = {
    "AutoConfig": "modeling_pruned_opt.PrunedOPTConfig",
    "AutoModel": "modeling_pruned_opt.PrunedOPTModel",
    "AutoModelForCausalLM": "modeling_pruned_opt.PrunedOPTForCausalLM",
}
OWN = ("model_type", "pruning_mask", "original_model", "layer_head_num", "layer_inter_size")
"""Fields that say that a model is compacted, and how."""
FOREIGN = ("auto_map", "architectures", "transformers_version")
"""Fields of a configuration that are never carried into another model's: `auto_map` names code to run."""


@strict
class PrunedOPTConfig(OPTConfig):
    """An OPT that lacks the heads and FFNs of `pruning_mask`. Raises MaskError for a mask that does not fit."""

    model_type = MODEL_TYPE

    pruning_mask: dict[str, Any] | None = None
    """What was removed, in the original model's coordinates: the content of a mask file. None removes nothing."""
    original_model: str | None = None
    """Name or folder of the model that was compacted."""
    layer_head_num: list[int] | None = None
    """Heads left in each layer; follows from the mask. The name that serving projects proposed."""
    layer_inter_size: list[int] | None = None
    """Inner width of each layer's FFN, 0 where it was removed; follows from the mask."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        shape = self.num_hidden_layers, self.num_attention_heads
        mask = PruningMask.dense(*shape)
        if self.pruning_mask is not None:
            mask = PruningMask.from_dict(self.pruning_mask, "config.json: pruning_mask")
        if mask.shape != shape:
            raise MaskError(
                "config.json: pruning_mask is for {} layers of {} heads, not {} of {}".format(*mask.shape, *shape)
            )
        counts = {
            "layer_head_num": [shape[1] - len(mask.pruned_heads.get(layer, ())) for layer in range(shape[0])],
            "layer_inter_size": [0 if layer in mask.pruned_ffns else self.ffn_dim for layer in range(shape[0])],
        }
        for name, expected in counts.items():
            if (found := getattr(self, name)) is not None and found != expected:
                raise MaskError(f"config.json: {name} is {found}, but its pruning_mask leaves {expected}")
            setattr(self, name, expected)
        self.pruning_mask = mask.to_dict()
        register_models()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As transformers' own, with the file that `trust_remote_code=True` looks for."""
        self.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, *args, **kwargs)
        Path(save_directory, MODELING_FILE).write_text(MODELING, encoding="utf-8")

    @classmethod
    def register_for_auto_class(cls, *args: Any, **kwargs: Any) -> None:
        """Nothing: `save_pretrained` writes what other programs need, and not a copy of our modules."""

    @property
    def original_config(self) -> OPTConfig:
        """The configuration of the model that it was made of."""
        own = ("model_type", "pruning_mask", "original_model", "layer_head_num", "layer_inter_size", *FOREIGN)
        return OPTConfig(**{key: value for key, value in self.to_dict().items() if key not in own})

    @property
    def removed(self) -> PruningMask:
        """What was removed, as a mask."""
        return PruningMask.from_dict(self.pruning_mask or {}, "config.json: pruning_mask")


def compacted_config(config: OPTConfig, mask: PruningMask, name: str | None = None) -> PrunedOPTConfig:
    """The configuration of `config`'s model without what `mask` prunes, on top of what it lacks already.

    `name` is the original model's, where `config` is not a compacted model's, which says.
    """
    content = config.to_dict()
    removed = config.removed if isinstance(config, PrunedOPTConfig) else None
    name = content.pop("original_model", None) or _public(name or getattr(config, "_name_or_path", ""))
    for key in (*OWN, *FOREIGN):
        content.pop(key, None)
    whole = mask
    if removed is not None:
        provenance = {**mask.provenance, "compacted_before": dict(removed.provenance)}
        whole = replace(removed | mask, provenance=provenance)
    content |= {"pruning_mask": whole.to_dict(), "original_model": name, "architectures": ["PrunedOPTForCausalLM"]}
    return PrunedOPTConfig(**content)


def plain_config(config: PrunedOPTConfig) -> OPTConfig:
    """The configuration of a whole OPT with zeros where the compacted model of `config` lacks something.

    `zeroed_mask` in it says where; other programs pass over it.
    """
    content = {key: value for key, value in config.to_dict().items() if key not in (*OWN, *FOREIGN)}
    content |= {"zeroed_mask": config.pruning_mask, "architectures": ["OPTForCausalLM"]}
    return OPTConfig(**content)


def _public(name: str | None) -> str | None:
    """Of a folder only its own name: where it lies is nobody else's business."""
    return Path(name).resolve().name if name and is_folder(name) else name or None
