"""The forward pass of a causal language model in pieces, each computed by the model itself.

The pieces come out of the model's own `forward`, in which its layers are lent out for a moment: to find what each layer
is called with they hand on what they were given, and to have logits made of a residual stream the last of them hands
out that stream. So embeddings, positions, masks, the last norm, and whatever a model does to its logits, are computed
by the model, and nothing of it is written again here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from lm_eval_prune.decoders.attention import Attention, Handler, attending
from lm_eval_prune.decoders.family import length_dependent, submodule, text_config
from lm_eval_prune.decoders.findings import findings
from lm_eval_prune.decoders.lent import lent
from lm_eval_prune.decoders.maps import idle
from lm_eval_prune.decoders.places import Places, places_of
from lm_eval_prune.decoders.stages import Stage, stages_of
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.text import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.masks import PruningMask
    from lm_eval_prune.means import Means

__all__ = ["LayerCall", "Trunk", "cache_argument"]


class LayerCall(NamedTuple):
    """What a layer is called with beside the residual stream."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Trunk:
    """The pieces of one causal language model: `embed`, each `layer` in turn and `logits` are its forward pass."""

    def __init__(self, model: nn.Module) -> None:
        """Raises UnsupportedModelError, also for a model without an output layer."""
        self.places: Places = places_of(model)
        self.model: Any = self.places.model
        self.layers: tuple[nn.Module, ...] = tuple(layer.module for layer in self.places.layers)
        output_layer = self.model.get_output_embeddings()
        if output_layer is None:
            raise UnsupportedModelError(f"{type(model).__name__} has no output layer; expected a causal language model")
        self.output_layer: nn.Module = output_layer
        """Maps to logits over the vocabulary."""
        self.project_out: nn.Module | None = submodule(self.places.base, self.places.family.project_out or "-")
        """Between the residual stream and the output layer where their widths differ, without any norm."""
        config = text_config(self.model.config)
        self.hidden_size: int = config.hidden_size
        self.first_position: int = _first_position(self.places.base)
        """What the model calls the position of the first token."""
        longest = getattr(config, "max_position_embeddings", None) or sys.maxsize
        self.max_length: int = longest - self.first_position
        """Longest input in tokens."""
        self.vocab_size: int = config.vocab_size

    def embed(
        self, input_ids: Tensor, positions: Tensor | None = None, *, described: bool = False
    ) -> tuple[Tensor, list[LayerCall]]:
        """Token ids (batch, tokens) -> the stream that enters layer 0, and what each layer is called with beside it.

        `positions` are of the same shape; by default 0, 1, 2, ... `described` is for layers that run while `attending`
        lasts: attention masks are then descriptions, not tensors.
        """
        if described:
            with attending(self.places, _never):
                return self.embed(input_ids, positions)
        in_tuples = _in_tuples.get(type(self.layers[0]), False)
        stream, calls, consistent = self._embedded(input_ids, positions, in_tuples)
        if not consistent:
            in_tuples = not in_tuples
            stream, calls, consistent = self._embedded(input_ids, positions, in_tuples)
        if not consistent:
            raise UnsupportedModelError(f"{type(self.model).__name__}: its layers are not called one after another")
        _in_tuples[type(self.layers[0])] = in_tuples
        return stream, calls

    def _embedded(
        self, input_ids: Tensor, positions: Tensor | None, in_tuples: bool
    ) -> tuple[Tensor, list[LayerCall], bool]:
        streams: list[Tensor] = []
        calls: list[LayerCall] = []

        def noted(*args: Any, **kwargs: Any) -> Any:
            stream = args[0] if args else kwargs.pop("hidden_states")
            streams.append(stream)
            calls.append(LayerCall(args[1:], kwargs))
            if len(calls) == len(self.layers):
                raise _Entered
            return (stream,) if in_tuples else stream

        try:
            with lent((layer, noted) for layer in self.layers):
                self.model(
                    input_ids=input_ids,
                    use_cache=False,
                    **({} if positions is None else {"position_ids": positions + self.first_position}),
                )
        except _Entered:
            pass
        except (IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            if len(calls) < 1:  # not for want of the right kind of output
                raise
            if in_tuples:
                raise UnsupportedModelError(
                    f"{type(self.model).__name__}: its layers hand on more than the residual stream: {one_line(error)}"
                ) from error
            return streams[0], calls, False
        return streams[0], calls, len(calls) == len(self.layers) and all(each is streams[0] for each in streams)

    def layer(self, index: int, stream: Tensor, calls: Sequence[LayerCall]) -> Tensor:
        """The residual stream (batch, tokens, hidden_size) behind layer `index`; `calls` are from `embed`."""
        call = calls[index]
        output = self.layers[index](stream, *call.args, **call.kwargs)
        return output[0] if isinstance(output, (tuple, list)) else output

    def batch_size(self, asked: int) -> int:
        """How many texts may be padded to one length: `asked`, or 1 where each one's positions depend on that."""
        return 1 if asked > 1 and length_dependent(self.model.config) else asked

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What the layers consist of, in the order in which a token passes it."""
        return stages_of(self.places)

    def stage(
        self,
        stage: Stage,
        stream: Tensor,
        calls: Sequence[LayerCall],
        mask: PruningMask,
        means: Means | None = None,
    ) -> Tensor:
        """The residual stream behind `stage`: one after the other, to the last bit what the layers give.

        FFNs that `mask` prunes are left out, or give their `means`; heads are for `masked` to prune.
        """
        with lent(idle(self.places, stage, mask, means)):
            return self.layer(stage.layer, stream, calls)

    def attention(self, index: int, stream: Tensor, calls: Sequence[LayerCall]) -> Attention:
        """What layer `index`, which has heads, attends with; nothing behind that is computed."""
        seen: list[Attention] = []

        def stop(attention: Attention) -> Tensor:
            seen.append(attention)
            raise _Entered

        try:
            with self.watched(stop):
                self.layer(index, stream, calls)
        except _Entered:
            pass
        return seen[0]

    def watched(self, handler: Handler) -> AbstractContextManager[None]:
        """A block in which attention is `handler`'s. Raises UnsupportedModelError where the proof found that no handler
        can compute it."""
        if (found := findings.get(self.model)) is not None and found.unwatched:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: what its heads attend to cannot be told: {found.unwatched}"
            )
        return attending(self.places, handler)

    def run(self, input_ids: Tensor) -> Tensor:
        """Token ids (batch, tokens) -> the residual stream behind the last layer."""
        stream, calls = self.embed(input_ids)
        for index in range(len(self.layers)):
            stream = self.layer(index, stream, calls)
        return stream

    def logits(self, stream: Tensor, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The residual stream (batch, tokens, hidden_size) behind the last layer -> logits (batch, tokens, vocab_size).

        With `select`, only what it makes of the output layer's input, (n, width), goes through that: (n, vocab_size).
        """
        if select is None:
            return self._finished(stream)
        with self.output_layer.register_forward_pre_hook(lambda module, args: (select(args[0]),)):
            return self._finished(stream)

    def finished(self, raw: Tensor) -> Tensor:
        """What the model makes of the output layer's own numbers: scales and caps, element by element; any shape."""
        flat = raw.reshape(1, 1, -1)
        with lent([(self.output_layer, lambda *args, **kwargs: flat)]):
            weight = next(self.output_layer.parameters())
            stream = torch.zeros(1, 1, self.hidden_size, dtype=self.model.dtype, device=_device(weight, raw))
            return self._finished(stream).view(raw.shape)

    def _finished(self, stream: Tensor) -> Tensor:
        in_tuples = _in_tuples.get(type(self.layers[0]), False)

        def handed(*args: Any, **kwargs: Any) -> Any:
            return (stream,) if in_tuples else stream

        ids = torch.zeros(stream.shape[:2], dtype=torch.long, device=self.device)
        # Positions that every model has: as many tokens as there are predictions may be more than it reads.
        positions = {"position_ids": torch.zeros_like(ids)} if "position_ids" in _arguments(self.model) else {}
        found = findings.get(self.model)
        watched = found is None or not found.unwatched
        unmasked = attending(self.places, _never) if watched else nullcontext()  # masks, which nobody reads, take long
        with lent((layer, handed) for layer in self.layers), unmasked:
            return self.model(input_ids=ids, use_cache=False, **positions).logits

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        from lm_eval_prune.decoders import input_device

        return input_device(self.model)


class _Entered(Exception):  # noqa: N818 - no error: a way out of a forward pass that has done its part
    """Ends a forward pass at the door of the last layer, or of a layer's attention."""


_in_tuples: dict[type, bool] = {}
"""Class of layer -> whether it returns its stream in a tuple."""


def _arguments(model: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(model.forward).parameters


def cache_argument(model: Any) -> str:
    """What this model calls its key-value cache; versions of transformers differ."""
    return "cache" if "cache" in _arguments(model) else "past_key_values"


def _first_position(base: Any) -> int:
    """RoBERTa and its kin count positions from the number behind the padding's."""
    embeddings: Any = getattr(base, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids") and isinstance(embeddings.padding_idx, int):
        return embeddings.padding_idx + 1
    return 0


def _never(*args: Any) -> Any:
    raise AssertionError("attention was asked for while all layers were lent out")


def _device(weight: Tensor, otherwise: Tensor) -> torch.device:
    return otherwise.device if weight.is_meta else weight.device
