"""Whether a model and what it computes fit some devices, and how they are used best.

A device map splits a model by layers, and a batch goes through them one device after another: at any time one device
works. So a model that fits fewer devices is better loaded several times, each copy on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lm_eval_prune.costs import memory
from lm_eval_prune.costs.devices import Devices
from lm_eval_prune.costs.dimensions import Dimensions
from lm_eval_prune.costs.placement import Place, Placement, place

__all__ = ["Fit", "Share", "fitted"]


@dataclass(frozen=True)
class Share:
    """What one device holds, in bytes."""

    device: Place
    layers: list[int]
    weights: int
    working: int
    """At the worst moment of an evaluation's batch: keys and values, and a layer's activations or the logits."""
    size: int | None
    """Its memory; None for a disk."""

    @property
    def fits(self) -> bool:
        return self.size is None or self.weights + self.working <= self.size


@dataclass(frozen=True)
class Fit:
    """A device map, its memory, and how many copies of the model the devices hold."""

    placement: Placement
    shares: tuple[Share, ...]
    offloaded: int
    """Bytes of weights that are brought in for each pass."""
    devices_per_copy: int
    """GPUs that one copy of the model needs; 0 without GPUs."""
    copies: int
    model_args: str
    """What to add to --model_args for this device map."""

    @property
    def fits(self) -> bool:
        return all(share.fits for share in self.shares)


def fitted(model: Dimensions, dtype: str, devices: Devices, batch_size: int, length: int) -> Fit:
    """The best use of `devices` for batches of `batch_size` inputs of `length` tokens.

    Where weights may be offloaded, so many are that what is computed fits beside the rest.
    """
    tokens = batch_size * length
    placement = place(model, dtype, devices)
    shares = _shares(model, dtype, devices, placement, tokens)
    limits: dict[str, Any] = {}
    if devices.may_offload and not all(share.fits for share in shares):
        reduced = _reduced(devices, shares)
        placement = place(model, dtype, reduced)
        shares = _shares(model, dtype, devices, placement, tokens)
        if devices.gpus:
            limits["max_memory_per_gpu"] = _text(reduced.gpus[0])
    if devices.cpu and placement.offloaded(devices):
        limits["max_cpu_memory"] = _text(devices.cpu)
    needed = len(devices.gpus)
    if needed and all(share.fits for share in shares) and not placement.offloaded(devices):
        needed = _fewest(model, dtype, devices, tokens)
    parallel = needed > 1 or bool(limits)
    arguments = ["parallelize=True"] * parallel + [f"{name}={value}" for name, value in limits.items()]
    return Fit(
        placement,
        shares,
        placement.offloaded(devices),
        needed,
        max(1, len(devices.gpus) // needed if needed else 1),
        ",".join([f"dtype={dtype}", *arguments]),
    )


def _shares(model: Dimensions, dtype: str, devices: Devices, placement: Placement, tokens: int) -> tuple[Share, ...]:
    computing: list[Place] = list(range(len(devices.gpus))) or ["cpu"]
    places = dict.fromkeys([*computing, *placement.weights])
    last = computing[0] if placement.output_device not in computing else placement.output_device
    brought_in = _largest_offloaded(model, dtype, placement, computing)
    shares = []
    for where in places:
        layers = placement.layers.get(where, [])
        working = 0
        if where in computing:
            # Offloaded layers are computed on the first device.
            own = [*layers]
            if where == computing[0]:
                own += [layer for at, found in placement.layers.items() if at not in computing for layer in found]
            working = memory.keys_and_values(model, own, tokens, dtype)
            beside = memory.stream(model, tokens, dtype) + memory.logits(model, tokens, dtype) * (where == last)
            working += max(memory.layer_activations(model, tokens, dtype), beside)
            working += brought_in * (where == computing[0])
        shares.append(Share(where, layers, placement.weights.get(where, 0), working, _size(devices, where)))
    return tuple(shares)


def _size(devices: Devices, where: Place) -> int | None:
    if where == "disk":
        return None if devices.disk else 0  # accelerate puts there what fits nowhere else
    return devices.cpu if where == "cpu" else devices.gpus[int(where)]


def _largest_offloaded(model: Dimensions, dtype: str, placement: Placement, computing: list[Place]) -> int:
    """Weights that are brought in at once: one map at a time, at most a layer's largest."""
    if not any(where not in computing for where in placement.layers):
        return 0
    largest = max(each.numel() for layer in model.places.layers for each in layer.module.parameters())
    return largest * memory.bytes_of(dtype)


def _reduced(devices: Devices, shares: tuple[Share, ...]) -> Devices:
    """The devices without what is computed on them: what is left for weights."""
    working = {share.device: share.working for share in shares}
    gpus = tuple(max(0, size - working.get(number, 0)) for number, size in enumerate(devices.gpus))
    cpu = devices.cpu if devices.gpus else max(0, devices.cpu - working.get("cpu", 0))
    if gpus:
        gpus = (min(gpus),) * len(gpus)  # the harness takes one limit for all
    return Devices(gpus, cpu, devices.disk)


def _fewest(model: Dimensions, dtype: str, devices: Devices, tokens: int) -> int:
    weights = model.num_parameters * memory.bytes_of(dtype)
    for count in range(1, len(devices.gpus)):
        few = devices.first(count)
        if sum(few.gpus) < weights:
            continue
        placement = place(model, dtype, few)
        shares = _shares(model, dtype, few, placement, tokens)
        if all(share.fits for share in shares) and not placement.offloaded(few):
            return count
    return len(devices.gpus)


def _text(size: int) -> str:
    return f"{size // 10**6}MB"
