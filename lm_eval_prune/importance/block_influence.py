"""Block influence: how far a layer turns the residual stream, 1 - cosine of the stream before and after it.

Of whole layers Men et al. 2024 (ShortGPT, arXiv 2403.03853, section 2.2); of a layer's attention and of its FFN alone
He et al. 2024 (LLM-Drop, arXiv 2406.15786, section 3). What is between the two is found by pruning: the stream behind
attention is what the layer gives without its FFN. So the scores are about what masks prune, whatever the order of
norms, scales and residual sums in a family: in front of attention is the layer's input, behind attention its output
without the FFN, and behind the FFN its output. Where attention and FFN read the same stream (parallel residual), the
FFN's is counted behind attention's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch

from lm_eval_prune.decoders import decoder_of, input_device, trunk_of
from lm_eval_prune.decoders.ablated import constant
from lm_eval_prune.errors import ScoreError
from lm_eval_prune.importance.examples import Batch, Example, batches, checked, real_tokens
from lm_eval_prune.importance.gradient import frozen
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.progress import Bar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.decoders.places import Places

__all__ = ["PARTS", "block_influence"]

PARTS = ("layers", "attention", "ffns")


def block_influence(
    model: nn.Module,
    examples: Sequence[Example],
    part: str = "layers",
    *,
    batch_size: int = 8,
    processes: Processes | None = None,
    progress: bool = False,
) -> Tensor:
    """1 - cosine similarity of the stream before and after each layer, or `part` of it, float32 (num_hidden_layers,).

    `part` is one of `PARTS`. The mean is over all input tokens of all examples: each example's but its last. From 0,
    for what leaves the stream's direction alone, to 2; the smaller, the less it does. Sums are float64, so neither
    batch size nor order matters; padding does not count. The model runs in evaluation mode and is handed back as it
    was; `masked` blocks around the call count. With `processes`, each of them takes its share of `examples`.
    Raises ExampleError; ScoreError naming the layer whose stream is not finite.
    """
    decoder, trunk, processes = decoder_of(model), trunk_of(model), processes or Processes()
    tokenized = checked(examples, trunk.max_length, trunk.vocab_size)
    sums = torch.zeros(decoder.num_hidden_layers, dtype=torch.float64)
    with frozen(model), torch.no_grad():
        mine = list(batches(processes.share(tokenized), trunk.batch_size(batch_size)))
        for batch in Bar(mine, desc="Block influence", unit="batch", leave=None, disable=not progress):
            sums += _turned(model, decoder, batch, part)
    scores = processes.sum(sums) / sum(len(example.tokens) - 1 for example in tokenized)
    for layer in (~scores.isfinite()).nonzero().flatten().tolist():
        raise ScoreError(f"layer {layer}: its residual stream is not finite; load the model with dtype=float32")
    return scores.float()


def _turned(model: nn.Module, decoder: Places, batch: Batch, part: str) -> Tensor:
    """(layers,), float64: the sums over the batch's tokens."""
    trunk, real = trunk_of(model), real_tokens(batch)
    before, calls = trunk.embed(batch.input_ids.to(input_device(model)))
    found = torch.zeros(decoder.num_hidden_layers, dtype=torch.float64)
    for layer in range(decoder.num_hidden_layers):
        after = trunk.layer(layer, before, calls)
        if part == "layers":
            pair = before, after
        else:
            module = decoder.ffn_outputs[layer]
            with nullcontext() if module is None else module.register_forward_hook(partial(constant, None)):
                between = trunk.layer(layer, before, calls)
            pair = (before, between) if part == "attention" else (between, after)
        found[layer] = (1 - _cosines(*pair)[real.to(after.device)]).sum()
        before = after
    return found


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    """Of each token's two streams, float64; streams of zeros alone count as alike."""
    one, other = (each.cpu().double() if each.device.type == "mps" else each.double() for each in (one, other))
    found = torch.nn.functional.cosine_similarity(one, other, dim=-1, eps=0)
    return torch.where((one == other).all(-1), torch.ones_like(found), found)
