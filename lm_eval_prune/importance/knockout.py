"""Knockout importance: what the dense model's metric loses when one component is pruned (Bansal et al. 2023, 3.2).

`score_under_masks` answers the same requests under many masks. A mask changes nothing before the first attention or FFN
that it touches, so one dense pass goes from stage to stage, and each mask branches off in front of where it begins.
All L single-FFN masks together cost about half of L evaluations, with the results of L separate ones, bit for bit.
Nothing here knows the harness: an `Objective` turns answers into a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from lm_eval_prune.ablation import masked
from lm_eval_prune.decoders import check_fits, decoder_of, input_device, trunk_of
from lm_eval_prune.importance.examples import Batch, Example, batches, checked, continuation_rows
from lm_eval_prune.importance.gradient import frozen
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.progress import Bar
from lm_eval_prune.scoring.finite import require_finite

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.decoders.stages import Stage
    from lm_eval_prune.means import Means

__all__ = [
    "Answer",
    "LossObjective",
    "MaskScorer",
    "Objective",
    "component_knockout",
    "each_alone",
    "ffn_importance",
    "score_under_masks",
]

Answer = tuple[float, bool]
"""A request's log-likelihood (nats), and whether its continuation is what greedy decoding gives."""


class MaskScorer(Protocol):
    """How requests are answered under masks; `score_under_masks` is the way in this module."""

    def __call__(
        self, model: nn.Module, requests: Sequence[Example], masks: Sequence[PruningMask], batch_size: int
    ) -> Sequence[Sequence[Answer]]: ...


class Objective(Protocol):
    """A number to be had from answers: a task's metric, or a loss."""

    requests: Sequence[Example]
    """What the model is to answer."""

    def value(self, answers: Sequence[Answer]) -> float:
        """The number, larger is better, from one answer a request, in order."""
        ...


@dataclass(frozen=True)
class LossObjective:
    """Minus the mean over examples of the mean negative log-likelihood of their continuation tokens."""

    requests: Sequence[Example]

    def value(self, answers: Sequence[Answer]) -> float:
        per_example = [answer[0] / len(pair[1]) for answer, pair in zip(answers, self.requests, strict=True)]
        return sum(per_example) / len(per_example)


def ffn_importance(
    model: nn.Module, objective: Sequence[Example] | Objective, *, batch_size: int = 8, **settings: Any
) -> Tensor:
    """Knockout importance of every FFN, float32 (num_hidden_layers,): the dense metric minus that with the FFN pruned.

    `objective` is a harness task's metric (`harness.requests.TaskObjective`), or examples: their loss then counts, and
    the importance is by how much it grows. Settings are those of `knockout`. Raises ExampleError.
    """
    return component_knockout(model, objective, "ffns", batch_size=batch_size, **settings)


def component_knockout(
    model: nn.Module, objective: Sequence[Example] | Objective, component: str, *, batch_size: int = 8, **settings: Any
) -> Tensor:
    """The same of "heads" (num_hidden_layers, num_attention_heads), or one a layer of "ffns", "attention" (its heads
    together) and "layers" (those and its FFN)."""
    shape = decoder_of(model).removed.shape
    found = knockout(model, objective, each_alone(shape, component), batch_size=batch_size, **settings)
    return found.view(shape) if component == "heads" else found


def each_alone(shape: tuple[int, int], component: str) -> list[PruningMask]:
    """Of a model of `shape` (layers, heads), a mask for each of its components, in order, that prunes it alone."""
    dense, (layers, heads) = PruningMask.dense(*shape), shape
    if component == "heads":
        return [dense.prune_head(layer, head) for layer in range(layers) for head in range(heads)]
    if component == "ffns":
        return [dense.prune_ffn(layer) for layer in range(layers)]
    whole = [dense.prune_layer(layer) for layer in range(layers)]
    return whole if component == "layers" else [replace(mask, pruned_ffns=()) for mask in whole]


def knockout(
    model: nn.Module,
    objective: Sequence[Example] | Objective,
    masks: Sequence[PruningMask],
    *,
    batch_size: int = 8,
    scorer: MaskScorer | None = None,
    **settings: Any,
) -> Tensor:
    """The dense model's value minus the value under each mask, float32 (len(masks),).

    `scorer` replaces `score_under_masks`; `settings` (softmax_dtype, processes, progress) are the latter's.
    Raises ScoreError for a log-likelihood that is not finite.
    """
    goal: Objective = objective if hasattr(objective, "value") else LossObjective(objective)  # type: ignore[assignment]
    dense = PruningMask.dense(*masks[0].shape)
    answers = (scorer or score_under_masks)(model, goal.requests, [dense, *masks], batch_size, **settings)
    for number, row in enumerate(answers):
        whose = "the dense model" if number == 0 else f"the model without {_pruned(masks[number - 1])}"
        require_finite((answer[0] for answer in row), f"knockout: {whose}")
    values = torch.tensor([goal.value(row) for row in answers], dtype=torch.float64)
    return (values[0] - values[1:]).float()


