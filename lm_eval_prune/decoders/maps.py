"""One layer, or half of it, for the time of a pass: the fastest products, and without what a mask prunes.

What a pruned head's rows and columns would give is left out of the product and put in as zeros, so that everything
else of the layer finds the shapes that it expects. Nothing is left out of a map whose outputs a norm ties together.
Where pruned components give their means (`Means`), a head's goes through its columns of the output map into the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lm_eval_prune.decoders.ablated import constant
from lm_eval_prune.decoders.constant import Constant
from lm_eval_prune.decoders.cuts import WHOLE, Cut, without
from lm_eval_prune.decoders.family import submodule
from lm_eval_prune.decoders.lent import lent
from lm_eval_prune.decoders.linear import linear
from lm_eval_prune.decoders.places import Layer, Places, weight_of, width_out
from lm_eval_prune.decoders.slices import blocks_of, parts_of

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.stages import Stage
    from lm_eval_prune.masks import PruningMask
    from lm_eval_prune.means import Means

__all__ = ["idle", "narrowed"]

Forward = Callable[..., Any]


def idle(
    places: Places, stage: Stage, mask: PruningMask, means: Means | None = None
) -> Iterator[tuple[nn.Module, Forward]]:
    """What computes nothing in the layer of `stage`, with what is given in its place: all that is no part of the stage,
    and an FFN that `mask` prunes."""
    if not stage.attention:
        yield from _no_attention(places, stage.layer)
    if not stage.ffn or _goes(places, stage.layer, mask):
        yield from _no_ffn(places, stage, means)


@contextmanager
def narrowed(
    places: Places,
    stage: Stage,
    mask: PruningMask,
    *,
    queries: bool = True,
    keys: bool = True,
    ffn_rows: int | None = None,
    means: Means | None = None,
) -> Iterator[None]:
    """Inside, the layer of `stage` computes nothing beside that, nothing of what `mask` prunes, nor its queries, or its
    keys and values, where those are False. Its FFN takes `ffn_rows` tokens at a time."""
    index = stage.layer
    layer, pruned = places.layers[index], _goes(places, index, mask)
    unasked = [] if queries and keys else _rows(places, index, queries=not queries, keys=not keys)
    forwards = [
        *idle(places, stage, mask, means),
        *(_attention_maps(places, index, mask, unasked, means) if stage.attention else ()),
        *(_ffn(layer, ffn_rows) if stage.ffn and not pruned else ()),
    ]
    with ExitStack() as stack:
        stack.enter_context(lent(forwards))
        if pruned and stage.ffn and layer.down is None and layer.added is not None:  # a mixture of experts
            added = partial(constant, None if means is None else means.ffns[index])
            stack.enter_context(layer.added.register_forward_hook(added))
        yield


def _fast(module: Any) -> list[tuple[nn.Module, Forward]]:
    """The plain linear maps at and in `module`, with what computes them."""
    return [(each, _product(each, each.bias)) for each in module.modules() if type(each) in (nn.Linear, Conv1D)]


def _attention_maps(
    places: Places, index: int, mask: PruningMask, unasked: list[tuple[str, int, int]], means: Means | None
) -> Iterator[tuple[nn.Module, Forward]]:
    if not places.removed.kept_heads(index):
        return
    layer, family = places.layers[index], places.family
    gone: dict[str, list[tuple[int, int]]] = {}
    for path, start, stop in unasked:
        gone.setdefault(f"{path}.weight", []).append((start, stop))
    for part in parts_of(places, index) if index in mask.pruned_heads else ():
        if part.goes(mask, index) and part.dim is not None and not part.ffn:
            gone.setdefault(part.name, []).append((part.start, part.stop))
    for path in filter(None, (family.queries, family.keys, family.values, family.output)):
        module = submodule(layer.module, path)
        cut = gone.get(f"{path}.weight")
        if path == family.output and (cut or means is not None):
            kept = without(cut or (), weight_of(module).shape[1])
            yield module, _product(module, _with_means(places, index, mask, means), inputs=Cut(1, kept))
        elif not cut:
            yield from _fast(module)
        else:
            kept = without(cut, weight_of(module).shape[0])
            yield module, _product(module, module.bias, outputs=Cut(0, kept))


def _rows(places: Places, index: int, *, queries: bool, keys: bool) -> list[tuple[str, int, int]]:
    """(path of a map, from, to): where the queries of a layer are, or its keys and values."""
    found = []
    for path, blocks in blocks_of(places, index).items():
        width = width_out(submodule(places.layers[index].module, path)) // len(blocks)
        for place, block in enumerate(blocks):
            if queries if block.kind == "queries" else keys:
                found.append((path, place * width, (place + 1) * width))
    return found


def _ffn(layer: Layer, rows: int | None) -> Iterator[tuple[nn.Module, Forward]]:
    for module in layer.ffn:
        yield from _fast(module)
    if rows is not None and len(layer.ffn) == 1 and layer.down is not None:
        yield layer.ffn[0], _in_pieces(layer.ffn[0].forward, rows)


def _with_means(places: Places, index: int, mask: PruningMask, means: Means | None) -> Tensor | None:
    """The bias of layer `index`'s output map, and in it what the pruned heads' means come to behind that map."""
    module = places.layers[index].output
    there, kept = places.removed.kept_heads(index), mask.kept_heads(index)
    pruned = [place for place, head in enumerate(there) if head not in kept]
    if means is None or not pruned:
        return module.bias
    weight, width = weight_of(module), places.head_dim
    columns = torch.cat([torch.arange(place * width, (place + 1) * width) for place in pruned]).to(weight.device)
    outputs = means.heads[index, [there[place] for place in pruned]].flatten().to(weight.device)
    added = weight.index_select(1, columns).float() @ outputs
    return (added if module.bias is None else added + module.bias.float()).to(weight.dtype)


def _goes(places: Places, index: int, mask: PruningMask) -> bool:
    """Whether layer `index` has an FFN that `mask` prunes; what compaction has put in the place of one stays."""
    return index in mask.pruned_ffns and not isinstance(places.layers[index].added, Constant)


def _no_ffn(places: Places, stage: Stage, means: Means | None) -> Iterator[tuple[nn.Module, Forward]]:
    """Norms in the stream run where the FFN is no more than pruned; means come where it is pruned, not elsewhere."""
    layer, family = places.layers[stage.layer], places.family
    norms = family.ffn_norms if stage.ffn else (*family.ffn_norms, *family.norms_in_stream[1])
    yield from _norms(layer, norms)
    if isinstance(layer.added, Constant):
        yield layer.added, partial(_instead, len(layer.added.bias), None)
        return
    if layer.down is None:
        return
    width = weight_of(layer.down).shape[0]
    for module in layer.up if len(layer.ffn) > 1 else layer.ffn:
        yield module, lambda hidden: hidden[..., :0]
    if layer.added is not None:
        mean = means.ffns[stage.layer] if means is not None and stage.ffn else None
        yield layer.added, partial(_instead, width, mean)


def _no_attention(places: Places, index: int) -> Iterator[tuple[nn.Module, Forward]]:
    layer, family = places.layers[index], places.family
    yield layer.attention, lambda *args, **told: (torch.zeros_like(args[0] if args else told["hidden_states"]), None)
    yield from _norms(layer, (*family.attention_norms, *family.attention_norms_behind, *family.norms_in_stream[0]))


def _norms(layer: Layer, paths: Iterable[str]) -> Iterator[tuple[nn.Module, Forward]]:
    """The norms at `paths`, passing on what they are given."""
    found = (submodule(layer.module, path) for path in paths)
    yield from ((norm, _unchanged) for norm in found if norm is not None and not isinstance(norm, Constant))


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


def _in_pieces(forward: Forward, rows: int) -> Forward:
    def pieces(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if hidden.shape[1] <= rows:
            return forward(hidden, *args, **kwargs)
        return torch.cat([forward(part, *args, **kwargs) for part in hidden.split(rows, 1)], 1)

    return pieces


def _product(module: Any, bias: Tensor | None, outputs: Cut = WHOLE, inputs: Cut = WHOLE) -> Forward:
    """What computes a linear map with this bias: its `outputs` alone, zeros beside them, from its `inputs` alone."""
    weight = weight_of(module)

    def product(hidden: Tensor) -> Tensor:
        own = weight if outputs is inputs is WHOLE else outputs.of(inputs.of(weight)).contiguous()
        found = linear(inputs.of(hidden.flatten(0, -2)), own, None if bias is None else outputs.of(bias))
        return _among_zeros(found, outputs, len(weight)).view(*hidden.shape[:-1], -1)

    return product


def _among_zeros(columns: Tensor, cut: Cut, width: int) -> Tensor:
    """[n, kept] -> [n, width]: where `cut` has left something, those columns."""
    if cut.dim is None:
        return columns
    zeros = columns.new_zeros(1, width).expand(len(columns), -1)
    parts, taken, place = [], 0, 0
    for start, stop in cut.ranges:
        parts += [zeros[:, place:start], columns[:, taken : taken + stop - start]]
        taken, place = taken + stop - start, stop
    return torch.cat([*parts, zeros[:, place:]], 1)


def _instead(width: int, mean: Tensor | None, hidden: Tensor) -> Tensor:
    """What a pruned FFN adds to a stream of `width`."""
    shape = *hidden.shape[:-1], width
    return hidden.new_zeros(shape) if mean is None else mean.to(hidden).expand(shape)
