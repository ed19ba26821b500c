"""What a model's config.json may say: a schema at the door, before transformers makes anything of it.

Imports neither torch nor transformers: `plan` reads configurations too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lm_eval_prune.files import read_json
from lm_eval_prune.strict_json import validated

__all__ = ["ModelSettings", "checked_settings", "read_settings"]

Layers = Annotated[int, Field(ge=1, le=1000)]
Width = Annotated[int, Field(ge=1, le=10**6)]
Length = Annotated[int, Field(ge=1, le=10**8)]
LARGEST = 2**63 - 1
"""Of any whole number in a configuration: what tensors can count."""


class ModelSettings(BaseModel):
    """The fields that decide what a model costs; others pass as they are. Bounds are beyond any model there is."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model_type: str = "opt"
    num_hidden_layers: Layers | None = None
    num_attention_heads: Annotated[int, Field(ge=1, le=10**4)] | None = None
    hidden_size: Width | None = None
    ffn_dim: Annotated[int, Field(ge=1, le=10**7)] | None = None
    word_embed_proj_dim: Width | None = None
    vocab_size: Length | None = None
    max_position_embeddings: Length | None = None
    do_layer_norm_before: bool | None = None
    remove_final_layer_norm: Annotated[bool | None, Field(alias="_remove_final_layer_norm")] = None
    enable_bias: bool | None = None
    layer_norm_elementwise_affine: bool | None = None
    tie_word_embeddings: bool | None = None
    dtype: str | dict[str, Any] | None = None
    torch_dtype: str | dict[str, Any] | None = None
    """What `dtype` was called before transformers 5."""
    pruning_mask: Annotated[dict[str, Any] | None, Field(description="the content of a mask file")] = None
    """Of a compacted model."""
    original_model: Annotated[str, Field(max_length=500)] | None = None
    layer_head_num: list[int] | None = None
    layer_inter_size: list[int] | None = None

    @model_validator(mode="after")
    def _can_be_counted(self) -> ModelSettings:
        for name, value in (self.model_extra or {}).items():
            if isinstance(value, int) and abs(value) > LARGEST:
                raise ValueError(f"{name[:60]} is a number of {len(str(abs(value))):,} digits")
        heads, width = self.num_attention_heads, self.hidden_size
        if self.model_type in ("opt", "pruned_opt") and heads and width and width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        return self


def checked_settings(content: Mapping[str, Any], where: object) -> ModelSettings:
    """The content of a config.json. Raises FileFormatError, which begins with `where`, for what no model has."""
    return validated(ModelSettings, content, f"{where}: its configuration")


def read_settings(path: str | os.PathLike[str], name: str) -> ModelSettings:
    """The config.json at `path`, checked. Raises FileFormatError, which calls the model `name`."""
    return checked_settings(read_json(path), name)
