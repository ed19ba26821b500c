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

__all__ = ["check_arguments", "check_fits_config", "require_device", "require_folder", "without_absent_default"]

KNOWN_DEVICES = ("cpu", "cuda", "mps", "xpu", "npu", "hpu")
"""Those that the harness knows."""
COUNTED = ("max_length", "max_batch_size")
FLAGS = (
    "trust_remote_code", "add_bos_token", "parallelize", "truncation", "logits_cache", "use_fast_tokenizer",
    "enable_thinking",
)  # fmt: skip
"""The harness takes any text for true."""
DTYPES = ("dtype", "softmax_dtype", "mixed_precision_dtype")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ArgumentError for a device that is not there, sizes below 1, what is neither true nor false, and dtypes
    that no model computes in."""
    if arguments.get("device") is not None:
        require_device(arguments["device"])
    for name in COUNTED:
        value = arguments.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ArgumentError(f"{name}={value}: expected a whole number from 1 on")
    size = arguments.get("batch_size")
    if size is not None and not re.fullmatch(r"0*[1-9][0-9]*|auto(:[0-9]*\.?[0-9]+)?", str(size)):
        raise ArgumentError(f"batch_size={size}: expected a whole number from 1 on, auto, or auto:N")
    for name in FLAGS:
        if (flag := arguments.get(name)) is not None and not isinstance(flag, bool):
            raise ArgumentError(f"{name}={flag}: expected True or False")
    for name in DTYPES:
        if (dtype := arguments.get(name)) is not None and not _is_dtype(dtype, name):
            auto = "auto, " if name == "dtype" else ""
            raise ArgumentError(f"{name}={dtype}: expected {auto}float32, bfloat16 or float16")
    if arguments.get("weights_only") not in (None, True):
        raise ArgumentError(
            f"weights_only={arguments['weights_only']}: a pickle runs what is in it; expected safetensors"
        )
    token = arguments.get("prefix_token_id")
    if token is not None and (isinstance(token, bool) or not isinstance(token, int) or token < 0):
        raise ArgumentError(f"prefix_token_id={token}: expected the number of a token, from 0 on")


def check_fits_config(arguments: Mapping[str, Any], config: Any) -> None:
    """Raise ArgumentError for a `max_length` beyond the positions that a model of this configuration has learned, and
    for a `prefix_token_id` beyond its vocabulary."""
    length, token = arguments.get("max_length"), arguments.get("prefix_token_id")
    if length is not None and (positions := learned_positions(config)) is not None and length > positions:
        raise ArgumentError(f"max_length={length}: the model has learned {positions} positions; expected at most that")
    size = getattr(config.get_text_config(), "vocab_size", None)
    if token is not None and size is not None and token >= size:
        raise ArgumentError(f"prefix_token_id={token}: the model has {size} tokens; expected 0 to {size - 1}")


def _is_dtype(value: Any, name: str) -> bool:
    """Whether a model can be loaded in, or compute in, this dtype."""
    if isinstance(value, str):
        if value == "auto":
            return name == "dtype"
        value = getattr(torch, value.removeprefix("torch."), None)
    return isinstance(value, torch.dtype) and value.is_floating_point


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
