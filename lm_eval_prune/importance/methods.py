"""Every way to score heads or FFNs, by name.

A further method is a function from `Inputs` to scores, and one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.decoders.magnitude import squared_weights
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.importance.block_influence import block_influence
from lm_eval_prune.importance.examples import Example
from lm_eval_prune.importance.function_vectors import function_vector_scores
from lm_eval_prune.importance.gradient import ffn_gradient_importance, head_importance
from lm_eval_prune.importance.knockout import MaskScorer, Objective, component_knockout
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

    @property
    def shared(self) -> dict[str, Any]:
        """What every method that runs the model is told."""
        return {"batch_size": self.batch_size, "processes": self.processes, "progress": self.progress}


class Method(NamedTuple):
    """How one method scores each kind of component."""

    uses: str
    """`"examples"` (gold answers), `"prompts"` (those, and again with shuffled labels), `"objective"` (a metric or the
    examples' loss), or `"weights"` (no task at all)."""
    of: Mapping[str, Callable[[Inputs], Tensor]]
    """Those of `COMPONENTS` that it scores -> what does, larger is more important: (num_hidden_layers,
    num_attention_heads) for heads, else (num_hidden_layers,)."""


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
    if component not in method.of:
        others = [other for other, each in METHODS.items() if component in each.of]
        raise ArgumentError(f"method {name} scores {', '.join(method.of)}; for {component} take {', '.join(others)}")
    return method


def _gradient(component: str, inputs: Inputs) -> Tensor:
    function = head_importance if component == "heads" else ffn_gradient_importance
    return function(
        inputs.model, inputs.examples, checkpointing=inputs.checkpointing, means=inputs.means, **inputs.shared
    )


def _knockout(component: str, inputs: Inputs) -> Tensor:
    return component_knockout(
        inputs.model,
        inputs.examples if inputs.objective is None else inputs.objective,
        component,
        scorer=inputs.scorer,
        softmax_dtype=inputs.softmax_dtype,
        **inputs.shared,
    )


def _function_vectors(component: str, inputs: Inputs) -> Tensor:
    return function_vector_scores(inputs.model, inputs.examples, inputs.shuffled, **inputs.shared)


def _influence(component: str, inputs: Inputs) -> Tensor:
    return block_influence(inputs.model, inputs.examples, component, **inputs.shared)


def _magnitude(component: str, inputs: Inputs) -> Tensor:
    return magnitude(inputs.model, component)


def _random(component: str, inputs: Inputs) -> Tensor:
    return random_scores(inputs.model, component, inputs.seed)


def _of(function: Callable[[str, Inputs], Tensor], *components: str) -> dict[str, Callable[[Inputs], Tensor]]:
    return {component: partial(function, component) for component in components}


METHODS = {
    "gradient": Method("examples", _of(_gradient, "heads", "ffns")),
    "knockout": Method("objective", _of(_knockout, *COMPONENTS)),
    "function_vector": Method("prompts", _of(_function_vectors, "heads")),
    "block_influence": Method("examples", _of(_influence, "ffns", "attention", "layers")),
    "magnitude": Method("weights", _of(_magnitude, "heads", "ffns")),
    "random": Method("weights", _of(_random, *COMPONENTS)),
}
