"""The proof that a model of a family which no test holds is what its places say.

On the model's own weights and a short text, with sliding windows made shorter than it: its layers are its whole forward
pass; its attention, computed here, gives its own logits and goes straight into the output map; a layer adds nothing to
the residual stream but attention and FFN; one head masked is its output columns zeroed, one FFN masked is its last map
zeroed; and a pack of two texts that begin alike is those two texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from lm_eval_prune.decoders.attention import Attention, attended_densely, attending
from lm_eval_prune.decoders.lent import lent
from lm_eval_prune.decoders.maps import narrowed
from lm_eval_prune.decoders.places import out_dim
from lm_eval_prune.decoders.stages import Stage, divides
from lm_eval_prune.decoders.trunk import Trunk
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.text import message_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.decoders.places import Places

__all__ = ["require_proof"]

TOKENS, WINDOW = 24, 8
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference, relative to the largest number, that counts as equal."""

_refusals: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()


def require_proof(places: Places) -> None:
    """Raise UnsupportedModelError where a model that no test holds fails the proof; a model is proven once."""
    if places.family.proven or not places.removed.is_dense:  # compaction has asked of the original
        return
    model = places.model
    if model not in _refusals:
        _refusals[model] = None  # of what the proof itself asks for
        _refusals[model] = _refusal(places)
    if reason := _refusals[model]:
        raise UnsupportedModelError(f"{type(model).__name__}: not supported: {reason}")


def _refusal(places: Places) -> str | None:
    try:
        with torch.no_grad(), _evaluating(places.model), _short_windows(places):
            proof = _Proof(places)
            reason = proof.reason()
            divides[places.model] = reason is None and proof.divides()
            return reason
    except UnsupportedModelError as error:
        return str(error).removeprefix(f"{type(places.model).__name__}: ")
    except Exception as error:  # whatever a model of any shape raises when it is computed in pieces
        return f"it cannot be computed in pieces: {type(error).__name__}: {message_of(error)[:200]}"


