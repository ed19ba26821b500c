"""Gradient importance: |<dLoss/do, o>|, summed over examples and tokens (Michel et al. 2019; Bansal et al. 2023, 3.1).

One forward and one backward pass, in which nothing but activations has a gradient: weights are frozen, the graph starts
at layer 0's own outputs, and the output layer runs at the continuation only. `o` is a head's output (attention x
values, before the output map) or, for the FFN estimate, what the FFN adds to the residual stream; less its mean where
that is what a pruned one gives (mean ablation). `knockout.py` has the oracle that the estimate stands for.

With checkpointing the graph is that of one layer at a time, computed again from the layer's input: a model whose
weights are offloaded then brings in one layer's weights at a time for the backward pass, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from accelerate.utils import align_module_device

from lm_eval_prune.budget import free_memory, is_out_of_memory
from lm_eval_prune.decoders import decoder_of, input_device, is_offloaded, trunk_of
from lm_eval_prune.decoders.compiled import uncompiled
from lm_eval_prune.decoders.lent import evaluating, for_now
from lm_eval_prune.errors import ScoreError
from lm_eval_prune.importance.examples import Batch, Example, TokenizedExample, batches, checked, continuation_rows
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.importance.taps import UNQUANTISED, Taps
from lm_eval_prune.progress import Bar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.decoders.trunk import Trunk
    from lm_eval_prune.means import Means

__all__ = ["ffn_gradient_importance", "frozen", "head_importance"]

logger = logging.getLogger(__name__)

FIRST_SCALE = 2.0**10
SCALE_STEP = 2.0**4
MAX_SCALE, MIN_SCALE = 2.0**30, 2.0**-14
"""Loss scales tried for float16, whose gradients over- or underflow: upwards from the first, or downwards."""


def head_importance(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    batch_size: int = 8,
    checkpointing: bool | None = None,
    processes: Processes | None = None,
    progress: bool = False,
    means: Means | None = None,
) -> Tensor:
    """Importance of every attention head, float32 (num_hidden_layers, num_attention_heads), larger is more important.

    An example's loss is the mean negative log-likelihood of its continuation tokens. Sums are divided by the number of
    input tokens (each example's tokens less one), in the last layer by the number of continuation tokens. Neither batch
    size nor padding matters. What a compacted model lacks scores 0. The model runs in evaluation mode and is handed
    back as it was. `checkpointing` keeps the activations of one layer at a time, at the price of a second forward pass;
    None does so where weights are offloaded. With `processes`, each of them takes its share of `examples` and all
    return the scores over all of them. With `means`, o less its mean stands in the place of o.
    Raises ExampleError; ScoreError naming example and layer where a gradient is not finite or zero throughout.
    """
    decoder = decoder_of(model)
    kept = [decoder.removed.kept_heads(layer) for layer in range(decoder.num_hidden_layers)]
    taps = Taps(decoder.head_outputs, kept, decoder.num_attention_heads, of_input=True)
    if means is not None:
        means.check_fits(decoder.removed.shape, decoder.head_dim, trunk_of(model).hidden_size)
        taps.means = [means.heads[layer, list(there)].flatten() for layer, there in enumerate(kept)]
    return _importance(model, taps, examples, batch_size, checkpointing, processes, progress)


def ffn_gradient_importance(
    model: nn.Module, examples: Sequence[Example], *, means: Means | None = None, **settings: Any
) -> Tensor:
    """Gradient estimate of every FFN's importance, float32 (num_hidden_layers,): as for heads, of the FFN's output."""
    decoder = decoder_of(model)
    taps = Taps(decoder.ffn_outputs, [() if each is None else (0,) for each in decoder.ffn_outputs], 1, of_input=False)
    if means is not None:
        means.check_fits(decoder.removed.shape, decoder.head_dim, trunk_of(model).hidden_size)
        taps.means = list(means.ffns)
    return _importance(model, taps, examples, **settings).squeeze(1)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter gradients, nothing compiled inside; every module's mode and every flag return."""
    with for_now(model.parameters(), "requires_grad", False), evaluating(model), uncompiled(model):
        yield


def _importance(
    model: nn.Module,
    taps: Taps,
    examples: Sequence[Example],
    batch_size: int = 8,
    checkpointing: bool | None = None,
    processes: Processes | None = None,
    progress: bool = False,
) -> Tensor:
    trunk, processes = trunk_of(model), processes or Processes()
    taps.checkpointing = is_offloaded(model) if checkpointing is None else checkpointing
    for name, module in model.named_modules():
        if callable(getattr(module, "weight", None)):  # torch's quantised maps, which know no backward pass
            raise ScoreError(f"{name}: no gradient comes through a quantised {type(module).__name__}; {UNQUANTISED}")
    tokenized = checked(examples, trunk.max_length, trunk.vocab_size)
    total = torch.zeros(len(taps.modules), taps.per_layer, dtype=torch.float64)
    with frozen(model), torch.inference_mode(False), torch.enable_grad():
        mine = list(batches(processes.share(tokenized), trunk.batch_size(batch_size)))
        for batch in Bar(mine, desc="Gradient importance", unit="batch", leave=None, disable=not progress):
            total += _summed(model, taps, batch)
    total = processes.sum(total)
    total[:-1] /= sum(len(example.tokens) - 1 for example in tokenized)
    total[-1] /= sum(example.num_continuation for example in tokenized)
    return total.float()


def _summed(model: nn.Module, taps: Taps, batch: Batch) -> Tensor:
    """(layers, components), float64: summed over the examples of `batch`, in halves where memory runs out."""
    try:
        scores = _scaled_scores(model, taps, batch) if _computes_in_half(model) else _scores(model, taps, batch)
        for place in _suspicious(scores[taps.there]):
            scores[:, place] = _checked_alone(model, taps, batch.examples[place])
        return scores.sum(1)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(batch.examples) == 1:
            raise
    taps.forget()
    free_memory()
    half = (len(batch.examples) + 1) // 2
    logger.warning("out of memory with %d examples at once; continuing with %d", len(batch.examples), half)
    return torch.stack([_summed(model, taps, part) for part in batches(batch.examples, half)]).sum(0)


def _computes_in_half(model: nn.Module) -> bool:
    """Whether gradients are float16, whose range is small: the weights' dtype, or autocast's."""
    device_type = input_device(model).type
    if torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.float16:
        return True
    return any(parameter.dtype == torch.float16 for parameter in model.parameters())


def _scores(model: nn.Module, taps: Taps, batch: Batch, scale: float = 1.0, *, explaining: bool = False) -> Tensor:
    """(layers, batch, components), float64: each example's sum over tokens, from one forward and one backward pass."""
    with _last_ffn_at(model, batch.rows):
        if taps.checkpointing:
            _layer_by_layer(model, taps, batch, scale, explaining=explaining)
        else:
            with taps.attached(len(batch.examples), explaining=explaining):
                trunk = trunk_of(model)
                hidden = trunk.run(batch.input_ids.to(input_device(model)))
                loss = _loss(trunk, taps, batch, hidden, scale, explaining=explaining)
                if taps.leaves:
                    torch.autograd.grad(loss, taps.leaves, allow_unused=True)
    none = torch.zeros(len(batch.examples), taps.per_layer)
    by_layer = [taps.sums.get(layer, none).cpu() for layer in range(len(taps.modules))]
    return torch.stack(by_layer).double() / scale


def _loss(trunk: Trunk, taps: Taps, batch: Batch, hidden: Tensor, scale: float, *, explaining: bool) -> Tensor:
    """The sum of all examples' losses, times `scale`, from the residual stream behind the last layer."""
    logits = trunk.logits(hidden, partial(continuation_rows, batch=batch)).float()
    losses = F.cross_entropy(logits, batch.targets.to(logits.device), reduction="none")
    if explaining and not losses.isfinite().all():
        _explain_forward(taps, batch.examples[0])
    weights = scale / torch.bincount(batch.owners)[batch.owners].float()
    return (losses * weights.to(losses.device)).sum()


def _layer_by_layer(model: nn.Module, taps: Taps, batch: Batch, scale: float, *, explaining: bool) -> None:
    """Both passes with one layer's graph at a time.

    Between them only the layers' inputs are kept, in the host's memory: hidden_size numbers a token and layer.
    """
    trunk, count = trunk_of(model), len(batch.examples)
    inputs: list[tuple[torch.device, Tensor]] = []
    with torch.no_grad(), taps.attached(count, explaining=True) if explaining else nullcontext():
        hidden, calls = trunk.embed(batch.input_ids.to(input_device(model)))
        for number in range(len(trunk.layers)):
            inputs.append((hidden.device, hidden.cpu()))
            hidden = trunk.layer(number, hidden, calls)
    taps.sums, taps.gradients = {}, {}
    hidden = hidden.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(trunk, taps, batch, hidden, scale, explaining=explaining), hidden)
    for number in reversed(range(len(trunk.layers))):
        device, kept = inputs.pop()
        stream = kept.to(device).requires_grad_(number > 0)
        with taps.tapped([number], count, explaining=explaining):
            output = trunk.layer(number, stream, calls)
        if wanted := [stream, *taps.leaves] if number else taps.leaves:
            gradient, *_ = torch.autograd.grad(output, wanted, gradient.to(output.device), allow_unused=True)
        del output


