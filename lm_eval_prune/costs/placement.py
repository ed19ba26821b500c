"""Which layer goes where: the device map that `parallelize=True` ends in, asked of accelerate.

It looks at names, shapes and sizes alone: a model without weights is enough.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from lm_eval_prune.costs.devices import Devices
from lm_eval_prune.costs.dimensions import Dimensions
from lm_eval_prune.decoders.lent import for_now
from lm_eval_prune.decoders.skeleton import device_map_of, layer_paths, output_path

__all__ = ["Placement", "place"]

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
    # It warns of every device that this machine lacks.
    with for_now([logging.getLogger("accelerate.utils.modeling")], "disabled", True):
        device_map, sizes = device_map_of(model.model, dtype, devices.max_memory)
    weights: dict[Place, int] = {}
    for name, size in sizes.items():
        where = _looked_up(device_map, name)
        weights[where] = weights.get(where, 0) + size
    layers: dict[Place, list[int]] = {}
    for layer, path in enumerate(layer_paths(model.model)):
        layers.setdefault(_looked_up(device_map, path), []).append(layer)
    return Placement(device_map, weights, layers, _looked_up(device_map, output_path(model.model)))


def _looked_up(device_map: dict[str, Place], name: str) -> Place:
    """The device of a module or parameter: that of the nearest module around it that the map names."""
    while name not in device_map and name:
        name = name.rpartition(".")[0]
    return device_map[name]
