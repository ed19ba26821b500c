"""What is wrong with a model's arguments, told before anything is loaded.

The harness takes another device where the one that is asked for is not there, and its own length for `max_length=0`; a
length beyond a model's learned positions fails in the middle of an evaluation, at the first text of that length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lm_eval.config.evaluate_config import EvaluatorConfig

from lm_eval_prune.decoders import learned_positions
from lm_eval_prune.errors import ArgumentError

__all__ = ["check_arguments", "check_length", "require_device", "require_folder", "without_absent_default"]

KNOWN_DEVICES = ("cpu", "cuda", "mps", "xpu", "npu", "hpu")
"""Those that the harness knows."""
COUNTED = ("max_length", "max_batch_size")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ArgumentError for a device that is not there, sizes below 1, and what is neither true nor false."""
    if arguments.get("device") is not None:
        require_device(arguments["device"])
    for name in COUNTED:
        value = arguments.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ArgumentError(f"{name}={value}: expected a whole number from 1 on")
    size = arguments.get("batch_size")
    if size is not None and not re.fullmatch(r"0*[1-9][0-9]*|auto(:[0-9]*\.?[0-9]+)?", str(size)):
        raise ArgumentError(f"batch_size={size}: expected a whole number from 1 on, auto, or auto:N")
    trusted = arguments.get("trust_remote_code")
    if trusted is not None and not isinstance(trusted, bool):
        raise ArgumentError(f"trust_remote_code={trusted}: expected True or False")


def check_length(arguments: Mapping[str, Any], config: Any) -> None:
    """Raise ArgumentError for a `max_length` beyond the positions that a model of this configuration has learned."""
    length = arguments.get("max_length")
    if length is None:
        return
    if (positions := learned_positions(config)) is not None and length > positions:
        raise ArgumentError(f"max_length={length}: the model has learned {positions} positions; expected at most that")


def require_device(device: Any) -> None:
    """Raise ArgumentError unless torch has that device here."""
    if isinstance(device, torch.device):
        return
    kind, colon, number = str(device).partition(":")
    if kind not in KNOWN_DEVICES or (colon and not re.fullmatch("[0-9]{1,4}", number)):
        raise ArgumentError(f"device={device}: unknown; expected cpu, cuda, cuda:0 or mps")
    if kind == "cpu":
        return
    count = _count(kind)
    if count == 0:
        raise ArgumentError(f"device={device}: torch finds no {kind} device here; expected cpu, or a torch that has it")
    if colon and int(number) >= count:
        raise ArgumentError(f"device={device}: there are {count} here, {kind}:0 to {kind}:{count - 1}")


def without_absent_default(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` without the device that the harness's command takes where none was asked for, if it is not here.

    It takes "cuda:0" on every machine, and `hf` then computes on the CPU; asked for and default cannot be told apart.
    """
    default = EvaluatorConfig.__dataclass_fields__["device"].default
    kept = dict(arguments)
    if kept.get("device") == default and not _count(str(default).partition(":")[0]):
        del kept["device"]
    return kept


def require_folder(name: str, folder: str | Path | None) -> None:
    """Raise ArgumentError where `folder`, the value of the setting `name`, is given but is no folder."""
    if folder is not None and not Path(folder).is_dir():
        raise ArgumentError(f"{name}={folder}: no such folder")


def _count(kind: str) -> int:
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    return module.device_count() if module is not None and module.is_available() else 0