@contextmanager
def _last_ffn_at(model: nn.Module, rows: Tensor) -> Iterator[None]:
    """Inside, the last layer's FFN computes the flat token positions `rows` alone: the output layer reads no others.

    Elsewhere it adds zeros, which nothing looks at; neither the loss nor a gradient changes.
    """
    shape: torch.Size | None = None

    def select(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal shape
        shape = args[0].shape
        selected = args[0].flatten(0, -2)[rows.to(args[0].device)]
        return (selected.view(*[1] * (len(shape) - 2), *selected.shape), *args[1:])

    def spread(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        assert shape is not None
        if isinstance(output, tuple):  # of a mixture of experts
            return (spread(module, args, output[0]), *output[1:])
        whole = output.new_zeros(shape[:-1].numel(), output.shape[-1])
        return whole.index_copy(0, rows.to(output.device), output.flatten(0, -2)).view(*shape[:-1], -1)

    ffn = decoder_of(model).layers[-1].ffn
    with ExitStack() as hooks:
        if ffn:
            # Ours goes first: what a mask or a tap makes of the FFN's output comes after all positions are there again.
            hooks.enter_context(ffn[0].register_forward_pre_hook(select, prepend=True))
            hooks.enter_context(ffn[-1].register_forward_hook(spread, prepend=True))
        yield


def _scaled_scores(model: nn.Module, taps: Taps, batch: Batch) -> Tensor:
    """`_scores` for float16, the loss scaled below overflow and high enough for small gradients to keep their bits."""
    scale = taps.scale or FIRST_SCALE
    scores = _scores(model, taps, batch, scale)
    while not scores.isfinite().all() and scale > MIN_SCALE:
        scale /= SCALE_STEP
        scores = _scores(model, taps, batch, scale)
    first = taps.scale is None  # later batches start from what the first one found
    while scores.isfinite().all() and scale < MAX_SCALE and (first or not scores[taps.there].any(-1).all()):
        larger = _scores(model, taps, batch, scale * SCALE_STEP)
        if not larger.isfinite().all():
            break
        scale, scores = scale * SCALE_STEP, larger
    taps.scale = scale
    return scores


def _suspicious(scores: Tensor) -> list[int]:
    """Examples of a batch with a score that is not finite, or with a layer of zeros."""
    fine = scores.isfinite().all(-1) & (scores != 0).any(-1)
    return (~fine.all(0)).nonzero().flatten().tolist()


def _checked_alone(model: nn.Module, taps: Taps, example: TokenizedExample) -> Tensor:
    """(layers, components) of one example, if zeros in it are true: pruned outputs, or a map that ignores them."""
    (batch,) = batches([example], 1)
    scale = taps.scale or 1.0
    scores = _scores(model, taps, batch, scale, explaining=True)
    for layer in reversed(taps.there):
        where = f"example {example.index}: layer {layer}"
        gradient = float(taps.gradients.get(layer, torch.tensor(0.0)))
        if not scores[layer].isfinite().all():
            raise ScoreError(f"{where}: the gradient is {gradient}, not finite; load the model with dtype=float32")
        ignored = taps.of_input and _is_zero(taps.modules[layer])
        if not gradient and taps.outputs[layer].any() and not ignored:
            raise ScoreError(f"{where}: the gradient is zero throughout; load the model with dtype=float32")
    return scores.squeeze(1)


def _is_zero(module: nn.Module | None) -> bool:
    assert module is not None
    with align_module_device(module):
        return not getattr(module, "weight", torch.ones(1)).any()


def _explain_forward(taps: Taps, example: TokenizedExample) -> None:
    for layer, values in sorted(taps.outputs.items()):
        if not values.isfinite().all():
            raise ScoreError(
                f"example {example.index}: layer {layer}: its outputs are not finite; load the model with dtype=float32"
            )
    last = len(taps.modules) - 1
    raise ScoreError(f"example {example.index}: after layer {last}: the loss is not finite; use dtype=float32")
