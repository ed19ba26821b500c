"""What a loaded model is, as far as its answers go: a hash of everything but a list of what cannot matter.

Its tensors, its modules with their classes and settings (an adapter's scaling is one), configurations, tokenizer, and
the attributes of the harness model around it. Arguments alone would not tell two models that a program has changed.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import align_module_device

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

__all__ = ["PROBE", "loaded_fingerprint", "object_digest", "tokenizer_digest"]

PROBE = "The quick brown fox"
"""Encoded as every prompt is, to record which tokens come of a text, a beginning-of-sequence token among them."""

NOT_ANSWERING = frozenset(
    {
        "_model", "_config", "tokenizer", "model", "mask", "means", "_requested", "arguments", "accelerator",
        "cache_hook", "pretrained", "revision", "peft", "delta", "load", "AUTO_MODEL_CLASS", "_device", "_rank",
        "_world_size", "batch_size_per_gpu", "batch_sizes", "batch_schedule", "max_batch_size", "vocab_size",
        "task_dict",
    }
)  # fmt: skip
"""Attributes of a harness model that are hashed as what they are below, or that say where and how fast."""
NOT_OF_A_MODULE = frozenset({"training", "name_or_path", "warnings_issued", "hf_device_map", "dtype", "device"})
NOT_OF_A_CONFIG = frozenset(
    {"_name_or_path", "transformers_version", "_commit_hash", "_from_model_config", "base_model_name_or_path", "dtype"}
)
NOT_OF_A_TOKENIZER = frozenset({"truncation", "padding"})
"""Of its file: what the last call has left there."""

_DIGESTS: weakref.WeakKeyDictionary[torch.nn.Module, tuple[list[object], str]] = weakref.WeakKeyDictionary()


def loaded_fingerprint(lm: HFLM) -> str:
    """SHA-256 over all that decides the answers of a harness model, its mask (not where it came from) included."""
    mask = getattr(lm, "mask", None)
    described = {} if mask is None else {key: value for key, value in mask.to_dict().items() if key != "provenance"}
    content = {
        "class": type(lm).__qualname__,
        "mask": described,
        "means": None if (means := getattr(lm, "means", None)) is None else means.digest,
        "settings": {key: _plain(value) for key, value in vars(lm).items() if key not in NOT_ANSWERING},
        "max_length": lm.max_length,
        "prefix_token_id": lm.prefix_token_id,
        "probe": lm.tok_encode(PROBE),
        "model": _model_digest(lm.model),
        "tokenizer": _tokenizer(lm.tokenizer),
    }
    return _digest(content)


def object_digest(model: torch.nn.Module, tokenizer: Any) -> str:
    """SHA-256 over a model and a tokenizer in memory, whatever they were loaded from."""
    return _digest([_model_digest(model), _tokenizer(tokenizer)])


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over what a tokenizer makes of texts and messages."""
    return _digest(_tokenizer(tokenizer))


def _model_digest(model: torch.nn.Module) -> str:
    """SHA-256 over a model: weights and buffers, modules with their settings, configurations. No names, no places."""
    configs = {
        "attention": getattr(model.config, "_attn_implementation", None),
        **{name: _config(getattr(model, name, None)) for name in ("config", "generation_config")},
        "peft": {name: _config(found) for name, found in (getattr(model, "peft_config", None) or {}).items()},
        "adapters": _plain(getattr(model, "active_adapters", None)),
    }
    return _digest([configs, _modules(model), _tensors_digest(model)])


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=_plain, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def _plain(value: Any) -> Any:
    """JSON values as they are, numbers' and functions' kinds by name; objects by their class."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(found) for key, found in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(found) for found in value]
    if hasattr(value, "to_dict"):
        return _config(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _config(config: Any) -> Any:
    if config is None or not hasattr(config, "to_dict"):
        return None
    return {key: _plain(value) for key, value in config.to_dict().items() if key not in NOT_OF_A_CONFIG}


def _modules(model: torch.nn.Module) -> list[object]:
    """Every module: its class, its settings, and functions that stand in the way of its inputs and outputs."""
    described: list[object] = []
    for path, module in model.named_modules():
        kept = {
            name: _plain(value)
            for name, value in vars(module).items()
            if not name.startswith("_") and name not in NOT_OF_A_MODULE and not isinstance(value, torch.Tensor)
        }
        if hasattr(module, "_hf_hook"):  # accelerate's, which only brings weights in
            kept.pop("forward", None)
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        described.append([path, _plain(type(module)), kept, [_plain(hook) for hook in hooks]])
    return described


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else {"vocab": tokenizer.get_vocab()}
    return {
        "class": type(tokenizer).__name__,
        "content": {key: value for key, value in content.items() if key not in NOT_OF_A_TOKENIZER},
        "special": _plain({key: str(value) for key, value in tokenizer.special_tokens_map.items()}),
        "template": _plain(getattr(tokenizer, "chat_template", None)),
        "settings": {
            name: getattr(tokenizer, name, None)
            for name in ("add_bos_token", "add_eos_token", "model_max_length", "clean_up_tokenization_spaces")
        },
    }


# -- tensors ------------------------------------------------------------------------------------------------------


def _tensors_digest(model: torch.nn.Module) -> str:
    """Of names, shapes, dtypes and bytes of all tensors; hashed again where a quick look shows a change."""
    look = [_look(name, tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]]
    known = _DIGESTS.get(model)
    if known is None or known[0] != look:
        digest = hashlib.sha256()
        for name, tensor in _tensors(model):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        known = _DIGESTS[model] = look, digest.hexdigest()
    return known[1]


def _look(name: str, tensor: torch.Tensor) -> object:
    """The tensor's place, its count of changes, and the sum of its bits: writing to `.data` counts no change."""
    place = name, tuple(tensor.shape), tensor.dtype, tensor.device.type, tensor._version
    if tensor.is_meta or not tensor.numel():
        return place
    bits = tensor.detach().contiguous().view(-1).view(torch.uint8)
    width = 4 if bits.numel() % 4 == 0 and bits.storage_offset() % 4 == 0 else 1
    return *place, int(bits.view(torch.int32 if width == 4 else torch.uint8).sum(dtype=torch.int64))


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors, also of modules that accelerate has offloaded, and what quantised weights carry beside them."""
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        if not own:
            continue
        with align_module_device(module):
            for name in sorted(own):
                tensor = getattr(module, name).detach()
                yield f"{path}.{name}", tensor
                yield from _beside(f"{path}.{name}", getattr(module, name))


def _beside(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in sorted(vars(tensor).items()):
        state = value.as_dict(packed=True) if hasattr(value, "as_dict") else {"": value}
        for part, found in sorted(state.items()):
            if isinstance(found, torch.Tensor):
                yield f"{name}.{key}.{part}", found.detach()
