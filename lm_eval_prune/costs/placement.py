"""Which layer goes where: the device map that `parallelize=True` ends in, asked of accelerate.

It looks at names, shapes and sizes alone. A skeleton with an OPT's names and shapes on the `meta` device is enough,
and takes a fraction of the time that importing the model takes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from lm_eval_prune.costs.devices import Devices
from lm_eval_prune.costs.dimensions import Dimensions
from lm_eval_prune.costs.memory import bytes_of

__all__ = ["Placement", "place", "skeleton"]

Place = int | str
"""A GPU's number, `"cpu"` or `"disk"`."""


@dataclass(frozen=True)
class Placement:
    """A device map, added up by device."""

    device_map: dict[str, Place]
    """Module -> where its weights are."""
    weights: dict[Place, int]
    """Device -> bytes of weights, a shared matrix once."""
    layers: dict[Place, list[int]]
    """Device -> the decoder layers that it holds."""
    output_device: Place
    """Where the output layer is."""

    def offloaded(self, devices: Devices) -> int:
        """Bytes of weights that lie where nothing is computed and are brought in for each pass."""
        computing: list[Place] = list(range(len(devices.gpus))) or ["cpu"]
        return sum(size for place, size in self.weights.items() if place not in computing)


def place(model: Dimensions, dtype: str, devices: Devices) -> Placement:
    """The device map of `from_pretrained(device_map="auto", max_memory=...)`; what fits nowhere is put on disk."""
    from accelerate.utils.modeling import infer_auto_device_map

    bones = skeleton(model, dtype)
    with _without_warnings():  # the devices are another machine's
        device_map = infer_auto_device_map(
            bones, max_memory=_balanced(model, dtype, devices), no_split_module_classes=bones._no_split_modules
        )
    weights: dict[Place, int] = {}
    layers: dict[Place, list[int]] = {}
    for name, parameter in bones.named_parameters():
        where = _looked_up(device_map, name)
        weights[where] = weights.get(where, 0) + parameter.numel() * parameter.element_size()
    for layer in range(model.num_hidden_layers):
        layers.setdefault(_looked_up(device_map, f"model.decoder.layers.{layer}"), []).append(layer)
    return Placement(dict(device_map), weights, layers, _looked_up(device_map, "lm_head"))


def _balanced(model: Dimensions, dtype: str, devices: Devices) -> dict[int | str, int]:
    """Limits that spread a model evenly, as transformers sets them: an equal share and 1.25 of the largest block.

    The last GPU keeps its whole memory.
    """
    if not devices.gpus:
        return devices.max_memory
    layers = [model.parameters_of(layer) for layer in range(model.num_hidden_layers)]
    largest = max(*layers, model.vocab_size * model.word_embed_proj_dim)
    total, largest = (count * bytes_of(dtype) for count in (model.num_parameters, largest))
    share = total // len(devices.gpus) + int(1.25 * largest)
    limits: dict[int | str, int] = {number: min(share, size) for number, size in enumerate(devices.gpus)}
    return {**devices.max_memory, **limits, len(devices.gpus) - 1: devices.gpus[-1]}


def _looked_up(device_map: dict[str, Place], name: str) -> Place:
    """The device of a module or parameter: that of the nearest module around it that the map names."""
    while name not in device_map and name:
        name = name.rpartition(".")[0]
    return device_map[name]


class _without_warnings:  # noqa: N801 - reads as a statement
    """accelerate warns of every device that this machine lacks."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("accelerate.utils.modeling")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *exception: object) -> None:
        self.logger.setLevel(self.level)


def skeleton(model: Dimensions, dtype: str) -> Any:
    """Modules and parameters of an OPTForCausalLM by name and shape, on the meta device; it computes nothing."""
    import torch
    from torch import nn

    width, inner, embedding = model.hidden_size, model.ffn_dim, model.word_embed_proj_dim
    settings = {"device": "meta", "dtype": getattr(torch, dtype)}

    def norm() -> nn.Module:
        return nn.LayerNorm(width, elementwise_affine=model.layer_norm_elementwise_affine, **settings)

    def linear(inputs: int, outputs: int, bias: bool = model.enable_bias) -> nn.Module:
        return nn.Linear(inputs, outputs, bias=bias, **settings)

    def left_bias() -> nn.Module:
        """What stays of an output map without heads."""
        left: Any = nn.Module()
        if model.enable_bias:
            left.bias = nn.Parameter(torch.empty(width, **settings))
        return left

    class OPTDecoderLayer(nn.Module):
        def __init__(self, layer: int) -> None:
            super().__init__()
            heads, has_ffn = len(model.lacking.kept_heads(layer)), layer not in model.lacking.pruned_ffns
            inside = heads * (width // model.num_attention_heads)
            self.self_attn = nn.Module()
            for name in ("k_proj", "v_proj", "q_proj") if heads else ():
                self.self_attn.add_module(name, linear(width, inside))
            self.self_attn.out_proj = linear(inside, width) if heads else left_bias()
            if heads or not model.do_layer_norm_before:
                self.self_attn_layer_norm = norm()
            if has_ffn:
                self.fc1, self.fc2 = linear(width, inner), linear(inner, width)
            if has_ffn or not model.do_layer_norm_before:
                self.final_layer_norm = norm()

    def table(rows: int, columns: int) -> nn.Module:
        # Without the drawing of numbers, for which torch imports its compiler, a second and a half.
        return nn.Embedding.from_pretrained(torch.empty(rows, columns, **settings), freeze=False)

    decoder: Any = nn.Module()
    decoder.embed_tokens = table(model.vocab_size, embedding)
    decoder.embed_positions = table(model.max_position_embeddings + 2, width)
    if model.is_projected:
        decoder.project_out = linear(width, embedding, bias=False)
        decoder.project_in = linear(embedding, width, bias=False)
    if model.has_last_norm:
        decoder.final_layer_norm = norm()
    decoder.layers = nn.ModuleList(OPTDecoderLayer(layer) for layer in range(model.num_hidden_layers))
    bones: Any = nn.Module()
    bones.model = nn.Module()
    bones.model.decoder = decoder
    bones.lm_head = linear(embedding, model.vocab_size, bias=False)
    bones.all_tied_weights_keys = {}
    if model.tie_word_embeddings:
        bones.lm_head.weight = decoder.embed_tokens.weight
        bones.all_tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    bones._no_split_modules = [OPTDecoderLayer.__name__]
    return bones
