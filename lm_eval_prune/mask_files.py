"""Mask files: their schema, and what a person may write shorter than a program does.

    {"format": "lm-eval-prune-mask", "version": 1, "num_hidden_layers": 12, "num_attention_heads": 12,
     "pruned_heads": {"0": [1, 3], "1-2": "0-5", "3": "all"}, "pruned_ffns": [5], "provenance": {}}

`PruningMask.load` reads them; masks in the forms of other projects are read by `foreign_masks/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lm_eval_prune.components import checked_components
from lm_eval_prune.errors import MaskError
from lm_eval_prune.files import digest
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.strict_json import json_line, validated

__all__ = ["MaskFile", "mask_digest", "mask_of"]

RANGES = re.compile(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*")


class MaskFile(BaseModel):
    """A mask file's content. Which layers and heads there are is for `PruningMask` to check."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal["lm-eval-prune-mask"]
    version: Literal[1]
    num_hidden_layers: int = Field(ge=1, description="an integer from 1")
    num_attention_heads: int = Field(ge=1, description="an integer from 1")
    pruned_heads: dict[str, list[Any] | str] = Field(default={}, description='layer -> heads, such as {"0": [1, 3]}')
    pruned_ffns: list[Any] | str = Field(default=[], description='integers, "all" or a range such as "0-5"')
    provenance: dict[str, Any] = Field(default={}, description="an object")


def mask_of(content: Mapping[str, Any], where: object) -> PruningMask:
    """The mask in a file's content. Raises FileFormatError or MaskError, beginning with `where`."""
    file = validated(MaskFile, content, where)
    try:
        num_layers, num_heads = PruningMask.dense(file.num_hidden_layers, file.num_attention_heads).shape
        heads: dict[int, tuple[int, ...]] = {}
        for key, value in file.pruned_heads.items():
            pruned = _expanded(value, num_heads, f"pruned_heads: layer {json_line(key)}: head")
            for layer in _expanded(key, num_layers, "pruned_heads: layer"):
                if layer in heads:
                    raise MaskError(f"pruned_heads: layer {layer} is repeated")
                heads[layer] = pruned
        return PruningMask(
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            pruned_heads=heads,
            pruned_ffns=_expanded(file.pruned_ffns, num_layers, "pruned_ffns: layer"),
            provenance=file.provenance,
        )
    except MaskError as error:
        raise type(error)(f"{where}: {error}") from None


def mask_digest(mask: PruningMask) -> str:
    """SHA-256, in hexadecimal, of what the mask prunes; equal masks have the same, wherever they come from."""
    return digest({**mask.to_dict(), "provenance": {}})


def _expanded(value: list[Any] | str, limit: int, where: str) -> tuple[int, ...]:
    """Integers from a list, "all", or ranges such as "0-5,7". Raises MaskError.

    What is repeated is refused where it begins, so that no text expands to more than `limit` numbers.
    """
    if not isinstance(value, str):
        return checked_components(value, limit, where)
    if value == "all":
        return tuple(range(limit))
    if not RANGES.fullmatch(value):
        raise MaskError(f'{where}s are {json_line(value)}; expected integers, "all" or a range such as "0-5"')
    numbers: dict[int, None] = {}
    for part in value.split(","):
        first, last = int(part.split("-")[0]), int(part.split("-")[-1])
        if first > last:
            raise MaskError(f'{where}s {json_line(part)}: expected the lower number first, as in "{last}-{first}"')
        checked_components((last,), limit, where)
        for number in range(first, last + 1):
            if number in numbers:
                raise MaskError(f"{where} {number} is repeated")
            numbers[number] = None
    return tuple(sorted(numbers))
