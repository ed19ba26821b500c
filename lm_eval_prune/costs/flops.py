"""Floating-point operations of each stage of a study: matrix products alone, a multiplication and an addition each.

What is left out is small or saves work: norms, activations, softmax; padding; that packs end with the asked-for tokens
in the last layer, and that masks which agree on the first layers share them. Masked evaluation is counted as the
scorer computes it: the padded one computes pruned parts and sets them to zero, the packed one leaves them out.
"""

from __future__ import annotations

from lm_eval_prune.costs.dimensions import Dimensions
from lm_eval_prune.costs.workload import Load
from lm_eval_prune.decoders.opt import linear_weights

__all__ = ["forward", "gradient_importance", "induction", "knockout_passes", "knockouts", "layers"]


def layers(model: Dimensions, load: Load, kept_heads: float = 1, kept_ffns: float = 1) -> float:
    """All decoder layers; of the heads and FFNs that are there, these shares are computed."""
    weights = linear_weights(model)
    attention = 2 * weights.head * model.num_attention_heads * load.tokens + 4 * model.hidden_size * load.pairs
    ffn = 2 * weights.ffn * load.tokens
    return model.attentions * kept_heads * attention + model.num_ffns * kept_ffns * ffn


def forward(model: Dimensions, load: Load, kept_heads: float = 1, kept_ffns: float = 1) -> float:
    """One pass over `load`, from token ids to logits."""
    return layers(model, load, kept_heads, kept_ffns) + _ends(model, load)


def gradient_importance(model: Dimensions, load: Load, *, checkpointing: bool) -> float:
    """Forward and backward over `load`, activations alone having gradients.

    Backwards, each linear map costs what it cost forwards, and attention's two products become four.
    `checkpointing` computes the layers forwards once more.
    """
    attention = 4 * model.hidden_size * load.pairs * model.attentions
    again = layers(model, load) if checkpointing else 0
    return 2 * forward(model, load) + attention + again


def knockouts(model: Dimensions, load: Load, component: str) -> float:
    """The dense model and every FFN (every head) pruned alone, each from where it parts from the dense model on.

    FFN k is pruned behind layer k's attention, so that layers k+1, k+2, ... are computed again; a head of layer k
    asks for layer k again too.
    """
    masks = model.num_ffns if component == "ffns" else model.num_heads
    return layers(model, load) * knockout_passes(model, component) + _ends(model, load) * (masks + 1)


def knockout_passes(model: Dimensions, component: str) -> float:
    """How often `knockouts` goes through all layers, the dense model's pass included."""
    depth = model.num_hidden_layers
    if component == "ffns":
        again = sum(depth - 1 - layer for layer in range(depth) if layer not in model.lacking.pruned_ffns)
    else:
        again = sum(len(model.lacking.kept_heads(layer)) * (depth - layer) for layer in range(depth))
    return 1 + again / depth


def induction(model: Dimensions, lengths: list[int], repeats: int = 4) -> float:
    """Prefix matching on each sequence `repeats` times behind a BOS, copying on it once."""
    total = 0.0
    for length in lengths:
        repeated, once = 1 + repeats * length, 1 + length
        total += layers(model, Load(repeated, repeated * (repeated + 1) / 2, 0))
        # Each head's output through the output map to the sequence's own tokens.
        total += layers(model, Load(once, once * (once + 1) / 2, 0))
        total += model.attentions * (2 * once * model.hidden_size**2 + 2 * once**2 * model.hidden_size)
    return total


def _ends(model: Dimensions, load: Load) -> float:
    """Output layer and, where embeddings are of another width, the projections."""
    weights = linear_weights(model)
    return 2 * weights.output * load.outputs + 2 * weights.projection * (load.tokens + load.outputs)
