"""What heads do: prefix matching and copying, the two halves of an induction head (Olsson et al. 2022).

Both run the model on random tokens behind one BOS and look at one layer's attention at a time, computed a block of rows
at once from the queries and keys that the layer attends with, so that no whole model's attention maps are ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate.utils import align_module_device

from lm_eval_prune.decoders import decoder_of, input_device, trunk_of
from lm_eval_prune.decoders.attention import Attention
from lm_eval_prune.decoders.places import Places, weight_of
from lm_eval_prune.errors import ArgumentError, ExampleError
from lm_eval_prune.importance.gradient import frozen
from lm_eval_prune.progress import Bar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.decoders.trunk import Trunk

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
    decoder, trunk = decoder_of(model), trunk_of(model)
    bar = Bar(inputs, desc="Prefix matching", unit="sequence", disable=not progress)
    scores = []
    with frozen(model), torch.no_grad():
        for tokens in bar:
            length = (len(tokens) - 1) // repeats
            visit = partial(_matched, length=length, repeats=repeats)
            scores.append(_over_layers(trunk, decoder, tokens, visit))
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
    decoder, trunk = decoder_of(model), trunk_of(model)
    copied = _copied_by if definition == "olsson2022" else _copied_from_embeddings
    bar = Bar(inputs, desc="Copying", unit="sequence", disable=not progress)
    scores = []
    with frozen(model), torch.no_grad():
        for tokens in bar:
            scores.append(copied(trunk, decoder, tokens))
    return torch.stack(scores)


class _Rows:
    """One layer's attention on one sequence, as rows on demand."""

    def __init__(self, trunk: Trunk, attention: Attention) -> None:
        places = list(trunk.places.key_places(attention.layer))
        self.attention, self.num_heads = attention, len(places)
        self.queries = attention.queries[0].float()
        self.keys, self.values = (part[0].float()[places] for part in (attention.keys, attention.values))
        self.device = self.queries.device

    def blocks(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(positions (rows,), attention (heads, rows, tokens)) for the query positions from `first` on."""
        length = self.keys.shape[1]
        everywhere = torch.arange(length, device=self.device)
        window = self.attention.window or length
        for start in range(first, length, ROWS):
            positions = everywhere[start : start + ROWS]
            back = positions[:, None] - everywhere
            scores = self.attention.scores(self.queries[:, positions], self.keys)
            yield positions, self.attention.weights(scores.masked_fill((back < 0) | (back >= window), -torch.inf))

    def outputs(self) -> Tensor:
        """(tokens, heads, head_dim): attention-weighted values."""
        return torch.cat([weights @ self.values for _, weights in self.blocks(0)], 1).transpose(0, 1)


class Seen(NamedTuple):
    """Of one layer in one forward pass."""

    layer: int
    rows: _Rows
    outputs: Tensor
    """(tokens, heads, head_dim): the heads' outputs."""
    scale: Tensor | None
    """(tokens, hidden_size): what the norm behind attention, where there is one, has multiplied its output with."""


Visit = Callable[[Seen], "Tensor"]
"""What was seen of a layer -> scores (heads,) of the heads that are there."""


def _matched(seen: Seen, *, length: int, repeats: int) -> Tensor:
    total = torch.zeros(seen.rows.num_heads, device=seen.rows.device)
    for positions, rows in seen.rows.blocks(1 + length):
        for back in range(1, repeats):
            # The occurrence `back` copies ago; position 0 is the BOS, which is no occurrence of anything.
            earlier = positions - back * length
            followers = (earlier + 1).clamp(min=0).expand(len(rows), -1)[..., None]
            total += (rows.gather(2, followers).squeeze(2) * (earlier >= 1)).sum(1)
    return total / ((repeats - 1) * length)


def _copied(attention: _Rows, effect: Tensor) -> Tensor:
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


def _over_layers(trunk: Trunk, decoder: Places, tokens: list[int], visit: Visit) -> Tensor:
    """(layers, heads): `visit` called behind each layer of one forward pass, on that layer's own device."""
    scores = torch.zeros(decoder.num_hidden_layers, decoder.num_attention_heads)
    seen: dict[int, tuple[_Rows, Tensor]] = {}

    def handler(attention: Attention) -> Tensor:
        rows = _Rows(trunk, attention)
        outputs = rows.outputs().to(attention.values.dtype)
        seen[attention.layer] = rows, outputs
        return outputs[None]

    with trunk.watched(handler):
        stream, calls = trunk.embed(torch.tensor([tokens], device=input_device(trunk.model)), described=True)
        for layer in range(decoder.num_hidden_layers):
            with _normed(trunk, layer) as scales:
                stream = trunk.layer(layer, stream, calls)
            if kept := list(decoder.removed.kept_heads(layer)):
                scores[layer, kept] = visit(Seen(layer, *seen.pop(layer), scales[0] if scales else None)).cpu()
    return scores


@contextmanager
def _normed(trunk: Trunk, layer: int) -> Iterator[list[Tensor]]:
    """Collects what the norm behind a layer's attention multiplies with; nothing where there is none."""
    scales: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        scales.append((output / args[0])[0].nan_to_num())

    with ExitStack() as hooks:
        for norm in trunk.places.attention_norms_behind(layer):
            hooks.enter_context(norm.register_forward_hook(keep))
        yield scales


def _copied_by(trunk: Trunk, decoder: Places, tokens: list[int]) -> Tensor:
    """(layers, heads): the definition of Olsson et al."""
    reading = _reading(trunk, tokens)

    def visit(seen: Seen) -> Tensor:
        effect = _effect(decoder.head_outputs[seen.layer], reading, seen.outputs, seen.scale, with_bias=False)
        return _copied(seen.rows, trunk.finished(effect))

    return _over_layers(trunk, decoder, tokens, visit)


def _reading(trunk: Trunk, tokens: list[int]) -> Tensor:
    """(tokens, hidden_size): the directions in the residual stream that the tokens' logits read, without final norm."""
    with align_module_device(trunk.output_layer):
        reading = trunk.output_layer.weight[torch.tensor(tokens)].double()  # type: ignore[index]
    if trunk.project_out is not None:
        with align_module_device(trunk.project_out):
            reading = reading @ trunk.project_out.weight.to(reading)  # type: ignore[operator]
    return reading


def _effect(
    output_map: Any, reading: Tensor, outputs: Tensor, scale: Tensor | None = None, *, with_bias: bool
) -> Tensor:
    """(heads, tokens, tokens), float64: the logits of the sequence's tokens from each head's output at each position.

    outputs: (tokens, heads, head_dim); scale: (tokens, hidden_size), multiplied with what the map writes.
    """
    with align_module_device(output_map):
        reading = reading.to(outputs.device)
        weight = weight_of(output_map).to(reading).unflatten(-1, (-1, outputs.shape[-1]))
        if scale is None:
            effect = torch.einsum("qhd,thd->hqt", outputs.double(), torch.einsum("to,ohd->thd", reading, weight))
        else:
            written = torch.einsum("qhd,ohd->hqo", outputs.double(), weight)
            effect = written * scale.to(reading) @ reading.T
        if with_bias and output_map.bias is not None:
            effect = effect + reading @ output_map.bias.to(reading)
    return effect


def _copied_from_embeddings(trunk: Trunk, decoder: Places, tokens: list[int]) -> Tensor:
    """(layers, heads): the research code's variant, in which no layer sees what those below it wrote."""
    reading = _reading(trunk, tokens)
    scores = torch.zeros(decoder.num_hidden_layers, decoder.num_attention_heads)
    embeddings, calls = trunk.embed(torch.tensor([tokens], device=input_device(trunk.model)), described=True)
    for layer, output_map in enumerate(decoder.head_outputs):
        if output_map is None:
            continue
        rows = _Rows(trunk, trunk.attention(layer, embeddings, calls))
        effect = _effect(output_map, reading, rows.values.transpose(0, 1), with_bias=True)
        scores[layer, list(decoder.removed.kept_heads(layer))] = _copied(rows, trunk.finished(effect)).cpu()
    return scores


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
