"""Floating-point operations of each stage of a study: matrix products alone, a multiplication and an addition each.

What is left out is small or saves work: norms, activations, softmax; padding; sliding windows; that packs end with the
asked-for tokens in the last layer, and that masks which agree on the first layers share them. Masked evaluation is
counted as the scorer computes it: the padded one computes pruned parts and sets them to zero, the packed one leaves
them out.
"""

from __future__ import annotations

from lm_eval_prune.costs.dimensions import Dimensions
from lm_eval_prune.costs.workload import Load
from lm_eval_prune.decoders.skeleton import layers_divide
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.scoring.flops import layer_flops

__all__ = ["forward", "gradient_importance", "induction", "knockout_passes", "knockouts", "layers"]


def layers(model: Dimensions, load: Load, mask: PruningMask | None = None) -> float:
    """All decoder layers, of which `mask` leaves heads and FFNs; None leaves all that are there."""
    mask = model.lacking if mask is None else mask | model.lacking
    return sum(
        sum(layer_flops(model.weights, mask, layer, load.tokens, load.tokens, load.pairs))
        for layer in range(model.num_hidden_layers)
    )


def forward(model: Dimensions, load: Load, mask: PruningMask | None = None) -> float:
    """One pass over `load`, from token ids to logits."""
    return layers(model, load, mask) + _ends(model, load)


def gradient_importance(model: Dimensions, load: Load, *, checkpointing: bool) -> float:
    """Forward and backward over `load`, activations alone having gradients.

    Backwards, each linear map costs what it cost forwards, and attention's two products become four.
    `checkpointing` computes the layers forwards once more.
    """
    attention = 4 * model.num_heads * model.head_dim * load.pairs
    again = layers(model, load) if checkpointing else 0
    return 2 * forward(model, load) + attention + again


def knockouts(model: Dimensions, load: Load, component: str) -> float:
    """The dense model and every FFN (every head) pruned alone, each from its layer on, or from behind its attention."""
    masks = model.num_ffns if component == "ffns" else model.num_heads
    return layers(model, load) * knockout_passes(model, component) + _ends(model, load) * (masks + 1)


def knockout_passes(model: Dimensions, component: str) -> float:
    """How often `knockouts` goes through all layers, the dense model's pass included."""
    depth, again = model.num_hidden_layers, 0
    behind_attention = component == "ffns" and layers_divide(model.config)
    for layer in range(depth):
        masks = layer not in model.lacking.pruned_ffns if component == "ffns" else len(model.lacking.kept_heads(layer))
        again += masks * (depth - layer - behind_attention)
    return 1 + again / depth


def induction(model: Dimensions, lengths: list[int], repeats: int = 4) -> float:
    """Prefix matching on each sequence `repeats` times behind a BOS, copying on it once."""
    total = 0.0
    inside = model.num_heads * model.head_dim
    for length in lengths:
        repeated, once = 1 + repeats * length, 1 + length
        total += layers(model, Load(repeated, repeated * (repeated + 1) / 2, 0))
        # Each head's output through the output map to the sequence's own tokens.
        total += layers(model, Load(once, once * (once + 1) / 2, 0))
        total += inside * (2 * once * model.hidden_size + 2 * once**2)
    return total


def _ends(model: Dimensions, load: Load) -> float:
    """Output layer and, where embeddings are of another width, the projections."""
    weights = model.weights
    return 2 * weights.output * load.outputs + 2 * weights.projection * (load.tokens + load.outputs)
