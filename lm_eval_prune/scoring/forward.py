"""One pack through a decoder's own layers, under many masks at once.

Stage by stage over the whole pack, a stage being a layer's attention, its FFN, or both where the layer cannot be
divided: keys and values live for one layer only, and every document of the pack reads those of the beginning that it
shares with others. Masks that agree on the first stages share them. In the last stage with a head, keys and values are
computed for all tokens, and everything else for those that predict a continuation token; from there on nothing else is
computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lm_eval_prune.budget import slice_rows
from lm_eval_prune.scoring.attending import Attending
from lm_eval_prune.scoring.attention import asked_calls, plan
from lm_eval_prune.scoring.output import OutputLayer
from lm_eval_prune.scoring.packing import Pack

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.attention import Attention, Handler
    from lm_eval_prune.decoders.forward import DecoderForward
    from lm_eval_prune.decoders.stages import Stage
    from lm_eval_prune.masks import PruningMask

__all__ = ["answer_pack"]


def answer_pack(
    model: DecoderForward, pack: Pack, masks: Sequence[PruningMask], output: OutputLayer, flex: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """[masks, requests] of `pack`: the log-likelihood, float64, and whether every continuation token is the likeliest.

    `flex`: attention is PyTorch's flex attention.
    """
    run = _Run(model, pack, masks, output, flex)
    with torch.no_grad():
        run.answer()
    return run.log_likelihoods, run.greedy


class _Run:
    """What the masks of one pack share. Streams are [1, N, hidden_size], or [1, S, hidden_size] where they are narrow:
    only the asked-for tokens are left, and no attention to come needs the others."""

    def __init__(
        self, model: DecoderForward, pack: Pack, masks: Sequence[PruningMask], output: OutputLayer, flex: bool
    ) -> None:
        self.model, self.pack, self.masks, self.output = model, pack, masks, output
        calls = plan(pack)
        self.everywhere = Attending(pack, calls, np.arange(len(pack)), flex=flex)
        self.where_asked = Attending(pack, asked_calls(calls, pack.asked), pack.asked, flex=flex)
        self.last_attention = [_last_attention(mask, model.stages) for mask in masks]
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

    def _descend(self, stream: Tensor, place: int, group: list[int], *, narrow: bool) -> None:
        """Take the masks `group`, which agree on all stages before the one at `place`, from there to their answers.

        The largest part of a group that divides goes last: so at most log2(masks) streams live beside its own.
        """
        while place < len(self.model.stages):
            *others, group = self._divided(place, group)
            for part in others:
                self._descend(stream, place, part, narrow=narrow)
            mask, last = self.masks[group[0]], self.last_attention[group[0]]
            if place > last and not narrow:
                stream, narrow = self._narrowed(stream), True
            stage = self.model.stages[place]
            with self.model.at_hand(stage, mask):
                if place == last:
                    stream, narrow = self._last(stage, stream, mask), True
                else:
                    stream = self._run(stage, stream, mask, narrow=narrow)
            place += 1
        hidden = (stream if narrow else self._narrowed(stream))[0]
        self.log_likelihoods[group], self.greedy[group] = self.output.answers(hidden, self.pack)

    def _last(self, stage: Stage, stream: Tensor, mask: PruningMask) -> Tensor:
        """The narrow stream behind the last stage in which a head is kept."""
        whole = self.model.attention(stage.layer, stream, self.calls, mask)
        return self._run(stage, self._narrowed(stream), mask, narrow=True, whole=whole)

    def _run(
        self, stage: Stage, stream: Tensor, mask: PruningMask, *, narrow: bool, whole: Attention | None = None
    ) -> Tensor:
        calls = self.calls_where_asked if narrow else self.calls
        attending = self.where_asked if narrow else self.everywhere
        handler = self._handler(attending, mask, whole)
        rows = slice_rows(stream.device.type)
        return self.model.run(stage, stream, calls, mask, handler, rows=rows, keys=whole is None)

    def _handler(self, attending: Attending, mask: PruningMask, whole: Attention | None) -> Handler:
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

    def _divided(self, place: int, group: list[int]) -> list[list[int]]:
        """`group` divided by what its masks do at `place`, the largest part last."""
        stage = self.model.stages[place]
        parts: dict[object, list[int]] = {}
        for index in group:
            # Masks narrow at different stages: apart, so that a mask's sums do not depend on the masks beside it.
            ends = min(max(place - self.last_attention[index], -1), 1)
            parts.setdefault((stage.done(self.masks[index]), ends), []).append(index)
        return sorted(parts.values(), key=len)

    def _narrowed(self, stream: Tensor) -> Tensor:
        return stream.index_select(1, torch.from_numpy(self.pack.asked).to(stream.device))


def _last_attention(mask: PruningMask, stages: Sequence[Stage]) -> int:
    """The place of the last stage in which a head is kept; -1 where none is."""
    return max((place for place, stage in enumerate(stages) if stage.done(mask)[0]), default=-1)
