"""What is wrong with a model's arguments, told before anything is loaded.

The harness takes another device where the one that is asked for is not there, and its own length for `max_length=0`; a
length beyond a model's learned positions fails in the middle of an evaluation, at the first text of that length.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lm_eval.config.evaluate_config import EvaluatorConfig

from lm_eval_prune.decoders import shape_of
from lm_eval_prune.decoders.skeleton import learned_positions
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import is_folder

__all__ = [
    "check_arguments",
    "check_fits_config",
    "require_device",
    "require_device_name",
    "unread_arguments",
    "without_absent_default",
]

KNOWN_DEVICES = ("cpu", "cuda", "mps", "xpu", "npu", "hpu")
"""Those that the harness knows."""
SCORERS = ("packed", "flex", "padded")
"""How log-likelihoods are computed: `packed` (scoring/), the default, computes no token twice and agrees with `hf` as
far as float32 does; `padded` is the harness's own way, bit for bit."""
LOADS = ("masked", "compact")
"""What is in memory: `masked`, the default, the whole model, so that other masks can follow; `compact`, only what the
mask leaves of it."""
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Those that transformers makes itself."""
DTYPES = ("dtype", "softmax_dtype", "mixed_precision_dtype")
SIZE = re.compile(r"[0-9]+(\.[0-9]+)? ?([KMGT]i?B)", re.IGNORECASE)

Expected = tuple[Callable[[Any], bool], str]
"""What a value must be: the condition, and how it is said."""


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


COUNT: Expected = (lambda value: _is_whole(value, 1), "a whole number from 1 on")
FLAG: Expected = (lambda value: isinstance(value, bool), "True or False")
TEXT: Expected = (lambda value: isinstance(value, str | os.PathLike), "a text")
MAPPING: Expected = (lambda value: isinstance(value, Mapping), "a mapping, such as {'name': 'value'}")
MEMORY: Expected = (
    lambda value: _is_whole(value, 1) or (isinstance(value, str) and SIZE.fullmatch(value) is not None),
    "a size, such as 20GiB, or bytes",
)

EXPECTED: dict[str, Expected] = {
    **dict.fromkeys(("max_length", "max_batch_size"), COUNT),
    **dict.fromkeys(
        (
            "trust_remote_code", "add_bos_token", "parallelize", "truncation", "logits_cache", "use_fast_tokenizer",
            "enable_thinking", "gptqmodel", "ignore_mismatched_sizes", "force_download", "local_files_only",
            "use_safetensors", "disable_mmap", "offload_buffers", "allow_all_kernels", "use_kernels",
            "low_cpu_mem_usage", "offload_state_dict",
        ),
        FLAG,
    ),
    **dict.fromkeys(("cache_dir", "offload_folder", "variant", "adapter_name", "code_revision"), TEXT),
    **dict.fromkeys(("proxies", "adapter_kwargs", "fusion_config", "key_mapping", "chat_template_args"), MAPPING),
    **dict.fromkeys(("max_memory_per_gpu", "max_cpu_memory"), MEMORY),
    "batch_size": (
        lambda value: re.fullmatch(r"0*[1-9][0-9]*|auto(:[0-9]*\.?[0-9]+)?", str(value)) is not None,
        "a whole number from 1 on, auto, or auto:N",
    ),
    "prefix_token_id": (lambda value: _is_whole(value, 0), "the number of a token, from 0 on"),
    "think_end_token": (lambda value: isinstance(value, str) or _is_whole(value, 0), "a token, or its number"),
    "backend": (lambda value: value in ("default", "causal"), "default or causal"),
    "autogptq": (lambda value: isinstance(value, bool | str), "True, False or a file's name"),
    "token": (lambda value: isinstance(value, bool | str), "True, False or a text"),
    "generation_config": (
        lambda value: hasattr(value, "to_dict"),
        "a GenerationConfig, from Python; --gen_kwargs says how texts are generated",
    ),
    "tp_plan": (lambda value: value == "auto" or isinstance(value, Mapping), "auto, or a mapping"),
}  # fmt: skip
"""The harness and transformers take any text for true, and leave much of what they cannot use aside."""

NOT_TAKEN = {
    "weights_only": "a pickle runs what is in it; expected safetensors",
    "config": "masks are settled by the checkpoint's own configuration; give a folder that has the other one",
    "quantization_config": "the checkpoint's own configuration says how it is quantised; leave it out",
    "max_memory": "not read by the harness; expected max_memory_per_gpu and max_cpu_memory",
    "output_loading_info": "a model alone is expected; leave it out",
    "return_dict": "the harness reads the model's answers by name; leave it out",
    "model_type": "the checkpoint's own configuration says it; leave it out",
    **dict.fromkeys(
        ("state_dict", "device_mesh", "distributed_config", "gpus"), "not to be given from outside; leave it out"
    ),
}
"""Arguments that would be left aside, or make another model than the one that the mask is for."""

OF_PARALLELIZE = ("device_map", "max_memory_per_gpu", "max_cpu_memory", "offload_folder", "offload_buffers")
READ_NO_MORE = ("low_cpu_mem_usage", "offload_state_dict", "mirror", "from_tf", "from_flax")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ArgumentError for values that cannot be (such as a device that is not there), and for arguments that
    nothing would read."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if "device" in given:
        require_device(given["device"])
    if "device_map" in given:
        _require_device_map(given["device_map"])
    for name, known in (("scorer", SCORERS), ("load", LOADS)):
        if name in given and given[name] not in known:
            raise ArgumentError(f"{name}={given[name]}: unknown; expected {', '.join(known[:-1])} or {known[-1]}")
    for name, value in given.items():
        if (name in NOT_TAKEN and not (name == "weights_only" and value is True)) or name.startswith("_"):
            raise ArgumentError(f"{name}={value}: {NOT_TAKEN.get(name, 'not an argument of a model; leave it out')}")
        if name in EXPECTED and not EXPECTED[name][0](value):
            raise ArgumentError(f"{name}={value}: expected {EXPECTED[name][1]}")
        if name in DTYPES and not _is_dtype(value, name):
            auto = "auto, " if name == "dtype" else ""
            raise ArgumentError(f"{name}={value}: expected {auto}float32, bfloat16 or float16")


def unread_arguments(arguments: Mapping[str, Any], pretrained: Any) -> list[str]:
    """What can be meant but is read by nobody as things stand, each with why: nothing wrong comes of it."""
    given = [name for name, value in arguments.items() if value is not None]
    lines = [f"{name} is read beside parallelize=True alone" for name in given if name in OF_PARALLELIZE]
    if arguments.get("parallelize"):
        lines = []
    lines += [f"{name}: transformers reads it no more" for name in given if name in READ_NO_MORE]
    if arguments.get("revision") not in (None, "main") and is_folder(pretrained):
        lines.append(f"revision={arguments['revision']}: {pretrained} is a folder, which has no revisions")
    return lines


def check_fits_config(arguments: Mapping[str, Any], config: Any) -> None:
    """Raise ArgumentError for a `max_length` beyond the positions that a model of this configuration has learned, for
    a `prefix_token_id` beyond its vocabulary, and for settings of the configuration that make another model of it."""
    length, token = arguments.get("max_length"), arguments.get("prefix_token_id")
    if length is not None and (positions := learned_positions(config)) is not None and length > positions:
        raise ArgumentError(f"max_length={length}: the model has learned {positions} positions; expected at most that")
    size = getattr(config.get_text_config(), "vocab_size", None)
    if token is not None and size is not None and token >= size:
        raise ArgumentError(f"prefix_token_id={token}: the model has {size} tokens; expected 0 to {size - 1}")
    _require_same_shape(arguments, config)


def _require_same_shape(arguments: Mapping[str, Any], config: Any) -> None:
    """transformers sets what an argument names of a configuration: a layer less is left out of the model, a further
    one gets random weights, and with another number of heads the same weights compute something else."""
    changed = copy.deepcopy(config)
    for name, value in arguments.items():
        if hasattr(changed, name) and value is not None:
            with contextlib.suppress(Exception):  # of values that a configuration refuses, transformers says why
                setattr(changed, name, value)
        if shape_of(changed) != shape_of(config):
            layers, heads = shape_of(config)
            raise ArgumentError(f"{name}={value}: the model has {layers} layers of {heads} heads; leave it out")


def _is_dtype(value: Any, name: str) -> bool:
    """Whether a model can be loaded in, or compute in, this dtype."""
    if isinstance(value, str):
        if value == "auto":
            return name == "dtype"
        value = getattr(torch, value.removeprefix("torch."), None)
    return isinstance(value, torch.dtype) and value.is_floating_point


def _require_device_map(value: Any) -> None:
    """Raise ArgumentError unless it says where modules go: by one of transformers' rules, or on devices of here."""
    if isinstance(value, str) and value in DEVICE_MAPS:
        return
    for place in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(place, bool) or not isinstance(place, str | int | torch.device):
            raise ArgumentError(f"device_map={value}: expected {', '.join(DEVICE_MAPS)}, a device, or one by module")
        if place == "disk":
            continue
        numbered = next((kind for kind in KNOWN_DEVICES[1:] if _count(kind)), "cuda")
        try:
            require_device(f"{numbered}:{place}" if isinstance(place, int) else place)
        except ArgumentError as error:
            raise ArgumentError(f"device_map={value}: {error}; or {', '.join(DEVICE_MAPS)}") from None


def require_device_name(device: Any) -> None:
    """Raise ArgumentError for what is no device anywhere."""
    if not re.fullmatch(rf"({'|'.join(KNOWN_DEVICES)})(:[0-9]{{1,4}})?", str(device)):
        raise ArgumentError(f"device={device}: unknown; expected cpu, cuda, cuda:0 or mps")


def require_device(device: Any) -> None:
    """Raise ArgumentError unless torch has that device here."""
    if isinstance(device, torch.device):
        return
    require_device_name(device)
    kind, colon, number = str(device).partition(":")
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


def _count(kind: str) -> int:
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    return module.device_count() if module is not None and module.is_available() else 0