class _Proof:
    def __init__(self, places: Places) -> None:
        self.places, self.model, self.trunk = places, places.model, Trunk(places.model)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, self.trunk.vocab_size, (2, TOKENS), generator=generator)
        ids[1, : TOKENS // 2] = ids[0, : TOKENS // 2]
        self.ids = ids.to(self.trunk.device)
        self.middle = places.num_hidden_layers // 2
        self.tolerance = TOLERANCES.get(self.model.dtype, 5e-2)

    def reason(self) -> str | None:
        expected = self._logits()
        if not self._equal(self.trunk.logits(self.trunk.run(self.ids)), expected):
            return "its layers are not its whole forward pass"
        for check in (self._attention, self._residual_stream, self._head, self._ffn, self._pack):
            if reason := check(expected):
                return reason
        return None

    def divides(self) -> bool:
        """Whether the first layer's halves, one after the other, are that layer to the last bit."""
        places = self.places
        if any(layer.down is None for layer in places.layers):
            return False
        dense = PruningMask.dense(places.num_hidden_layers, places.num_attention_heads)
        stream, calls = self.trunk.embed(self.ids, described=True)
        streams = []
        for stages in ([Stage(0)], [Stage(0, ffn=False), Stage(0, attention=False)]):
            found = stream
            for stage in stages:
                with narrowed(places, stage, dense), attending(places, self._attended):
                    found = self.trunk.layer(0, found, calls)
            streams.append(found)
        return torch.equal(*streams)

    def _logits(self) -> Tensor:
        return self.model(input_ids=self.ids, use_cache=False).logits

    def _equal(self, found: Tensor, expected: Tensor) -> bool:
        difference = (found.float() - expected.float().to(found.device)).abs().max()
        return bool(difference <= self.tolerance * (1 + expected.float().abs().max()))

    def _attention(self, expected: Tensor) -> str | None:
        """Its attention goes through the one function, and from there into the output map."""
        outputs: dict[int, Tensor] = {}
        entered: dict[int, Tensor] = {}

        def handler(attention: Attention) -> Tensor:
            output = self._attended(attention)
            outputs[attention.layer] = output.flatten(2)
            return output

        with ExitStack() as hooks, attending(self.places, handler):
            for index, layer in enumerate(self.places.layers):
                note = lambda module, args, index=index: entered.update({index: args[0]})  # noqa: E731
                hooks.callback(layer.output.register_forward_pre_hook(note).remove)
            found = self._logits()
        if len(outputs) < self.places.num_hidden_layers:
            return "its attention does not go through transformers' AttentionInterface in every layer"
        if not self._equal(found, expected):
            return "its attention is not softmax(queries . keys) . values of what it says"
        if not all(self._equal(entered[index].view_as(each), each) for index, each in outputs.items()):
            return "something stands between its heads and their output map"
        return None

    def _attended(self, attention: Attention, seen: Tensor | None = None) -> Tensor:
        count = attention.queries.shape[2]
        if attention.queries.shape[1] != self.places.num_attention_heads:
            raise UnsupportedModelError("its attention has another number of heads than its configuration")
        back = torch.arange(count)[:, None] - torch.arange(count)
        if seen is None:
            seen = (back >= 0) & (back < (attention.window or count))
        return attended_densely(attention, seen.to(attention.queries.device))

    def _residual_stream(self, expected: Tensor) -> str | None:
        stream, calls = self.trunk.embed(self.ids)
        for index, layer in enumerate(self.places.layers):
            outputs = layer.output

            def nothing(inputs: Tensor, module: Any = outputs) -> Tensor:
                return inputs.new_zeros(*inputs.shape[:-1], module.weight.shape[out_dim(module)])

            with lent([(outputs, nothing)]), _hooked(layer.added):
                if not self._equal(self.trunk.layer(index, stream, calls), stream):
                    return f"layer {index} changes the residual stream by more than attention and FFN"
            stream = self.trunk.layer(index, stream, calls)
        return None

    def _head(self, expected: Tensor) -> str | None:
        module: Any = self.places.layers[self.middle].output
        if module.weight.is_meta:  # offloaded: it cannot be edited here
            return None
        width, head = self.places.head_dim, self.places.num_attention_heads - 1
        columns = slice(head * width, (head + 1) * width)

        with _headless(module, columns):
            found = self._logits()
        weight = module.weight.detach().clone()
        try:
            module.weight.narrow(1 - out_dim(module), columns.start, width).zero_()
            edited = self._logits()
        finally:
            module.weight.copy_(weight)
        return None if self._equal(found, edited) else "a masked head is not its output columns zeroed"

    def _ffn(self, expected: Tensor) -> str | None:
        layer = self.places.layers[self.middle]
        if layer.down is None or layer.down.weight.is_meta:  # a mixture of experts ends with no one map
            return None
        with _hooked(layer.added):
            found = self._logits()
        parameters = {name: each.detach().clone() for name, each in layer.down.named_parameters()}
        try:
            for _, each in layer.down.named_parameters():
                each.zero_()
            edited = self._logits()
        finally:
            for name, each in layer.down.named_parameters():
                each.copy_(parameters[name])
        return None if self._equal(found, edited) else "a masked FFN is not its last map zeroed"

    def _pack(self, expected: Tensor) -> str | None:
        """Two texts that begin alike, as one sequence, without a head and an FFN, are the two with both masked."""
        places, half = self.places, TOKENS // 2
        mask = PruningMask(
            num_hidden_layers=places.num_hidden_layers,
            num_attention_heads=places.num_attention_heads,
            pruned_heads={self.middle: (0,)},
            pruned_ffns=(self.middle,),
        )
        ids = torch.cat([self.ids[0], self.ids[1, half:]])
        positions = torch.cat([torch.arange(TOKENS), torch.arange(half, TOKENS)])
        index = torch.arange(len(ids))
        second = index >= TOKENS
        seen = (index[:, None] >= index) & ((second[:, None] == second) | (index < half))
        back = positions[:, None] - positions

        def handler(attention: Attention) -> Tensor:
            output = self._attended(attention, seen & (back < (attention.window or len(ids))))
            if attention.layer == self.middle:
                output[:, :, 0] = 0
            return output

        stream, calls = self.trunk.embed(ids[None], positions[None].to(ids.device), described=True)
        for number in range(places.num_hidden_layers):
            with narrowed(places, Stage(number), mask), attending(places, handler):
                stream = self.trunk.layer(number, stream, calls)
        found = self.trunk.logits(stream)[0]
        layer = places.layers[self.middle]
        with _headless(layer.output, slice(0, places.head_dim)), _hooked(layer.added):
            plain = self._logits()
        if self._equal(found[:TOKENS], plain[0]) and self._equal(found[TOKENS:], plain[1, half:]):
            return None
        return "two texts that share their beginning are not computed as the two apart"


@contextmanager
def _headless(output: Any, columns: slice) -> Iterator[None]:
    """Inside, some columns of what an output map reads are zero."""

    def zeroed(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs = args[0].clone()
        inputs[..., columns] = 0
        return (inputs, *args[1:])

    handle = output.register_forward_pre_hook(zeroed)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _hooked(added: Any) -> Iterator[None]:
    """Inside, `added` adds nothing."""

    def nothing(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    handle = added.register_forward_hook(nothing)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _short_windows(places: Places) -> Iterator[None]:
    """Inside, sliding windows are shorter than the proof's text."""
    attentions = [layer.attention for layer in places.layers]
    before = [
        (each, each.sliding_window)
        for each in (*places.configurations, *attentions)
        if isinstance(getattr(each, "sliding_window", None), int)
    ]
    try:
        for each, _ in before:
            each.sliding_window = WINDOW
        yield
    finally:
        for each, window in before:
            each.sliding_window = window
