"""One pack through the layers, under many masks at once.

Layer by layer over the whole pack: keys and values live for one layer only, and every document of the pack reads those
of the beginning that it shares with others. What comes behind keys and values goes through a layer a slice of tokens at
a time. Masks that agree on the first components share the computation up to the first that they do not agree on. From
the last attention on, only the tokens that predict a continuation token are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from lm_eval_prune.budget import slice_rows
from lm_eval_prune.decoders.opt_forward import OPTForward
from lm_eval_prune.scoring.attention import AttentionCall, allowed, asked_calls, plan
from lm_eval_prune.scoring.layerwise import LayerwiseRun
from lm_eval_prune.scoring.output import OutputLayer
from lm_eval_prune.scoring.packing import Pack

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.forward import DecoderForward
    from lm_eval_prune.masks import PruningMask

__all__ = ["PackAnswers", "answer_pack"]


@dataclass(frozen=True)
class PackAnswers:
    """Per mask and request of a pack."""

    log_likelihoods: np.ndarray
    """float64 [masks, requests]"""
    greedy: np.ndarray
    """bool [masks, requests]: every continuation token is the likeliest."""


def answer_pack(
    model: OPTForward | DecoderForward, pack: Pack, masks: Sequence[PruningMask], output: OutputLayer
) -> PackAnswers:
    """The answers to all requests of `pack` under each mask."""
    run: _Run | LayerwiseRun
    with torch.no_grad():
        if isinstance(model, OPTForward):
            run = _Run(model, pack, masks, output)
            run.descend(run.embedded(), 0, list(range(len(masks))))
        else:
            run = LayerwiseRun(model, pack, masks, output)
            run.answer()
    return PackAnswers(run.log_likelihoods, run.greedy)


@dataclass
class _Attending:
    """The attention calls of some rows of a pack, with their masks once these have been made."""

    pack: Pack
    calls: list[AttentionCall]
    tokens: np.ndarray
    """The pack's token of every query row."""
    masks: dict[tuple[int, torch.device, torch.dtype], Tensor] = field(default_factory=dict)

    def mask(self, index: int, like: Tensor) -> Tensor:
        """Zero or minus infinity [queries, keys] of call `index`, to be added."""
        key = (index, like.device, like.dtype)
        if key not in self.masks:
            call = self.calls[index]
            seen = torch.from_numpy(allowed(self.pack, self.tokens[slice(*call.queries)], call.keys)).to(like.device)
            self.masks[key] = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(
                ~seen, -torch.inf
            )
        return self.masks[key]

    def slices(self, rows: int) -> Iterator[tuple[slice, list[int]]]:
        """Runs of neighbouring calls with at most `rows` query rows, or a single call: (query rows, calls)."""
        run: list[int] = []
        for index, call in enumerate(self.calls):
            if run and call.queries[1] - self.calls[run[0]].queries[0] > rows:
                yield self._rows(run), run
                run = []
            run.append(index)
        if run:
            yield self._rows(run), run

    def _rows(self, run: list[int]) -> slice:
        return slice(self.calls[run[0]].queries[0], self.calls[run[-1]].queries[1])

    def attended(self, run: list[int], queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The attention output of a run's query rows, [rows, heads, head_dim]; keys and values are the pack's."""
        outputs, before = torch.empty_like(queries), self.calls[run[0]].queries[0]
        for index in run:
            call = self.calls[index]
            rows = slice(call.queries[0] - before, call.queries[1] - before)
            attended = F.scaled_dot_product_attention(
                queries[rows].transpose(0, 1)[None],
                _gathered(keys, call).transpose(0, 1)[None],
                _gathered(values, call).transpose(0, 1)[None],
                attn_mask=None if call.causal else self.mask(index, queries),
                is_causal=call.causal,
                scale=1.0,
            )
            outputs[rows] = attended[0].transpose(0, 1)
        return outputs


@dataclass
class _Stream:
    """The residual stream between two stages of the model."""

    hidden: Tensor
    """[N, hidden_size], or [S, hidden_size] where it is narrow."""
    narrow: bool = False
    """Only the asked-for tokens are left: no attention to come needs the others."""

    def copy(self) -> _Stream:
        return _Stream(self.hidden.clone(), self.narrow)


class _Run:
    """What the masks of one pack share. Stage 2 l of the model is layer l's attention, stage 2 l + 1 its FFN."""

    def __init__(self, model: OPTForward, pack: Pack, masks: Sequence[PruningMask], output: OutputLayer) -> None:
        self.model, self.pack, self.masks, self.output = model, pack, masks, output
        calls = plan(pack, model.device.type)
        self.everywhere = _Attending(pack, calls, np.arange(len(pack)))
        self.where_asked = _Attending(pack, asked_calls(calls, pack.asked), pack.asked)
        self.log_likelihoods = np.empty((len(masks), len(pack.pair_starts)))
        self.greedy = np.empty((len(masks), len(pack.pair_starts)), dtype=bool)
        self.kept_heads = [[_kept_heads(mask, layer) for layer in range(mask.num_hidden_layers)] for mask in masks]
        self.last_attention = [_last_attention(kept) for kept in self.kept_heads]

    def embedded(self) -> _Stream:
        ids, positions = (torch.from_numpy(part) for part in (self.pack.token_ids, self.pack.positions))
        return _Stream(self.model.embed(ids.to(self.model.device), positions.to(self.model.device)))

    def descend(self, stream: _Stream, stage: int, group: list[int]) -> None:
        """Take the masks `group`, which agree on all stages before `stage`, from there to their answers.

        The largest part of a group that divides goes last, on the stream itself: so at most log2(masks) copies live.
        """
        while stage < 2 * self.model.num_hidden_layers:
            *others, group = self._divided(stage, group)
            for part in others:
                self.descend(stream.copy(), stage, part)
            last = self.last_attention[group[0]]
            if stage > last:
                stream = self._narrowed(stream)
            layer, is_ffn = divmod(stage, 2)
            pruned = layer in self.masks[group[0]].pruned_ffns
            with self.model.at_hand(layer, ffn=bool(is_ffn), pruned=pruned):
                if is_ffn:
                    self._ffn(layer, stream, pruned=pruned)
                else:
                    stream = self._attention(layer, stream, self.kept_heads[group[0]][layer], only_asked=stage == last)
            stage += 1
        answers = self.output.answers(self._narrowed(stream).hidden, self.pack)
        self.log_likelihoods[group], self.greedy[group] = answers

    def _divided(self, stage: int, group: list[int]) -> list[list[int]]:
        """`group` divided by what its masks do at `stage`, the largest part last."""
        layer, is_ffn = divmod(stage, 2)
        parts: dict[object, list[int]] = {}
        for index in group:
            does = layer in self.masks[index].pruned_ffns if is_ffn else self.kept_heads[index][layer]
            # Masks narrow at different stages: apart, so that a mask's sums do not depend on the masks beside it.
            ends = stage - self.last_attention[index]
            parts.setdefault((does, min(max(ends, -1), 1)), []).append(index)
        return sorted(parts.values(), key=len)

    def _narrowed(self, stream: _Stream) -> _Stream:
        if stream.narrow:
            return stream
        asked = torch.from_numpy(self.pack.asked).to(stream.hidden.device)
        return _Stream(stream.hidden.index_select(0, asked), narrow=True)

    def _ffn(self, layer: int, stream: _Stream, *, pruned: bool) -> None:
        stream.hidden = stream.hidden.to(self.model.ffn_device(layer))
        for rows in stream.hidden.split(slice_rows(stream.hidden.device.type)):
            rows.copy_(self.model.ffn(layer, pruned, rows))

    def _attention(self, layer: int, stream: _Stream, kept_heads: tuple[int, ...], *, only_asked: bool) -> _Stream:
        piece = self.model.attention(layer, kept_heads)
        stream.hidden = stream.hidden.to(piece.device)
        if not kept_heads:
            return _Stream(piece.output(stream.hidden, None), stream.narrow)
        inputs = piece.inputs(stream.hidden)
        shape = -1, piece.num_heads, piece.head_dim
        keys, values = piece.keys(inputs).view(shape), piece.values(inputs).view(shape)
        attending = self.everywhere
        if only_asked:
            attending, stream = self.where_asked, self._narrowed(stream)
            inputs = inputs.index_select(0, torch.from_numpy(self.pack.asked).to(inputs.device))
        for rows, run in attending.slices(slice_rows(inputs.device.type)):
            heads = attending.attended(run, piece.queries(inputs[rows]).view(shape), keys, values)
            stream.hidden[rows] = piece.output(stream.hidden[rows], heads.flatten(1))
        return stream


def _kept_heads(mask: PruningMask, layer: int) -> tuple[int, ...]:
    pruned = mask.pruned_heads.get(layer, ())
    return tuple(head for head in range(mask.num_attention_heads) if head not in pruned)


def _last_attention(kept_heads: list[tuple[int, ...]]) -> int:
    """The last stage at which a head is kept; -1 where none is."""
    return max((2 * layer for layer, heads in enumerate(kept_heads) if heads), default=-1)


def _gathered(tokens: Tensor, call: AttentionCall) -> Tensor:
    if len(call.keys) == 1:
        return tokens[slice(*call.keys[0])]
    return torch.cat([tokens[slice(*part)] for part in call.keys])
