"""Which rows and columns of which weight belong to which heads and FFN.

All that can be said of a component's weights follows from it: how many parameters go with it, how many products, its
magnitude, and what compaction cuts. With grouped keys, a key/value head goes with the last of its query heads. A norm
over all heads together (of queries or of keys) ties their rows to one another: they go with the layer's last head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from lm_eval_prune.decoders.family import submodule
from lm_eval_prune.decoders.places import Layer, Places, is_product, out_dim, width_out

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_prune.masks import PruningMask

__all__ = [
    "Block",
    "Part",
    "Sizes",
    "blocks_of",
    "norms_over_heads",
    "num_products",
    "parts_gone",
    "parts_of",
    "sizes_of",
]


class Part(NamedTuple):
    """Some rows or columns of one parameter, or all of it."""

    name: str
    """The parameter's, below its layer: `self_attn.q_proj.weight`."""
    dim: int | None
    """The dimension that gets shorter without this part; None where the parameter goes as a whole."""
    start: int
    stop: int
    """Where along `dim`; 0 and 0 without one."""
    numel: int
    serves: tuple[int, ...]
    """Query heads of the layer that it is part of; () for an FFN's."""
    heads: tuple[int, ...]
    """Query heads that must all be pruned for it to go: those it serves, or more where they are tied to others."""
    ffn: bool
    """Whether it goes only when the FFN is pruned, too."""
    products: int
    """Multiplications, each with an addition, that it stands for at every token: as many as elements in a linear map,
    of experts only those that a token meets."""

    def goes(self, mask: PruningMask, layer: int) -> bool:
        """Whether `mask` takes it from `layer`."""
        pruned = mask.pruned_heads.get(layer, ())
        return all(head in pruned for head in self.heads) and (not self.ffn or layer in mask.pruned_ffns)


def parts_of(places: Places, layer: int, *, constants: bool = False) -> Iterator[Part]:
    """Of what is there of layer `layer`; what no part holds (the output map's bias, norms in the stream) stays.

    With `constants` for what goes, norms behind the attention stay, too.
    """
    if places.removed.kept_heads(layer):
        yield from _attention_parts(places, layer, places.layers[layer], constants)
    for path in (*places.family.ffn, *places.family.ffn_norms):
        yield from _whole(places, places.layers[layer], path, (), ffn=True)


def parts_gone(places: Places, mask: PruningMask) -> Iterator[Part]:
    """All that goes with what `mask` prunes, of every layer."""
    for layer in sorted({*mask.pruned_heads, *mask.pruned_ffns}):
        yield from (part for part in parts_of(places, layer) if part.goes(mask, layer))


class Sizes(NamedTuple):
    """Parameters of a layer's components."""

    head: int
    """Rows and columns of one query head."""
    group: int
    """Rows of the keys and values that a group of several query heads shares; 0 where each has its own."""
    ffn: int
    """An FFN, with the norms that only serve it."""


def sizes_of(places: Places, layer: int) -> Sizes:
    """Of a layer that lacks nothing."""
    parts, share = list(parts_of(places, layer)), places.num_attention_heads // places.num_key_value_heads
    own = {part: part.serves for part in parts if part.dim is not None}
    return Sizes(
        head=sum(part.numel for part, serves in own.items() if serves == (0,)),
        group=sum(part.numel for part, serves in own.items() if serves == tuple(range(share)) and share > 1),
        ffn=sum(part.numel for part in parts if part.ffn and not part.heads),
    )


GATES = ("gate_proj",)
"""Names, in an attention, of maps to gates as wide as the heads' outputs."""


def num_products(places: Places, name: str, module: nn.Module, kind: str) -> int:
    """What the parameter `kind` of `module`, called `name`, stands for at every token."""
    parameter = getattr(module, kind)
    if "experts" in name.split(".") and parameter.dim() > 1:
        return round(parameter.numel() * places.share_of_experts)
    return parameter.numel() if kind == "weight" and is_product(module) else 0


def _attention_parts(places: Places, index: int, layer: Layer, constants: bool) -> Iterator[Part]:
    family, there = places.family, places.removed.kept_heads(index)
    everyone = blocks_of(places, index, all_queries=True)
    tying = norms_over_heads(layer, places.head_dim)
    for path, blocks in blocks_of(places, index).items():
        module, tied = submodule(layer.module, path), None
        if any(kind in tying and module is getattr(layer, kind) for kind in ("queries", "keys")):
            tied, blocks = there, everyone[path]
        serves = [block.serves for block in blocks]
        yield from _blocks(path, "weight", module, out_dim(module), serves, tied)
        if getattr(module, "bias", None) is not None:
            yield from _blocks(path, "bias", module, 0, serves, tied)
    own: list[tuple[int, ...]] = [(head,) for head in there]
    yield from _blocks(family.output, "weight", layer.output, 1 - out_dim(layer.output), own)
    yield from _other_attention_parts(places, layer, there, {*everyone, family.output})
    no_bias = getattr(layer.output, "bias", None) is None and not constants
    for path in (*family.attention_norms, *(family.attention_norms_behind if no_bias else ())):
        yield from _whole(places, layer, path, there, ffn=False)
    for path in family.shared_norms:
        yield from _whole(places, layer, path, there, ffn=True)


