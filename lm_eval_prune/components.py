"""Layers, heads and FFNs by number: how many there can be, what goes together, and lists of them checked."""

from __future__ import annotations

from collections.abc import Iterable

from lm_eval_prune.errors import MaskError, MaskShapeError
from lm_eval_prune.files import json_line

__all__ = ["MAX_COMPONENTS", "UNITS", "checked_components", "heads_per_unit", "require_possible"]

UNITS = ("head", "kv_group", "attention")
"""What of attention is ranked and pruned: query heads, those that share a key/value head, or all those of a layer."""
MAX_LAYERS, MAX_HEADS, MAX_COMPONENTS = 10_000, 10_000, 1_000_000
"""Layers, heads of a layer, and their product. Beyond is a mistake in a file, not a model: the largest have some
hundred of each, and masks take time and memory for every one."""


def heads_per_unit(unit: str, num_attention_heads: int, num_key_value_heads: int | None) -> int:
    """Query heads that go together: 1, those of a key/value head, or a layer's. Raises MaskError, MaskShapeError."""
    if unit not in UNITS:
        raise MaskError(f"unit={unit}: unknown; expected {', '.join(UNITS[:-1])} or {UNITS[-1]}")
    if unit == "head":
        return 1
    if unit == "attention":
        return num_attention_heads
    if num_key_value_heads is None:
        raise MaskError(f"unit={unit} needs num_key_value_heads, the model's number of key/value heads in a layer")
    if num_key_value_heads < 1 or num_attention_heads % num_key_value_heads:
        raise MaskShapeError(f"{num_attention_heads} query heads cannot share {num_key_value_heads} key/value heads")
    return num_attention_heads // num_key_value_heads


def require_possible(num_hidden_layers: int, num_attention_heads: int) -> None:
    """Raise MaskError for more layers or heads than any model has."""
    product = num_hidden_layers * num_attention_heads
    if num_hidden_layers > MAX_LAYERS or num_attention_heads > MAX_HEADS or product > MAX_COMPONENTS:
        raise MaskError(
            f"{json_line(num_hidden_layers)} layers of {json_line(num_attention_heads)} heads: more than any model"
        )


def checked_components(values: Iterable[int], limit: int, where: str) -> tuple[int, ...]:
    """`values` ascending. Raises MaskError unless they are distinct integers from 0 to limit - 1."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise MaskError(f"{where}s are {json_line(values)}; expected a list of integers")
    seen: set[int] = set()
    for value in values:
        if type(value) is not int:
            raise MaskError(f"{where} {json_line(value)} is not an integer")
        if not 0 <= value < limit:
            raise MaskError(f"{where} {value} does not exist; expected 0 to {limit - 1}")
        if value in seen:
            raise MaskError(f"{where} {value} is repeated")
        seen.add(value)
    return tuple(sorted(seen))
