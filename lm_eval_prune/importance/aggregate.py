"""Importance over tasks: the mean of their scores at one number of shots; and scores made comparable across layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import ArgumentError, FileFormatError, ScoreError
from lm_eval_prune.files import json_line, sha256_of
from lm_eval_prune.importance.files import ImportanceScores

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NORMALISATIONS", "OF_THE_MODEL", "aggregate_files", "normalised"]

NORMALISATIONS = ("none", "l2", "standardised")
"""`none` is the paper's; the others remove what sets layers apart: their scale, or their scale and their mean."""

OF_THE_MODEL = ("model", "revision", "model_args", "mask")
"""Settings that say which model it was; with the method and the number of shots, files of one aggregate share them."""
AGGREGATE = "aggregate"
"""The task that a mean over tasks names."""


def normalised(scores: Tensor, normalisation: str) -> Tensor:
    """New scores of heads (num_hidden_layers, num_attention_heads), normalised layer by layer.

    `l2` divides by the layer's Euclidean norm; `standardised` subtracts the layer's mean and divides by its standard
    deviation (of the population). A layer of equal scores becomes zeros when standardised, one of zeros stays zero.
    Raises ArgumentError, also for FFNs, of which a layer has but one.
    """
    if normalisation not in NORMALISATIONS:
        raise ArgumentError(f"normalisation {normalisation!r}: unknown; expected one of {', '.join(NORMALISATIONS)}")
    if normalisation == "none":
        return scores.clone()
    if scores.dim() != 2:
        raise ArgumentError(f"normalisation {normalisation} is within layers, but a layer has one FFN; use none")
    if normalisation == "standardised":
        scores = scores - scores.mean(1, keepdim=True)
        scale = scores.pow(2).mean(1, keepdim=True).sqrt()
    else:
        scale = scores.pow(2).sum(1, keepdim=True).sqrt()
    return scores / scale.masked_fill(scale == 0, 1)


def aggregate_files(paths: Sequence[str | os.PathLike[str]], normalisation: str = "none") -> ImportanceScores:
    """The mean of the files' scores, each normalised first; its settings name them with their SHA-256.

    Raises FileFormatError for a file that cannot be read, ScoreError for files that do not belong together: other
    components, shapes, models, methods or numbers of shots, or a task twice.
    """
    if not paths:
        raise ArgumentError("no importance files; expected at least one")
    loaded = [ImportanceScores.load(path) for path in paths]
    _require_alike(paths, loaded)
    tensors = [normalised(scores.tensor(), normalisation) for scores in loaded]
    settings: dict[str, Any] = {
        key: loaded[0].settings[key] for key in (*OF_THE_MODEL, "method", "num_fewshot") if key in loaded[0].settings
    }
    settings |= {
        "task": AGGREGATE,
        "tasks": [scores.settings.get("task") for scores in loaded],
        "normalisation": normalisation,
        "files": [
            {
                "path": os.fspath(path),
                "sha256": sha256_of(path),
                **{key: scores.settings.get(key) for key in ("num_examples", "split")},
            }
            for path, scores in zip(paths, loaded, strict=True)
        ],
    }
    mean = sum(tensors[1:], tensors[0]) / len(tensors)
    return ImportanceScores.from_tensor(mean, num_attention_heads=loaded[0].num_attention_heads, settings=settings)


def _require_alike(paths: Sequence[str | os.PathLike[str]], loaded: Sequence[ImportanceScores]) -> None:
    first = loaded[0]
    tasks: dict[Any, Any] = {}
    for path, scores in zip(paths, loaded, strict=True):
        if scores.component != first.component:
            raise ScoreError(f"{path}: holds scores of {scores.component}, but {paths[0]} of {first.component}")
        if scores.shape != first.shape:
            raise ScoreError(
                "{}: {} layers of {} heads, but {} has {} layers of {} heads".format(
                    path, *scores.shape, paths[0], *first.shape
                )
            )
        for key in (*OF_THE_MODEL, "method", "num_fewshot"):
            ours, theirs = _without_provenance(scores.settings.get(key)), _without_provenance(first.settings.get(key))
            if ours != theirs:
                raise ScoreError(f"{path}: {key} is {json_line(ours)}, but {json_line(theirs)} in {paths[0]}")
        task = scores.settings.get("task")
        if task == AGGREGATE and len(paths) > 1:
            raise ScoreError(f"{path}: an aggregate already; give the files of single tasks")
        if task is None and len(paths) > 1:
            raise FileFormatError(f'{path}: "task" missing; an aggregate is over tasks')
        if task in tasks:
            raise ScoreError(f"{path}: task {json_line(task)} is already in {tasks[task]}")
        tasks[task] = path


def _without_provenance(value: Any) -> Any:
    """A setting; a mask without what says where it came from."""
    return {key: part for key, part in value.items() if key != "provenance"} if isinstance(value, dict) else value