class Block(NamedTuple):
    """Neighbouring outputs of a map: the query, the key or the value of one head or group."""

    kind: str
    """"queries", "keys" or "values"; of latent attention "keys" are a head's key and value."""
    serves: tuple[int, ...]
    """Query heads that it is for, of those that are there."""


def blocks_of(places: Places, index: int, *, all_queries: bool = False) -> dict[str, list[Block]]:
    """Path of a map to queries, keys or values -> what its outputs are, in order; all of a map's blocks are as wide.

    Of the heads that are there; with `all_queries` of the whole model's.
    """
    family, there = places.family, places.removed.kept_heads(index)
    heads = range(places.num_attention_heads) if all_queries else there
    queries = [Block("queries", (head,) if head in there else ()) for head in heads]
    groups = [
        tuple(head for head in there if places.group_of(head) == group)
        for group in dict.fromkeys(map(places.group_of, heads))
    ]
    keys, values = ([Block(kind, group) for group in groups] for kind in ("keys", "values"))
    if family.fused == "groups":
        own = [[Block("queries", (head,)) for head in group] for group in groups]
        return {family.queries: [b for parts in zip(own, keys, values, strict=True) for b in (*parts[0], *parts[1:])]}
    if family.fused == "quarters":
        size = max(len(heads) // 4, 1)
        starts = range(0, len(heads), size)
        return {family.queries: [b for at in starts for kind in (queries, values, keys) for b in kind[at : at + size]]}
    if family.fused:
        return {family.queries: queries + keys + values}
    separate = {family.queries: queries, family.keys: keys, family.values: values}
    return {path: blocks for path, blocks in separate.items() if path}


def norms_over_heads(layer: Layer, width: int) -> dict[str, str]:
    """Of "queries" and "keys" those over all of which, of a token, one norm runs, and its name in the attention."""
    found = {}
    for kind in ("queries", "keys"):
        for name in (f"{kind[0]}_norm", f"{kind[0]}_layernorm"):
            module, norm = getattr(layer, kind), getattr(layer.attention, name, None)
            shape = tuple(getattr(getattr(norm, "weight", None), "shape", ()))
            if module is not None and shape == (width_out(module),) and width_out(module) > width:
                found[kind] = name
    return found


def _other_attention_parts(places: Places, layer: Layer, there: tuple[int, ...], maps: set[str]) -> Iterator[Part]:
    """Norms of queries and keys, sinks, gates: a head's where there are rows for each, else all heads' together."""
    prefix = places.family.attention
    for name, parameter in layer.attention.named_parameters():
        path = f"{prefix}.{name}"
        if path.rpartition(".")[0] in maps:
            continue
        rows = places.head_dim if name.split(".")[0] in GATES else 1
        if len(parameter) == rows * len(there) and (parameter.dim() == 2 or rows > 1 or name == "sinks"):
            numel = parameter.numel() // len(there)
            for place, head in enumerate(there):
                start = place * rows
                yield Part(path, 0, start, start + rows, numel, (head,), (head,), False, numel * (rows > 1))
        else:
            yield Part(path, None, 0, 0, parameter.numel(), there, there, False, 0)


def _blocks(
    path: str,
    kind: str,
    module: nn.Module,
    dim: int,
    blocks: list[tuple[int, ...]],
    tied: tuple[int, ...] | None = None,
) -> Iterator[Part]:
    """One part for each of the `blocks` along `dim` of a map's weight or bias, by the heads that it serves; they go
    with their heads, or where they are tied with all those."""
    parameter: Tensor = getattr(module, kind)
    width, numel = parameter.shape[dim] // len(blocks), parameter.numel() // len(blocks)
    products = numel if kind == "weight" else 0
    for index, serves in enumerate(blocks):
        start = index * width
        yield Part(f"{path}.{kind}", dim, start, start + width, numel, serves, tied or serves, False, products)


def _whole(places: Places, layer: Layer, path: str, heads: tuple[int, ...], *, ffn: bool) -> Iterator[Part]:
    module = submodule(layer.module, path)
    if module is None:
        return
    for name, child in module.named_modules():
        for kind, parameter in child.named_parameters(recurse=False):
            full, numel = ".".join(filter(None, (path, name, kind))), parameter.numel()
            yield Part(full, None, 0, 0, numel, heads, heads, ffn, num_products(places, full, child, kind))
