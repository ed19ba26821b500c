"""One layer's linear maps for the time of a pass: the fastest products, and without what a mask prunes.

What a pruned head's rows and columns would give is left out of the product and put in as zeros, so that everything
else of the layer finds the shapes that it expects. Nothing is left out of a map whose outputs a norm ties together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lm_eval_prune.decoders.family import submodule
from lm_eval_prune.decoders.lent import lent
from lm_eval_prune.decoders.linear import linear
from lm_eval_prune.decoders.places import Layer, Places, weight_of
from lm_eval_prune.decoders.slices import parts_of

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.masks import PruningMask

__all__ = ["fast", "narrowed"]

Forward = Callable[..., "Tensor"]


@contextmanager
def narrowed(
    places: Places, index: int, mask: PruningMask, *, queries: bool = True, ffn_rows: int | None = None
) -> Iterator[None]:
    """Inside, layer `index` computes nothing of what `mask` prunes, nor with `queries` False its queries, where that
    can be had. Its FFN takes `ffn_rows` tokens at a time."""
    layer = places.layers[index]
    forwards = [
        *_attention_maps(places, index, mask, queries),
        *_ffn(places, layer, index in mask.pruned_ffns, ffn_rows),
    ]
    with lent(forwards):
        if index in mask.pruned_ffns and layer.added is not None:
            # Also what a norm behind the FFN would add of its own, and mixtures of experts.
            handle = layer.added.register_forward_hook(_nothing)
            try:
                yield
            finally:
                handle.remove()
        else:
            yield


def fast(module: Any) -> list[tuple[nn.Module, Forward]]:
    """The plain linear maps at and in `module`, with what computes them."""
    return [(each, _product(each.weight, each.bias)) for each in module.modules() if type(each) is nn.Linear]


def _attention_maps(
    places: Places, index: int, mask: PruningMask, queries: bool
) -> Iterator[tuple[nn.Module, Forward]]:
    if not places.removed.kept_heads(index):
        return
    layer, family = places.layers[index], places.family
    gone: dict[str, list[tuple[int, int, int]]] = {}
    if index in mask.pruned_heads:
        for part in parts_of(places, index):
            if part.goes(mask, index) and part.dim is not None and not part.ffn:
                gone.setdefault(part.name, []).append((part.dim, part.start, part.stop))
    for path in filter(None, (family.queries, family.keys, family.values, family.output)):
        module = submodule(layer.module, path)
        cut = [(start, stop) for _, start, stop in gone.get(f"{path}.weight", ())]
        if path == family.output:
            if cut:
                yield module, _fewer_inputs(module, _kept(weight_of(module).shape[1], cut, module))
            elif type(module) is nn.Linear:
                yield module, _product(module.weight, module.bias)
        elif path == family.queries and not queries and not family.fused:
            yield module, _fewer_outputs(module, _kept(0, [], module))
        elif cut:
            yield module, _fewer_outputs(module, _kept(weight_of(module).shape[0], cut, module))
        elif type(module) is nn.Linear:
            yield module, _product(module.weight, module.bias)


def _ffn(places: Places, layer: Layer, pruned: bool, rows: int | None) -> Iterator[tuple[nn.Module, Forward]]:
    one_module = len(layer.ffn) == 1
    if pruned and layer.down is not None:
        if one_module:
            yield layer.ffn[0], torch.zeros_like
        else:
            for module in layer.up:
                yield module, _fewer_outputs(module, _kept(0, [], module), filled=False)
            yield layer.down, _zeros(layer.down)
        return
    for module in layer.ffn:
        yield from fast(module)
    if rows is not None and one_module and layer.down is not None:
        yield layer.ffn[0], _in_pieces(layer.ffn[0].forward, rows)


def _in_pieces(forward: Forward, rows: int) -> Forward:
    def pieces(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if hidden.shape[1] <= rows:
            return forward(hidden, *args, **kwargs)
        return torch.cat([forward(part, *args, **kwargs) for part in hidden.split(rows, 1)], 1)

    return pieces


def _product(weight: Tensor, bias: Tensor | None) -> Forward:
    def product(inputs: Tensor) -> Tensor:
        return linear(inputs.flatten(0, -2), weight, bias).view(*inputs.shape[:-1], -1)

    return product


def _fewer_outputs(module: Any, kept: Tensor, *, filled: bool = True) -> Forward:
    weight, bias = weight_of(module), module.bias
    width = weight.shape[0]

    def product(inputs: Tensor) -> Tensor:
        some = linear(
            inputs.flatten(0, -2), weight.index_select(0, kept), None if bias is None else bias.index_select(0, kept)
        )
        if filled:
            some = some.new_zeros(len(some), width).index_copy_(1, kept, some)
        return some.view(*inputs.shape[:-1], -1) if some.numel() else some.reshape(*inputs.shape[:-1], some.shape[-1])

    return product


def _fewer_inputs(module: Any, kept: Tensor) -> Forward:
    weight, bias = weight_of(module), module.bias

    def product(inputs: Tensor) -> Tensor:
        flat = inputs.flatten(0, -2).index_select(1, kept)
        return linear(flat, weight.index_select(1, kept), bias).view(*inputs.shape[:-1], -1)

    return product


def _zeros(module: Any) -> Forward:
    width = weight_of(module).shape[0]
    return lambda inputs: inputs.new_zeros(*inputs.shape[:-1], width)


def _kept(width: int, cut: list[tuple[int, int]], module: Any) -> Tensor:
    """Rows or columns that stay, of `width` without the ranges `cut`."""
    stays = torch.ones(width, dtype=torch.bool)
    for start, stop in cut:
        stays[start:stop] = False
    return stays.nonzero().flatten().to(module.weight.device)


def _nothing(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)
