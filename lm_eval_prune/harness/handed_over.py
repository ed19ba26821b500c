"""A model in whatever form a program has it -> one of ours: a name, a transformers model, a harness model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.harness.precision import with_cpu_precision
from lm_eval_prune.harness.results import LOADED_WITH
from lm_eval_prune.model_args import parse_model_args

__all__ = ["ModelLike", "harness_model"]

ModelLike: TypeAlias = str | os.PathLike[str] | torch.nn.Module | LM
"""A hub id or a checkpoint's folder, a transformers model, or a harness model: `PrunedModel` or `hf`."""
OF_THE_WEIGHTS = {"revision", "peft", "delta"}
"""Arguments of `hf` that a loaded model has behind it."""


def harness_model(
    model_or_lm: ModelLike,
    *,
    tokenizer: Any = None,
    model_args: str | Mapping[str, Any] | None = None,
    batch_size: int | str | None = None,
    device: str | None = None,
) -> PrunedModel:
    """The harness model to compute with; a `PrunedModel` is itself.

    `tokenizer` is a transformers tokenizer, a hub id or a folder; without it a name brings its own, and a transformers
    model that of the checkpoint that it was loaded from. `model_args` are further arguments of `pruned-hf`, such as
    `dtype` and `revision`; on a CPU a name is loaded in float32, unless they say otherwise, as by the commands. Of a
    harness model of the class `hf`, the settings that decide its answers are taken over.
    Raises ArgumentError for what is none of these, or for settings of a model that has them already; PruneError.
    """
    given = {"tokenizer": tokenizer, "model_args": model_args, "batch_size": batch_size, "device": device}
    if isinstance(model_or_lm, LM):
        if named := [name for name, value in given.items() if value is not None]:
            raise ArgumentError(f"{named[0]}: the harness model has its own; leave it out")
        return model_or_lm if isinstance(model_or_lm, PrunedModel) else _of_hf(model_or_lm)
    arguments = parse_model_args(model_args)
    if doubled := arguments.keys() & {"pretrained", *(name for name, value in given.items() if value is not None)}:
        raise ArgumentError(f"model_args: {min(doubled)}: given twice; leave it out of model_args")
    settings = {name: given[name] for name in ("batch_size", "device") if given[name] is not None}
    arguments = {"batch_size": 8, **arguments, **settings}
    if tokenizer is not None:
        arguments["tokenizer"] = _checked_tokenizer(tokenizer)
    if isinstance(model_or_lm, torch.nn.Module):
        if arguments.get("tokenizer") is None and not getattr(model_or_lm, "name_or_path", ""):
            raise ArgumentError(
                f"{type(model_or_lm).__name__}: not loaded from a checkpoint, so that its tokenizer is not known; give "
                "tokenizer="
            )
    elif not isinstance(model_or_lm, str | os.PathLike):
        raise ArgumentError(
            f"a {type(model_or_lm).__name__} is no model; expected a hub id, a checkpoint's folder, a transformers "
            "model or a harness model"
        )
    else:
        arguments = with_cpu_precision(arguments)
    return PrunedModel(model_or_lm, **arguments)


def _of_hf(lm: LM) -> PrunedModel:
    """Around the same weights. Raises ArgumentError for a class that computes in a way of its own."""
    if type(lm) is not HFLM:
        raise ArgumentError(
            f"a harness model of class {type(lm).__name__} cannot be pruned; expected PrunedModel, or the class HFLM"
        )
    settings = {name: getattr(lm, place, None) for name, place in LOADED_WITH.items() if name not in OF_THE_WEIGHTS}
    kept = {name: value for name, value in settings.items() if value is not None}
    size = "auto" if lm.batch_size == "auto" else lm.batch_size_per_gpu
    return PrunedModel(lm.model, tokenizer=lm.tokenizer, batch_size=size, **kept)


def _checked_tokenizer(tokenizer: Any) -> Any:
    if isinstance(tokenizer, str | os.PathLike):
        return os.fspath(tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ArgumentError(
            f"tokenizer: a {type(tokenizer).__name__}; expected a tokenizer of transformers, a hub id or a folder"
        )
    return tokenizer
