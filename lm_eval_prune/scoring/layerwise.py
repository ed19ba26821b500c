"""One pack through any decoder's own layers, under many masks at once.

Masks that agree on the first layers share them. In the last layer with a head, keys and values are computed for all
tokens, and everything else for those that predict a continuation token; from there on nothing else is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lm_eval_prune.scoring.attending import Attending
from lm_eval_prune.scoring.attention import asked_calls, plan
from lm_eval_prune.scoring.output import OutputLayer
from lm_eval_prune.scoring.packing import Pack

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.attention import Attention, Handler
    from lm_eval_prune.decoders.forward import DecoderForward
    from lm_eval_prune.decoders.trunk import LayerCall
    from lm_eval_prune.masks import PruningMask

__all__ = ["LayerwiseRun"]


class LayerwiseRun:
    """What the masks of one pack share."""

    def __init__(self, model: DecoderForward, pack: Pack, masks: Sequence[PruningMask], output: OutputLayer) -> None:
        self.model, self.pack, self.masks, self.output = model, pack, masks, output
        calls = plan(pack, model.device.type)
        self.everywhere = Attending(pack, calls, np.arange(len(pack)))
        self.where_asked = Attending(pack, asked_calls(calls, pack.asked), pack.asked)
        self.last = [
            max((i for i in range(model.num_hidden_layers) if mask.kept_heads(i)), default=-1) for mask in masks
        ]
        self.log_likelihoods = np.empty((len(masks), len(pack.pair_starts)))
        self.greedy = np.empty((len(masks), len(pack.pair_starts)), dtype=bool)

    def answer(self) -> None:
        """Fill `log_likelihoods` and `greedy`."""
        ids, positions = (torch.from_numpy(part) for part in (self.pack.token_ids, self.pack.positions))
        ids, positions = ids.to(self.model.device), positions.to(self.model.device)
        asked = torch.from_numpy(self.pack.asked).to(self.model.device)
        stream, self.calls = self.model.embed(ids, positions)
        _, self.calls_where_asked = self.model.embed(ids[asked], positions[asked])
        self._descend(stream, 0, list(range(len(self.masks))), narrow=False)

    def _descend(self, stream: Tensor, layer: int, group: list[int], *, narrow: bool) -> None:
        """Take the masks `group`, which agree on all layers before `layer`, from there to their answers."""
        while layer < self.model.num_hidden_layers:
            *others, group = self._divided(layer, group)
            for part in others:
                self._descend(stream, layer, part, narrow=narrow)
            mask, last = self.masks[group[0]], self.last[group[0]]
            if layer > last and not narrow:
                stream, narrow = self._narrowed(stream), True
            with self.model.at_hand(layer):
                if layer == last:
                    stream, narrow = self._last(layer, stream, mask), True
                else:
                    calls: Sequence[LayerCall] = self.calls_where_asked if narrow else self.calls
                    attending = self.where_asked if narrow else self.everywhere
                    stream = self.model.layer(layer, stream, calls, mask, self._handler(attending, mask))
            layer += 1
        hidden = (stream if narrow else self._narrowed(stream))[0]
        self.log_likelihoods[group], self.greedy[group] = self.output.answers(hidden, self.pack)

    def _last(self, layer: int, stream: Tensor, mask: PruningMask) -> Tensor:
        """The narrow stream behind the last layer in which a head is kept."""
        whole = self.model.attention(layer, stream, self.calls, mask)
        handler = self._handler(self.where_asked, mask, whole)
        return self.model.layer(layer, self._narrowed(stream), self.calls_where_asked, mask, handler)

    def _handler(self, attending: Attending, mask: PruningMask, whole: Attention | None = None) -> Handler:
        """Attention under `mask`; keys and values of `whole`, or those that come with the queries."""

        def handler(attention: Attention) -> Tensor:
            there = self.model.removed.kept_heads(attention.layer)
            kept = mask.kept_heads(attention.layer)
            key_places = self.model.places.key_places(attention.layer)
            heads = [place for place, head in enumerate(there) if head in kept]
            if not heads:  # also where no token but the asked-for ones is there to attend to
                shape = attention.queries.shape
                return attention.values.new_zeros(1, shape[2], shape[1], attention.values.shape[-1])
            source = whole or attention
            return attending.outputs(
                attention, source.keys[0], source.values[0], heads, [key_places[place] for place in heads]
            )

        return handler

    def _divided(self, layer: int, group: list[int]) -> list[list[int]]:
        """`group` divided by what its masks do in `layer`, the largest part last."""
        parts: dict[object, list[int]] = {}
        for index in group:
            mask = self.masks[index]
            # Masks narrow at different layers: apart, so that a mask's sums do not depend on the masks beside it.
            ends = min(max(layer - self.last[index], -1), 1)
            parts.setdefault((mask.kept_heads(layer), layer in mask.pruned_ffns, ends), []).append(index)
        return sorted(parts.values(), key=len)

    def _narrowed(self, stream: Tensor) -> Tensor:
        return stream.index_select(1, torch.from_numpy(self.pack.asked).to(stream.device))


def _last_attention(mask: PruningMask) -> int:
    """The last layer in which a head is kept; -1 where none is."""
    return max((layer for layer in range(mask.num_hidden_layers) if mask.kept_heads(layer)), default=-1)
