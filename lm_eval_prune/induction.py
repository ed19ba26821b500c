"""What heads do: prefix matching and copying, the two halves of an induction head (Olsson et al. 2022).

Both run the model on random tokens behind one BOS and look at one layer's attention at a time, computed from its
queries and keys a block of rows at once, so that no whole model's attention maps are ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import align_module_device
from tqdm import tqdm

from lm_eval_prune.decoders import Decoder, Trunk, decoder_of, input_device, trunk_of
from lm_eval_prune.errors import ArgumentError, ExampleError
from lm_eval_prune.importance.gradient import frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["COPYING_DEFINITIONS", "copying_scores", "prefix_matching_scores"]

COPYING_DEFINITIONS = ("olsson2022", "bansal2023")
"""A head's own output on the model's real activations; or the research code's values at the query's position, with the
embeddings as every layer's input."""

ROWS = 128
"""Query positions whose attention is held at once."""


def prefix_matching_scores(
    model: nn.Module,
    sequences: Sequence[Sequence[int]],
    *,
    repeats: int = 4,
    bos_token_id: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Prefix-matching score of every head on every sequence, float32 (len(sequences), layers, heads), in [0, 1].

    Each sequence of distinct tokens is repeated behind one BOS (default: the model's). The score is the attention that
    a token of the 2nd and later copies pays to the tokens which followed its earlier occurrences, averaged over those
    tokens. What a compacted model lacks scores 0. Raises ExampleError for sequences that are empty, repeat a token or
    do not fit the model's positions.
    """
    if repeats < 2:
        raise ArgumentError(f"repeats={repeats}; expected at least 2, so that something is repeated")
    inputs = _inputs(model, sequences, repeats, bos_token_id)
    bar = tqdm(inputs, desc="Prefix matching", unit="sequence", disable=not progress)
    scores = []
    with frozen(model), torch.no_grad():
        for tokens in bar:
            length = (len(tokens) - 1) // repeats
            visit = partial(_matched, length=length, repeats=repeats)
            scores.append(_over_layers(model, tokens, visit))
    return torch.stack(scores)


def copying_scores(
    model: nn.Module,
    sequences: Sequence[Sequence[int]],
    *,
    definition: str = "olsson2022",
    bos_token_id: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Copying score of every head on every sequence, float32 (len(sequences), layers, heads), in [0, 1].

    Each sequence of distinct tokens stands behind one BOS (default: the model's), not repeated. At each of its tokens,
    the head's output alone goes through the output map (without final norm) to logits and a softmax; of the tokens so
    far, BOS included, those above their mean count by how far above they are. The score is the share of the token that
    the head attends to most, averaged over the sequence. `definition` is one of `COPYING_DEFINITIONS`: the default
    takes the attention-weighted values without the output map's bias, `bansal2023` the values at the query's own
    position, with the bias, each layer reading the embeddings.
    Raises ArgumentError for another definition, ExampleError as `prefix_matching_scores`.
    """
    if definition not in COPYING_DEFINITIONS:
        raise ArgumentError(f"definition {definition!r}: unknown; expected one of {', '.join(COPYING_DEFINITIONS)}")
    inputs = _inputs(model, sequences, 1, bos_token_id)
    trunk, decoder = trunk_of(model), decoder_of(model)
    bar = tqdm(inputs, desc="Copying", unit="sequence", disable=not progress)
    scores = []
    with frozen(model), torch.no_grad():
        for tokens in bar:
            if definition == "olsson2022":
                reading = _reading(trunk, tokens)

                def visit(layer: int, attention: _Attention, outputs: Tensor, reading: Tensor = reading) -> Tensor:
                    outputs = outputs.unflatten(-1, (attention.num_heads, -1))
                    raised_by = _effect(decoder.head_outputs[layer], reading, outputs, with_bias=False)
                    return _copied(attention, raised_by)

                scores.append(_over_layers(model, tokens, visit))
            else:
                scores.append(_copied_from_embeddings(model, tokens))
    return torch.stack(scores)


class _Attention:
    """One layer's attention on one sequence, as rows on demand."""

    def __init__(self, queries: Tensor, keys: Tensor, num_heads: int) -> None:
        """queries, keys: (tokens, num_heads * head_dim)."""
        self.queries = queries.float().unflatten(-1, (num_heads, -1)).transpose(0, 1)
        self.keys = keys.float().unflatten(-1, (num_heads, -1)).transpose(0, 1)
        self.num_heads = num_heads
        self.device = queries.device

    def blocks(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(positions (rows,), attention (heads, rows, tokens)) for the query positions from `first` on."""
        length = self.keys.shape[1]
        everywhere = torch.arange(length, device=self.device)
        for start in range(first, length, ROWS):
            positions = everywhere[start : start + ROWS]
            logits = self.queries[:, positions] @ self.keys.transpose(1, 2) / self.keys.shape[-1] ** 0.5
            yield positions, logits.masked_fill(everywhere > positions[:, None], -torch.inf).softmax(-1)


Visit = Callable[[int, _Attention, "Tensor"], "Tensor"]
"""(layer, its attention, its heads' outputs (tokens, heads * head_dim)) -> scores (heads,)."""


def _matched(layer: int, attention: _Attention, outputs: Tensor, *, length: int, repeats: int) -> Tensor:
    total = torch.zeros(attention.num_heads, device=attention.device)
    for positions, rows in attention.blocks(1 + length):
        for back in range(1, repeats):
            # The occurrence `back` copies ago; position 0 is the BOS, which is no occurrence of anything.
            earlier = positions - back * length
            followers = (earlier + 1).clamp(min=0).expand(len(rows), -1)[..., None]
            total += (rows.gather(2, followers).squeeze(2) * (earlier >= 1)).sum(1)
    return total / ((repeats - 1) * length)


def _copied(attention: _Attention, effect: Tensor) -> Tensor:
    """effect: (heads, tokens, tokens), what each position's head output adds to the logit of each token."""
    total = torch.zeros(attention.num_heads, dtype=effect.dtype, device=effect.device)
    for positions, rows in attention.blocks(1):
        logits = effect[:, positions]
        seen = torch.arange(effect.shape[-1], device=effect.device) <= positions[:, None]
        logits = logits.masked_fill(~seen, -torch.inf)
        # The softmax over the whole vocabulary differs by a factor a row, which the share does not see.
        likely = (logits - logits.amax(-1, keepdim=True)).exp()
        raised = (likely - likely.sum(-1, keepdim=True) / (positions[:, None] + 1)).clamp(min=0).masked_fill(~seen, 0)
        attended = rows.argmax(-1, keepdim=True)
        everything = raised.sum(-1)
        share = raised.gather(2, attended).squeeze(2) / everything.masked_fill(everything == 0, 1)
        total += share.sum(1)
    return (total / (effect.shape[-1] - 1)).float()


def _over_layers(model: nn.Module, tokens: list[int], visit: Visit) -> Tensor:
    """(layers, heads): `visit` called in each layer of one forward pass, on that layer's own device."""
    decoder, trunk = decoder_of(model), trunk_of(model)
    scores = _no_scores(decoder)
    with ExitStack() as hooks:
        for layer in range(decoder.num_hidden_layers):
            if decoder.removed.kept_heads(layer):
                hooks.enter_context(_visiting(decoder, trunk, layer, visit, scores))
        trunk.body(torch.tensor([tokens], device=input_device(model)))
    return scores


def _no_scores(decoder: Decoder) -> Tensor:
    return torch.zeros(decoder.num_hidden_layers, decoder.num_attention_heads)


@contextmanager
def _visiting(decoder: Decoder, trunk: Trunk, layer: int, visit: Visit, scores: Tensor) -> Iterator[None]:
    """Inside, the scores of the heads of `layer`, which has some, are put into `scores` (layers, heads)."""
    seen: dict[str, Tensor] = {}
    kept = list(decoder.removed.kept_heads(layer))
    maps: list[Any] = [trunk.queries[layer], trunk.keys[layer], decoder.head_outputs[layer]]

    def at_outputs(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        attention = _Attention(seen.pop("queries"), seen.pop("keys"), len(kept))
        scores[layer, kept] = visit(layer, attention, args[0][0]).cpu()

    handles = [
        maps[0].register_forward_hook(lambda module, args, output: seen.update(queries=output[0])),
        maps[1].register_forward_hook(lambda module, args, output: seen.update(keys=output[0])),
        maps[2].register_forward_pre_hook(at_outputs),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reading(trunk: Trunk, tokens: list[int]) -> Tensor:
    """(tokens, hidden_size): the directions in the residual stream that the tokens' logits read, without final norm."""
    with align_module_device(trunk.output_layer):
        reading = trunk.output_layer.weight[torch.tensor(tokens)].double()  # type: ignore[index]
    if trunk.project_out is not None:
        with align_module_device(trunk.project_out):
            reading = reading @ trunk.project_out.weight.to(reading)  # type: ignore[operator]
    return reading


def _effect(output_map: Any, reading: Tensor, outputs: Tensor, *, with_bias: bool) -> Tensor:
    """(heads, tokens, tokens), float64: the logits of the sequence's tokens from each head's output at each position.

    outputs: (tokens, heads, head_dim).
    """
    with align_module_device(output_map):
        reading = reading.to(outputs.device)
        written = (reading @ output_map.weight.to(reading)).unflatten(-1, (-1, outputs.shape[-1]))
        effect = torch.einsum("qhd,thd->hqt", outputs.double(), written)
        if with_bias and output_map.bias is not None:
            effect = effect + reading @ output_map.bias.to(reading)
    return effect


def _copied_from_embeddings(model: nn.Module, tokens: list[int]) -> Tensor:
    """(layers, heads): the research code's variant, in which no layer sees what those below it wrote."""
    decoder, trunk = decoder_of(model), trunk_of(model)
    embeddings, _ = trunk.embed(torch.tensor([tokens], device=input_device(model)))
    reading = _reading(trunk, tokens)
    scores = _no_scores(decoder)
    for layer, output_map in enumerate(decoder.head_outputs):
        maps: list[Any] = [trunk.queries[layer], trunk.keys[layer], trunk.values[layer]]
        if output_map is None:
            continue
        kept = list(decoder.removed.kept_heads(layer))
        norm = trunk.attention_norms[layer]
        stream = embeddings.to(_device_of(maps[0], embeddings.device))
        stream = (stream if norm is None else norm(stream))[0]
        queries, keys, values = (module(stream) for module in maps)
        effect = _effect(output_map, reading, values.unflatten(-1, (len(kept), -1)), with_bias=True)
        scores[layer, kept] = _copied(_Attention(queries, keys, len(kept)), effect).cpu()
    return scores


def _device_of(module: nn.Module, default: torch.device) -> torch.device:
    device = next(module.parameters()).device
    return default if device.type == "meta" else device


def _inputs(
    model: nn.Module, sequences: Sequence[Sequence[int]], repeats: int, bos_token_id: int | None
) -> list[list[int]]:
    """BOS and the repeated sequence, for each. Raises ExampleError naming the sequence."""
    trunk = trunk_of(model)
    bos = bos_of(model) if bos_token_id is None else bos_token_id
    if not len(sequences):
        raise ExampleError("no sequences; expected at least one")
    inputs = []
    for index, sequence in enumerate(sequences):
        length = 1 + repeats * len(sequence)
        if not len(sequence) or len(set(sequence)) < len(sequence):
            raise ExampleError(f"sequence {index}: expected one or more tokens, each of them once")
        if length > trunk.max_length:
            raise ExampleError(
                f"sequence {index}: {len(sequence)} tokens, {repeats} times behind a BOS, are {length} positions; "
                f"the model has {trunk.max_length}"
            )
        if not all(0 <= token < trunk.vocab_size for token in (bos, *sequence)):
            raise ExampleError(f"sequence {index}: token ids must be 0 to {trunk.vocab_size - 1}")
        inputs.append([bos, *list(sequence) * repeats])
    return inputs


def bos_of(model: nn.Module) -> int:
    """The beginning-of-sequence token of the model's configuration. Raises ArgumentError without one."""
    bos = getattr(getattr(model, "config", None), "bos_token_id", None)
    if bos is None:
        raise ArgumentError("the model's configuration names no BOS; give bos_token_id")
    return bos
