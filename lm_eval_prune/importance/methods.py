"""Every way to score heads or FFNs, by name.

A further method is a function from `Inputs` to scores, and one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.decoders.magnitude import squared_weights
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.importance.block_influence import block_influence
from lm_eval_prune.importance.examples import Example
from lm_eval_prune.importance.function_vectors import function_vector_scores
from lm_eval_prune.importance.gradient import ffn_gradient_importance, head_importance
from lm_eval_prune.importance.knockout import (
    MaskScorer,
    Objective,
    attention_knockout,
    ffn_importance,
    head_knockout,
    layer_knockout,
)
from lm_eval_prune.importance.processes import Processes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.means import Means

__all__ = ["COMPONENTS", "METHODS", "Inputs", "Method", "magnitude", "method_for", "method_named", "random_scores"]

COMPONENTS = ("heads", "ffns", "attention", "layers")
"""Each head, each FFN; all of a layer's heads together; those and its FFN together."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that a method may use; each takes what it needs."""

    model: nn.Module
    examples: Sequence[Example] = ()
    """Gold answers in their contexts."""
    shuffled: Sequence[Example] = ()
    """The same answers in few-shot contexts with shuffled labels."""
    objective: Objective | None = None
    """What knockout measures; None for the examples' loss."""
    batch_size: int = 8
    seed: int = 1234
    checkpointing: bool | None = None
    """Of gradients: whether one layer's activations are kept at a time; None where weights are offloaded."""
    processes: Processes = field(default_factory=Processes)
    softmax_dtype: torch.dtype | None = None
    scorer: MaskScorer | None = None
    """How knockout answers requests under many masks; None for `score_under_masks`."""
    progress: bool = False
    means: Means | None = None
    """What a pruned component gives, for gradients; knockouts have it of `scorer`. None: nothing."""


def _not_scored(inputs: Inputs) -> Tensor:
    raise AssertionError("a component that the method does not score was asked for")


class Method(NamedTuple):
    """How one method scores each kind of component; `scores` says which it does."""

    heads: Callable[[Inputs], Tensor]
    """-> (num_hidden_layers, num_attention_heads), larger is more important."""
    ffns: Callable[[Inputs], Tensor]
    """-> (num_hidden_layers,)"""
    uses: str
    """`"examples"` (gold answers), `"prompts"` (those, and again with shuffled labels), `"objective"` (a metric or the
    examples' loss), or `"weights"` (no task at all)."""
    attention: Callable[[Inputs], Tensor] = _not_scored
    """-> (num_hidden_layers,)"""
    layers: Callable[[Inputs], Tensor] = _not_scored
    """-> (num_hidden_layers,)"""

    @property
    def scores(self) -> tuple[str, ...]:
        """Those of `COMPONENTS` that it scores."""
        return tuple(component for component in COMPONENTS if getattr(self, component) is not _not_scored)


def magnitude(model: nn.Module, component: str) -> Tensor:
    """L2 norm of each component's weight matrices, biases aside, float32.

    A head: its rows of the query map and its columns of the output map, and the rows of the key and value maps of its
    group. An FFN: all of its maps. What a compacted model lacks scores 0.
    """
    return squared_weights(model, component).sqrt().float()


def random_scores(model: nn.Module, component: str, seed: int) -> Tensor:
    """Uniform scores in [0, 1), float32, the same for the same shape and seed."""
    decoder = decoder_of(model)
    shape = (decoder.num_hidden_layers, decoder.num_attention_heads)[: 2 if component == "heads" else 1]
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def method_named(name: str) -> Method:
    """The method of this name. Raises ArgumentError."""
    if name not in METHODS:
        raise ArgumentError(f"method {name!r}: unknown; expected one of {', '.join(METHODS)}")
    return METHODS[name]


def method_for(component: str, name: str) -> Method:
    """The method of this name, which scores `component`. Raises ArgumentError."""
    if component not in COMPONENTS:
        raise ArgumentError(f"component {component!r}: unknown; expected {', '.join(COMPONENTS[:-1])} or layers")
    method = method_named(name)
    if component not in method.scores:
        others = [other for other, each in METHODS.items() if component in each.scores]
        raise ArgumentError(
            f"method {name} scores {', '.join(method.scores)}; for {component} take {', '.join(others)}"
        )
    return method


def _gradient(function: Callable[..., Tensor]) -> Callable[[Inputs], Tensor]:
    def scores(inputs: Inputs) -> Tensor:
        return function(
            inputs.model,
            inputs.examples,
            batch_size=inputs.batch_size,
            checkpointing=inputs.checkpointing,
            processes=inputs.processes,
            progress=inputs.progress,
            means=inputs.means,
        )

    return scores


def _knockout(function: Callable[..., Tensor]) -> Callable[[Inputs], Tensor]:
    def scores(inputs: Inputs) -> Tensor:
        return function(
            inputs.model,
            inputs.examples if inputs.objective is None else inputs.objective,
            batch_size=inputs.batch_size,
            scorer=inputs.scorer,
            softmax_dtype=inputs.softmax_dtype,
            processes=inputs.processes,
            progress=inputs.progress,
        )

    return scores


def _function_vectors(inputs: Inputs) -> Tensor:
    return function_vector_scores(
        inputs.model,
        inputs.examples,
        inputs.shuffled,
        batch_size=inputs.batch_size,
        processes=inputs.processes,
        progress=inputs.progress,
    )


def _influence(inputs: Inputs, part: str) -> Tensor:
    return block_influence(
        inputs.model,
        inputs.examples,
        part,
        batch_size=inputs.batch_size,
        processes=inputs.processes,
        progress=inputs.progress,
    )


METHODS = {
    "gradient": Method(_gradient(head_importance), _gradient(ffn_gradient_importance), "examples"),
    "knockout": Method(
        _knockout(head_knockout),
        _knockout(ffn_importance),
        "objective",
        _knockout(attention_knockout),
        _knockout(layer_knockout),
    ),
    "function_vector": Method(_function_vectors, _not_scored, "prompts"),
    "block_influence": Method(
        _not_scored,
        partial(_influence, part="ffns"),
        "examples",
        partial(_influence, part="attention"),
        partial(_influence, part="layers"),
    ),
    "magnitude": Method(
        lambda inputs: magnitude(inputs.model, "heads"), lambda inputs: magnitude(inputs.model, "ffns"), "weights"
    ),
    "random": Method(
        lambda inputs: random_scores(inputs.model, "heads", inputs.seed),
        lambda inputs: random_scores(inputs.model, "ffns", inputs.seed),
        "weights",
        lambda inputs: random_scores(inputs.model, "attention", inputs.seed),
        lambda inputs: random_scores(inputs.model, "layers", inputs.seed),
    ),
}
