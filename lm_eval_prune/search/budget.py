"""What a model may still cost: `parameters=0.7`, counted as `plan` and `compact` count.

A budget is a share of the whole model's parameters, of the floating-point operations of a token in its linear maps, of
the bytes that a token adds to the key/value cache, or of the time of a forward pass (`latency.py`). A unit is what can
go by itself: the heads of one key/value head together (a head, where each has its own), or an FFN.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval_prune.decoders import key_value_heads, shape_of
from lm_eval_prune.errors import ArgumentError, FractionError
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    from lm_eval_prune.search.latency import Latency

__all__ = ["KINDS", "Budget", "Costs", "Unit", "mask_of", "parse_budget"]

KINDS = ("parameters", "flops", "kv_bytes", "latency")


class Unit(NamedTuple):
    """What goes together."""

    layer: int
    heads: tuple[int, ...]
    """Of the layer; () is its FFN."""


@dataclass(frozen=True)
class Budget:
    """A share of the whole model's cost, at most."""

    kind: str
    share: Fraction

    def __str__(self) -> str:
        return f"{self.kind}={float(self.share):g}"


def parse_budget(text: str) -> Budget:
    """`parameters=0.7`, `flops=0.5`, `kv_bytes=0.25`. Raises ArgumentError."""
    kind, _, value = text.partition("=")
    try:
        share = parse_fraction(value, "budget")
    except FractionError:
        share = Fraction(0)
    if kind.strip() not in KINDS or not 0 < share < 1:
        raise ArgumentError(
            f"budget {text[:100]!r}: expected {', '.join(KINDS)} = a share between 0 and 1, such as parameters=0.7"
        )
    return Budget(kind.strip(), share)


class Costs:
    """What a model costs under masks, by its configuration, or by times that were measured.

    Raises UnsupportedModelError.
    """

    def __init__(self, config: Any, budget: Budget, total_parameters: int, latency: Latency | None = None) -> None:
        """`total_parameters` are those of the whole model, as it is loaded; `latency` goes with a budget of it."""
        self.shape, self.budget = shape_of(config), budget
        self.num_key_value_heads = key_value_heads(config)
        self.latency = latency
        self.last_of_a_layer = 0 if latency is None else latency.attention
        """What goes with all heads of a layer, on top of what each group is by itself."""
        self._left = self._counter(config, total_parameters)
        self.total = self._left(PruningMask.dense(*self.shape))

    def left(self, mask: PruningMask) -> int:
        """What the model costs under `mask`."""
        return self._left(mask)

    @property
    def allowed(self) -> int:
        """What it may cost."""
        return math.floor(self.budget.share * self.total)

    def units(self, *, heads: bool, ffns: bool) -> list[Unit]:
        """All that may go: groups of heads, FFNs, or both."""
        layers, number = self.shape
        size = number // self.num_key_value_heads
        groups = [
            Unit(layer, tuple(range(first, first + size)))
            for layer in range(layers)
            for first in range(0, number, size)
        ]
        return [*(groups if heads else []), *([Unit(layer, ()) for layer in range(layers)] if ffns else [])]

    def of(self, unit: Unit) -> int:
        """What goes with a unit by itself; what goes only with several together comes on top."""
        return self.total - self.left(mask_of(self.shape, [unit]))

    def _counter(self, config: Any, total_parameters: int) -> Callable[[PruningMask], int]:
        from lm_eval_prune.decoders.skeleton import flops_per_token, num_pruned_parameters  # imports torch

        if self.budget.kind == "parameters":
            return lambda mask: total_parameters - num_pruned_parameters(config, mask)
        if self.latency is not None:
            return functools.partial(self.latency.of, num_key_value_heads=self.num_key_value_heads)
        if self.budget.kind == "flops":
            return lambda mask: flops_per_token(config, mask)
        size = self.shape[1] // self.num_key_value_heads
        layers = range(self.shape[0])
        # The bytes of a group are the same in every layer: shares of groups are shares of bytes.
        return lambda mask: sum(len({head // size for head in mask.kept_heads(layer)}) for layer in layers)


def mask_of(shape: tuple[int, int], gone: list[Unit]) -> PruningMask:
    """The mask that prunes these units."""
    heads: dict[int, tuple[int, ...]] = {}
    for unit in gone:
        if unit.heads:
            heads[unit.layer] = (*heads.get(unit.layer, ()), *unit.heads)
    return PruningMask(
        num_hidden_layers=shape[0],
        num_attention_heads=shape[1],
        pruned_heads=heads,
        pruned_ffns=tuple(unit.layer for unit in gone if not unit.heads),
    )
