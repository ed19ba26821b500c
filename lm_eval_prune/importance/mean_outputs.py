"""Mean outputs of every head and FFN over examples: what `means.py` holds and mean ablation puts in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders import decoder_of, input_device, trunk_of
from lm_eval_prune.errors import ScoreError
from lm_eval_prune.importance.examples import Example, batches, checked, real_tokens
from lm_eval_prune.importance.gradient import frozen
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.means import Means
from lm_eval_prune.progress import Bar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.decoders.places import Places

__all__ = ["adding_head_outputs", "mean_outputs"]


def mean_outputs(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    batch_size: int = 8,
    processes: Processes | None = None,
    progress: bool = False,
) -> Means:
    """The mean output of every head and FFN over all input tokens of all examples: each example's but its last.

    Sums are float64, so neither batch size nor order matters; padding does not count. The model runs in evaluation mode
    and is handed back as it was. With `processes`, each of them takes its share of `examples`.
    Raises ExampleError; ScoreError naming the layer where an output is not finite.
    """
    decoder, trunk, processes = decoder_of(model), trunk_of(model), processes or Processes()
    tokenized = checked(examples, trunk.max_length, trunk.vocab_size)
    layers, heads, width = decoder.num_hidden_layers, decoder.num_attention_heads, decoder.head_dim
    head_sums = torch.zeros(layers, heads, width, dtype=torch.float64)
    ffn_sums = torch.zeros(layers, trunk.hidden_size, dtype=torch.float64)
    with frozen(model), torch.no_grad():
        mine = list(batches(processes.share(tokenized), trunk.batch_size(batch_size)))
        for batch in Bar(mine, desc="Mean outputs", unit="batch", leave=None, disable=not progress):
            rows = real_tokens(batch).flatten()
            with ExitStack() as hooks:
                hooks.enter_context(adding_head_outputs(decoder, rows, head_sums))
                for sums, module in zip(ffn_sums, decoder.ffn_outputs, strict=True):
                    if module is not None:
                        hooks.enter_context(module.register_forward_hook(partial(_add_output, sums, rows)))
                trunk.run(batch.input_ids.to(input_device(model)))
    tokens = sum(len(example.tokens) - 1 for example in tokenized)
    means = [(processes.sum(sums) / tokens).float() for sums in (head_sums, ffn_sums)]
    for name, values in zip(("head", "FFN"), means, strict=True):
        for layer in (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist():
            raise ScoreError(f"layer {layer}: {name} outputs are not finite; load the model with dtype=float32")
    return Means(heads=means[0], ffns=means[1], settings={"num_examples": len(tokenized), "num_tokens": tokens})


@contextmanager
def adding_head_outputs(decoder: Places, rows: Tensor, sums: Tensor) -> Iterator[None]:
    """Inside, what each head gives at the tokens `rows` of a batch is added to `sums` (layers, heads, head_dim)."""

    def add(layer: int, module: nn.Module, args: tuple[Any, ...]) -> None:
        there = list(decoder.removed.kept_heads(layer))
        sums[layer, there] += _total(args[0], rows).view(len(there), -1)

    with ExitStack() as hooks:
        for layer, module in enumerate(decoder.head_outputs):
            if module is not None:
                hooks.enter_context(module.register_forward_pre_hook(partial(add, layer)))
        yield


def _add_output(sums: Tensor, rows: Tensor, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    sums += _total(output[0] if isinstance(output, tuple) else output, rows)


def _total(values: Tensor, rows: Tensor) -> Tensor:
    """(width,), float64: the sum over the tokens `rows` of a batch."""
    chosen = values.detach().flatten(0, -2)[rows.to(values.device)]
    return (chosen.cpu() if chosen.device.type == "mps" else chosen).double().sum(0).cpu()
