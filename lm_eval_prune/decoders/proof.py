"""The proof that a model of a family which no test holds is what its places say.

On the model's own weights and a short text, with sliding windows made shorter than it. To be masked: its layers are its
whole forward pass, and causal; what its output map reads of a head comes of that head's queries and its group's keys
and values alone; a layer adds nothing to the residual stream but attention and FFN; one head masked is its output
columns zeroed, one FFN masked is its last map zeroed. To be packed, and for all that reads attention: attention
computed here gives its own logits; and a pack of two texts that begin alike is those two texts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders.attention import Attention, attending
from lm_eval_prune.decoders.family import submodule
from lm_eval_prune.decoders.findings import Findings, findings
from lm_eval_prune.decoders.lent import emptied, evaluating, lent
from lm_eval_prune.decoders.maps import narrowed
from lm_eval_prune.decoders.places import out_dim
from lm_eval_prune.decoders.slices import parts_of
from lm_eval_prune.decoders.specimen import TOKENS, Specimen, read_by, short_windows, without_ffn, without_head
from lm_eval_prune.decoders.stages import Stage
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.text import described

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.decoders.places import Places

__all__ = ["require_proof", "why_unpacked"]

MIXED = "what its output map reads of one head depends on the others: something mixes them"


def require_proof(places: Places) -> None:
    """Raise UnsupportedModelError where a model that no test holds fails the proof; a model is proven once."""
    if reason := _found(places).refusal:
        raise UnsupportedModelError(f"{type(places.model).__name__}: not supported: {reason}")


def why_unpacked(places: Places) -> str | None:
    """Why texts cannot be packed for a model; None where they can. Raises as `require_proof`."""
    require_proof(places)
    return _found(places).unpacked


def _found(places: Places) -> Findings:
    if places.is_proven or not places.removed.is_dense:  # compaction has asked of the original
        return Findings()
    model = places.model
    if model not in findings:
        findings[model] = Findings(unwatched="not tried yet")  # of what the proof itself asks for
        try:
            with torch.no_grad(), evaluating(model), short_windows(places):
                findings[model] = _Proof(places).findings()
        except UnsupportedModelError as error:
            findings[model] = Findings(str(error).removeprefix(f"{type(model).__name__}: "))
        except Exception as error:  # whatever a model of any shape raises when it is computed in pieces
            findings[model] = Findings(f"it cannot be computed in pieces: {described(error, width=200)}")
    return findings[model]


class _Proof(Specimen):
    def findings(self) -> Findings:
        expected = self.logits()
        if not self.equal(self.trunk.logits(self.trunk.run(self.ids)), expected):
            return Findings("its layers are not its whole forward pass")
        if not self._is_causal(expected):
            return Findings("it is not causal: a token is computed from those behind it (an encoder? is_decoder says)")
        unwatched = self._tried(partial(self._attention, expected))
        heads = self._rows if unwatched else self._separate
        for check in (heads, self._residual_stream, self._head, self._ffn):
            if reason := check():
                return Findings(reason)
        findings[self.model] = Findings(unwatched=unwatched)
        unpacked = unwatched or self._tried(self._pack)
        return Findings(None, unwatched, unpacked, unpacked is None and self.divides())

    def _tried(self, check: Callable[[], str | None]) -> str | None:
        """The reason that `check` gives, or what it raises."""
        try:
            return check()
        except UnsupportedModelError as error:
            return str(error).removeprefix(f"{type(self.model).__name__}: ")
        except Exception as error:  # of a model whose attention is called in a way of its own
            return f"its attention cannot be computed apart: {described(error, width=200)}"

    def _is_causal(self, expected: Tensor) -> bool:
        ids = self.ids.clone()
        ids[:, -1] = ids[:, 0]
        return self.equal(self.model(input_ids=ids, use_cache=False).logits[:, :-1], expected[:, :-1])

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
                with narrowed(places, stage, dense), attending(places, self.attended):
                    found = self.trunk.layer(0, found, calls)
            streams.append(found)
        return torch.equal(*streams)

    def _attention(self, expected: Tensor) -> str | None:
        """Its attention goes through the one function, which computes what it does."""
        layers = set()

        def handler(attention: Attention) -> Tensor:
            layers.add(attention.layer)
            return self.attended(attention)

        with attending(self.places, handler):
            found = self.logits()
        if len(layers) < self.places.num_hidden_layers:
            return "its attention does not go through transformers' AttentionInterface in every layer"
        if not self.equal(found, expected):
            return "its attention is not softmax(queries . keys) . values of what it says"
        return None

    def _separate(self) -> str | None:
        """Without one head's output, its output map reads zeros there and nothing else is changed."""
        head, columns = self.one_head()
        read = []
        for without in (False, True):

            def handler(attention: Attention, without: bool = without) -> Tensor:
                output = self.attended(attention)
                if without and attention.layer == self.middle:
                    output[:, :, head] = 0
                return output

            with attending(self.places, handler), read_by(self.places.layers[self.middle].output) as inputs:
                self.logits()
            read.append(inputs[0])
        whole, without_head = read
        whole = whole.clone()
        whole[..., columns] = 0
        return None if self.equal(without_head, whole) else MIXED

    def _rows(self) -> str | None:
        """What the output map reads of a head has a gradient in those outputs alone that its parts say are its own."""
        places, layer = self.places, self.places.layers[self.middle]
        stream, calls = self.trunk.embed(self.ids[:1])
        for index in range(self.middle):
            stream = self.trunk.layer(index, stream, calls)
        maps = {path: submodule(layer.module, path) for path in self._maps()}
        made: dict[str, Tensor] = {}
        with ExitStack() as hooks, torch.enable_grad(), read_by(layer.output) as inputs:
            for path, module in maps.items():

                def keep(module: nn.Module, args: Any, output: Tensor, path: str = path) -> Tensor:
                    made[path] = output.detach().requires_grad_()
                    return made[path]

                hooks.enter_context(module.register_forward_hook(keep))
            self.trunk.layer(self.middle, stream, calls)
            if not inputs or len(made) < len(maps):
                return "its attention is not made of its maps to queries, keys and values"
            heads = inputs[0].flatten(0, -2).unflatten(-1, (places.num_attention_heads, places.head_dim))
            for head in range(places.num_attention_heads):
                ours = torch.autograd.grad(heads[:, head].square().sum(), list(made.values()), retain_graph=True)
                for path, gradient in zip(made, ours, strict=True):
                    touched = (gradient.flatten(0, -2).abs().amax(0) > 0).cpu()
                    if (touched & ~self._own_rows(path, head, len(touched))).any():
                        return MIXED
                if not any(bool(gradient.any()) for gradient in ours):
                    return "its output map does not read what its maps to queries, keys and values make"
        return None

    def _maps(self) -> list[str]:
        family = self.places.family
        return [path for path in (family.queries, family.keys, family.values) if path]

    def _own_rows(self, path: str, head: int, width: int) -> Tensor:
        rows = torch.zeros(width, dtype=torch.bool)
        for part in parts_of(self.places, self.middle):
            if part.name == f"{path}.weight" and head in part.serves:
                rows[part.start : part.stop] = True
        return rows

    def _residual_stream(self) -> str | None:
        stream, calls = self.trunk.embed(self.ids)
        norms = self.places.family.norms_in_stream
        for index, layer in enumerate(self.places.layers):
            outputs = layer.output

            def nothing(inputs: Tensor, module: Any = outputs) -> Tensor:
                return inputs.new_zeros(*inputs.shape[:-1], module.weight.shape[out_dim(module)])

            in_stream = (submodule(layer.module, path) for paths in norms for path in paths)
            passed = [(norm, lambda hidden: hidden) for norm in in_stream if norm is not None]
            with lent([(outputs, nothing), *passed]), without_ffn(layer):
                if not self.equal(self.trunk.layer(index, stream, calls), stream):
                    return f"layer {index} changes the residual stream by more than attention and FFN"
            stream = self.trunk.layer(index, stream, calls)
        return None

    def _head(self) -> str | None:
        places = self.places
        module: Any = places.layers[self.middle].output
        if module.weight.is_meta:  # offloaded: it cannot be edited here
            return None
        head, columns = self.one_head()
        with without_head(places, self.middle, head):
            found = self.logits()
        with emptied(module.weight.narrow(1 - out_dim(module), columns.start, places.head_dim)):
            edited = self.logits()
        return None if self.equal(found, edited) else "a masked head is not its output columns zeroed"

    def _ffn(self) -> str | None:
        layer = self.places.layers[self.middle]
        if layer.down is None or layer.down.weight.is_meta:  # a mixture of experts ends with no one map
            return None
        with without_ffn(layer):
            found = self.logits()
        with emptied(*layer.down.parameters()):
            edited = self.logits()
        return None if self.equal(found, edited) else "a masked FFN is not its last map zeroed"

    def _pack(self) -> str | None:
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
            output = self.attended(attention, seen & (back < (attention.window or len(ids))))
            if attention.layer == self.middle:
                output[:, :, 0] = 0
            return output

        stream, calls = self.trunk.embed(ids[None], positions[None].to(ids.device), described=True)
        for number in range(places.num_hidden_layers):
            with narrowed(places, Stage(number), mask), attending(places, handler):
                stream = self.trunk.layer(number, stream, calls)
        found = self.trunk.logits(stream)[0]
        layer = places.layers[self.middle]
        with without_head(places, self.middle, 0), without_ffn(layer):
            plain = self.logits()
        if self.equal(found[:TOKENS], plain[0]) and self.equal(found[TOKENS:], plain[1, half:]):
            return None
        return "two texts that share their beginning are not computed as the two apart"
