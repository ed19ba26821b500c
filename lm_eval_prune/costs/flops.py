"""Floating-point operations of each stage of a study: matrix products alone, a multiplication and an addition each.

What is left out is small or saves work: norms, activations, softmax; padding; that packs end with the asked-for tokens
in the last layer, and that masks which agree on the first layers share them. Masked evaluation is counted as the
scorer computes it: the padded one computes pruned parts and sets them to zero, the packed one leaves them out.
"""

from __future__ import annotations

from lm_eval_prune.costs.dimensions import Dimensions
from lm_eval_prune.costs.workload import Load
from lm_eval_prune.decoders import linear_weights

__all__ = ["forward", "gradient_importance", "induction", "knockouts", "layers"]


def layers(model: Dimensions, load: Load, kept_heads: float = 1, kept_ffns: float = 1) -> float:
    """All decoder layers, of which these shares of heads and FFNs are computed."""
    weights = linear_weights(model)
    attention = 2 * weights.head * model.num_attention_heads * load.tokens + 4 * model.hidden_size * load.pairs
    ffn = 2 * weights.ffn * load.tokens
    return model.num_hidden_layers * (kept_heads * attention + kept_ffns * ffn)


def forward(model: Dimensions, load: Load, kept_heads: float = 1, kept_ffns: float = 1) -> float:
    """One pass over `load`, from token ids to logits."""
    return layers(model, load, kept_heads, kept_ffns) + _ends(model, load)


def gradient_importance(model: Dimensions, load: Load, *, checkpointing: bool) -> float:
    """Forward and backward over `load`, activations alone having gradients.

    Backwards, each linear map costs what it cost forwards, and attention's two products become four.
    `checkpointing` computes the layers forwards once more.
    """
    attention = 4 * model.hidden_size * load.pairs * model.num_hidden_layers
    again = layers(model, load) if checkpointing else 0
    return 2 * forward(model, load) + attention + again


def knockouts(model: Dimensions, load: Load, component: str) -> float:
    """The dense model and every FFN (every head) pruned alone, each from where it parts from the dense model on.

    FFN k is pruned behind layer k's attention, so that layers k+1, k+2, ... are computed again; a head of layer k
    asks for layer k again too.
    """
    depth = model.num_hidden_layers
    one_layer = layers(model, load) / depth
    if component == "ffns":
        again, masks = depth * (depth - 1) / 2, depth
    else:
        again, masks = model.num_attention_heads * depth * (depth + 1) / 2, model.num_heads
    return one_layer * (depth + again) + _ends(model, load) * (masks + 1)


def induction(model: Dimensions, lengths: list[int], repeats: int = 4) -> float:
    """Prefix matching on each sequence `repeats` times behind a BOS, copying on it once."""
    total = 0.0
    for length in lengths:
        repeated, once = 1 + repeats * length, 1 + length
        total += layers(model, Load(repeated, repeated * (repeated + 1) / 2, 0))
        # Each head's output through the output map to the sequence's own tokens.
        total += layers(model, Load(once, once * (once + 1) / 2, 0))
        total += model.num_hidden_layers * (2 * once * model.hidden_size**2 + 2 * once**2 * model.hidden_size)
    return total


def _ends(model: Dimensions, load: Load) -> float:
    """Output layer and, where embeddings are of another width, the projections."""
    weights = linear_weights(model)
    return 2 * weights.output * load.outputs + 2 * weights.projection * (load.tokens + load.outputs)
