"""The state of a training in one safetensors file: weights, AdamW's moments, the step, the curve, the settings.

One file, replaced in one move, so that a training killed at any moment finds a whole state, and no pickle is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import ArgumentError, FileFormatError

if TYPE_CHECKING:
    import torch

__all__ = ["load_state", "save_state"]


def save_state(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]
) -> None:
    """Write the state to `path`; `progress` is kept as JSON."""
    from safetensors.torch import save_file

    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value
    partial = path.with_suffix(".partial")
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        partial,
        metadata={"progress": json.dumps(progress)},
    )
    partial.replace(path)


def load_state(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Put the weights and moments saved at `path` into `model` and `optimizer`, in place; returns the saved progress.

    Raises FileFormatError if the file is no such state, ArgumentError if its training had other settings.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path}: not the state of a training ({error}); remove it to begin anew") from None
    with file:
        progress = json.loads(file.metadata()["progress"])
        _require_same(path, progress["settings"], settings)
        for name, parameter in model.named_parameters():
            with torch.no_grad():
                parameter.copy_(file.get_tensor(f"model.{name}"))
            if not parameter.requires_grad:
                continue
            # AdamW keeps its step counter on the CPU, its moments beside the parameter.
            moments = {key: file.get_tensor(f"{key}.{name}") for key in ("exp_avg", "exp_avg_sq", "step")}
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()
            }
    return progress


def _require_same(path: Path, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if found.get(name) != value:
            raise ArgumentError(
                f"{path}: a training with another {name} ({found.get(name)}, now {value}) was stopped here; "
                "give the same settings to go on with it, or another --output_path"
            )
