"""Function-vector scores: which heads carry what a few-shot prompt says about the task (Todd et al. 2024, section 2.3,
arXiv 2310.15213; as used by Yin and Steinhardt 2025, arXiv 2502.14010, section 2.2).

A head's mean output at the last token of few-shot prompts is put in the place of its output at the last token of
prompts whose labels are shuffled. The score is by how much that raises the probability of the right answer's first
token: the average indirect effect. What is patched is seen by the last token alone, so everything before it is computed
once and kept in a cache, and all heads of a layer are patched side by side.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders import decoder_of, input_device, trunk_of
from lm_eval_prune.decoders.trunk import cache_argument
from lm_eval_prune.errors import ExampleError, ScoreError
from lm_eval_prune.importance.examples import Example, TokenizedExample, batches, checked
from lm_eval_prune.importance.gradient import frozen
from lm_eval_prune.importance.mean_outputs import adding_head_outputs
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.progress import Bar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.decoders.places import Places

__all__ = ["function_vector_scores"]


def function_vector_scores(
    model: nn.Module,
    prompts: Sequence[Example],
    shuffled: Sequence[Example],
    *,
    batch_size: int = 8,
    processes: Processes | None = None,
    progress: bool = False,
) -> Tensor:
    """The average indirect effect of every head, float32 (num_hidden_layers, num_attention_heads), in probability.

    `prompts` are few-shot prompts with the right labels, `shuffled` such with shuffled ones; of both the context ends
    where the answer begins, and of the answer the first token counts. A head's mean is over `prompts`, its effect over
    `shuffled`. What a compacted model lacks scores 0. The model runs in evaluation mode and is handed back as it was.
    With `processes`, each of them takes its share.
    Raises ExampleError; ScoreError for probabilities that are not finite.
    """
    decoder, trunk, processes = decoder_of(model), trunk_of(model), processes or Processes()
    clean, corrupted = (
        checked([(context, answer[:1]) for context, answer in pairs], trunk.max_length, trunk.vocab_size)
        for pairs in (prompts, shuffled)
    )
    if short := next((example for example in corrupted if len(example.tokens) < 3), None):
        raise ExampleError(f"example {short.index}: a context of one token; expected a few-shot prompt")
    with frozen(model), torch.no_grad():
        mine = list(batches(processes.share(clean), trunk.batch_size(batch_size)))
        sums = torch.zeros(
            decoder.num_hidden_layers, decoder.num_attention_heads, decoder.head_dim, dtype=torch.float64
        )
        for batch in Bar(mine, desc="Mean outputs", unit="batch", leave=None, disable=not progress):
            with adding_head_outputs(decoder, batch.rows, sums):
                trunk.run(batch.input_ids.to(input_device(model)))
        means = (processes.sum(sums) / len(clean)).float()
        effects = torch.zeros(decoder.num_hidden_layers, decoder.num_attention_heads, dtype=torch.float64)
        ours = processes.share(corrupted)
        for example in Bar(ours, desc="Function vectors", unit="prompt", leave=None, disable=not progress):
            effects += _effects(model, decoder, example, means)
    return (processes.sum(effects) / len(corrupted)).float()


def _effects(model: Any, decoder: Places, example: TokenizedExample, means: Tensor) -> Tensor:
    """(layers, heads), float64: what each head's mean adds to the probability of the answer's first token."""
    *context, target = example.tokens
    ids = torch.tensor([context], device=input_device(model))
    name = cache_argument(model)
    before = model(ids[:, :-1], use_cache=True)[name]

    def probabilities(count: int) -> Tensor:
        """Of the target behind `count` copies of the last token, each with the cache of its own."""
        cache = copy.deepcopy(before)
        if count > 1:
            cache.batch_repeat_interleave(count)
        logits = model(ids[:, -1:].expand(count, -1), **{name: cache}, use_cache=True).logits[:, -1]
        found = logits.double().softmax(-1)[:, target].cpu()
        if not found.isfinite().all():
            raise ScoreError(f"example {example.index}: a probability is not finite; load the model with dtype=float32")
        return found

    effects = torch.zeros(means.shape[:2], dtype=torch.float64)
    unpatched = probabilities(1)
    for layer, module in enumerate(decoder.head_outputs):
        there = list(decoder.removed.kept_heads(layer))
        if module is None:
            continue
        with module.register_forward_pre_hook(partial(_patched, means[layer, there])):
            effects[layer, there] = probabilities(len(there)) - unpatched
    return effects


def _patched(means: Tensor, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of copy number i of a token, head number i gives its mean (heads, head_dim)."""
    heads, width = means.shape
    outputs = args[0].reshape(heads, heads, width).clone()
    places = torch.arange(heads, device=outputs.device)
    outputs[places, places] = means.to(outputs)
    return (outputs.reshape(args[0].shape), *args[1:])