def _pruned(mask: PruningMask) -> str:
    heads = [f"head {layer}.{head}" for layer, found in mask.pruned_heads.items() for head in found]
    return ", ".join([*heads, *(f"FFN {layer}" for layer in mask.pruned_ffns)][:3])


def score_under_masks(
    model: nn.Module,
    requests: Sequence[Example],
    masks: Sequence[PruningMask],
    batch_size: int = 8,
    *,
    softmax_dtype: torch.dtype | None = None,
    processes: Processes | None = None,
    progress: bool = False,
    means: Means | None = None,
) -> list[list[Answer]]:
    """Log-likelihood and greedy flag of every request under every mask: `[len(masks)][len(requests)]`.

    As the harness computes them: log-softmax in `softmax_dtype` (None: the model's), cut from the left, requests that
    share their input tokens computed once. A mask's answers do not depend on the other masks. Masks come on top of
    `masked` blocks around the call. What they prune gives zero, or its `means`. Raises ExampleError, MaskShapeError.
    """
    processes = processes or Processes()
    decoder, trunk = decoder_of(model), trunk_of(model)
    for mask in masks:
        check_fits(mask, decoder.num_hidden_layers, decoder.num_attention_heads)
    masks = [mask - decoder.removed for mask in masks]
    tokenized = checked(requests, trunk.max_length, trunk.vocab_size)
    inputs: dict[tuple[int, ...], list[int]] = {}
    for request in tokenized:
        inputs.setdefault(tuple(request.tokens[:-1]), []).append(request.index)
    longest = [
        max((tokenized[index] for index in group), key=lambda one: one.num_continuation) for group in inputs.values()
    ]
    answers = torch.zeros(len(masks), len(tokenized), 2, dtype=torch.float64)
    mine = list(batches(processes.share(longest), trunk.batch_size(batch_size)))
    bar = Bar(total=len(mine) * len(masks), desc="Knockout", unit="batch", leave=None, disable=not progress)
    with frozen(model), torch.no_grad(), bar:
        for batch in mine:
            for number, logits in _logits_under_masks(model, batch, masks, means):
                log_probabilities = logits.log_softmax(-1, dtype=softmax_dtype)
                for place, example in enumerate(batch.examples):
                    own = log_probabilities[(batch.owners == place).to(log_probabilities.device)]
                    for index in inputs[tuple(example.tokens[:-1])]:
                        answers[number, index] = _answer(
                            own, tokenized[index].tokens[-tokenized[index].num_continuation :]
                        )
                bar.update()
    return [[(float(ll), bool(greedy)) for ll, greedy in row] for row in processes.sum(answers)]


def _answer(log_probabilities: Tensor, continuation: list[int]) -> Tensor:
    """(log-likelihood, greedy) from the rows that predict the continuation, which may be preceded by others."""
    rows = log_probabilities[-len(continuation) :]
    targets = torch.tensor(continuation, device=rows.device)
    greedy = (rows.argmax(-1) == targets).all()
    return torch.tensor([float(rows.gather(1, targets[:, None]).sum()), float(greedy)])


def _logits_under_masks(
    model: nn.Module, batch: Batch, masks: Sequence[PruningMask], means: Means | None
) -> Iterator[tuple[int, Tensor]]:
    """(index of the mask, logits (predictions, vocabulary)) for every mask; only one residual stream is kept."""
    trunk = trunk_of(model)
    stages = trunk.stages
    hidden, calls = trunk.embed(batch.input_ids.to(input_device(model)))

    def finished(stream: Tensor, first: int, mask: PruningMask) -> Tensor:
        # Heads alone: of a pruned FFN's mean, `stage` knows where in a layer it belongs.
        with masked(model, replace(mask, pruned_ffns=()), means):
            for stage in stages[first:]:
                stream = trunk.stage(stage, stream, calls, mask, means)
        return trunk.logits(stream, partial(continuation_rows, batch=batch))

    dense = PruningMask.dense(*masks[0].shape)
    starting = _by_first_stage(masks, stages, dense)
    for place, indices in enumerate(starting):
        for index in indices:
            yield index, finished(hidden, place, masks[index])
        if place < len(stages) and any(starting[place + 1 :]):
            hidden = trunk.stage(stages[place], hidden, calls, dense)


def _by_first_stage(masks: Sequence[PruningMask], stages: Sequence[Stage], dense: PruningMask) -> list[list[int]]:
    """Indices of masks by the first stage in which they part from the dense model; the dense ones stand last."""
    starts: list[list[int]] = [[] for _ in range(len(stages) + 1)]
    for index, mask in enumerate(masks):
        differing = (place for place, stage in enumerate(stages) if stage.done(mask) != stage.done(dense))
        starts[next(differing, len(stages))].append(index)
    return starts
