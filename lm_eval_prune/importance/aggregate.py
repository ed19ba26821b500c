"""Importance over tasks: the mean of their scores at one number of shots; and scores made comparable across layers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import ArgumentError, FileFormatError, ScoreError
from lm_eval_prune.file_names import importance_file_name
from lm_eval_prune.files import is_same_file, json_line, require_no_input, sha256_of
from lm_eval_prune.importance.files import ImportanceScores

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NORMALISATIONS", "OF_THE_MODEL", "aggregate_files", "aggregate_scores", "normalised", "write_aggregate"]

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
    Raises ArgumentError, also for FFNs, of which a layer has but one; ScoreError for scores whose squares overflow.
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
    if not scale.isfinite().all():
        raise ScoreError(f"scores are too large to be normalised ({normalisation}): their squares overflow")
    return scores / scale.masked_fill(scale == 0, 1)


def aggregate_files(paths: Sequence[str | os.PathLike[str]], normalisation: str = "none") -> ImportanceScores:
    """The mean of the files' scores, each normalised first; its settings name them with their SHA-256.

    Raises FileFormatError for a file that cannot be read, ScoreError for files that do not belong together: other
    components, shapes, models, methods or numbers of shots, or a task twice.
    """
    if not paths:
        raise ArgumentError("no importance files; expected at least one")
    loaded = [ImportanceScores.load(path) for path in paths]
    files = [{"path": os.fspath(path), "sha256": sha256_of(path)} for path in paths]
    return _mean(loaded, normalisation, [os.fspath(path) for path in paths], files)


def aggregate_scores(scores: Sequence[ImportanceScores], normalisation: str = "none") -> ImportanceScores:
    """The mean of scores that a program has in memory, as `aggregate_files` takes it of files.

    Raises ScoreError for scores that do not belong together.
    """
    if not scores:
        raise ArgumentError("no importance scores; expected at least one")
    names = [f"scores {number} ({each.settings.get('task')})" for number, each in enumerate(scores)]
    return _mean(scores, normalisation, names, [{} for _ in scores])


def _mean(
    scores: Sequence[ImportanceScores], normalisation: str, names: Sequence[str], files: Sequence[Mapping[str, str]]
) -> ImportanceScores:
    """The mean of `scores`, which errors call by `names` and the result's settings by `files`."""
    first = scores[0]
    _require_alike(names, scores)
    tensors = [normalised(each.tensor(), normalisation) for each in scores]
    settings: dict[str, Any] = {
        key: first.settings[key] for key in (*OF_THE_MODEL, "method", "num_fewshot") if key in first.settings
    }
    settings |= {
        "task": AGGREGATE,
        "tasks": [each.settings.get("task") for each in scores],
        "normalisation": normalisation,
        "files": [
            {**file, **{key: each.settings.get(key) for key in ("num_examples", "split")}}
            for file, each in zip(files, scores, strict=True)
        ],
    }
    mean = sum(tensors[1:], tensors[0]) / len(tensors)
    return ImportanceScores.from_tensor(
        mean, num_attention_heads=first.num_attention_heads, component=first.component, settings=settings
    )


def write_aggregate(
    paths: Sequence[str | os.PathLike[str]], output_path: str | os.PathLike[str], normalisation: str = "none"
) -> Path:
    """Write the files' aggregate to `output_path`, a `.json` file or a folder; returns where it is.

    In a folder its name is `aggregate-<k>shot-<component>-<method>.json`. Among `paths` may be what an earlier call has
    written there, as where they come from a pattern: it does not count, and is written anew.
    Raises ArgumentError where any other of `paths` would be lost, and what `aggregate_files` raises.
    """
    output_path = Path(output_path)
    inputs = [path for path in paths if not _written_before(Path(path), output_path)]
    if not inputs and paths:
        raise ArgumentError(f"{paths[0]}: what this command writes; give the files of single tasks")
    scores = aggregate_files(inputs, normalisation)
    if output_path.suffix != ".json":
        output_path = output_path / _file_name(scores)
    require_no_input(output_path, inputs)
    scores.save(output_path)
    return output_path


def _written_before(path: Path, output_path: Path) -> bool:
    """Whether the file at `path` is what an earlier call of the same command has written."""
    if output_path.suffix == ".json":
        return is_same_file(path, output_path) and ImportanceScores.load(path).settings.get("task") == AGGREGATE
    if not path.name.startswith(AGGREGATE) or not is_same_file(path.parent, output_path):
        return False
    scores = ImportanceScores.load(path)
    return scores.settings.get("task") == AGGREGATE and path.name == _file_name(scores)


def _file_name(scores: ImportanceScores) -> str:
    shots, method = scores.settings.get("num_fewshot", 0), scores.settings.get("method", "unknown")
    return importance_file_name(AGGREGATE, shots, scores.component, method)


def _require_alike(names: Sequence[str], loaded: Sequence[ImportanceScores]) -> None:
    """Raise ScoreError, FileFormatError, which call the scores by `names`, unless they may be averaged."""
    first = loaded[0]
    tasks: dict[Any, Any] = {}
    for name, scores in zip(names, loaded, strict=True):
        if scores.component != first.component:
            raise ScoreError(f"{name}: holds scores of {scores.component}, but {names[0]} of {first.component}")
        if scores.shape != first.shape:
            raise ScoreError(
                "{}: {} layers of {} heads, but {} has {} layers of {} heads".format(
                    name, *scores.shape, names[0], *first.shape
                )
            )
        for key in (*OF_THE_MODEL, "method", "num_fewshot"):
            ours, theirs = _without_provenance(scores.settings.get(key)), _without_provenance(first.settings.get(key))
            if ours != theirs:
                raise ScoreError(f"{name}: {key} is {json_line(ours)}, but {json_line(theirs)} in {names[0]}")
        task = scores.settings.get("task")
        if task == AGGREGATE and len(names) > 1:
            raise ScoreError(f"{name}: an aggregate already; give those of single tasks")
        if task is None and len(names) > 1:
            raise FileFormatError(f'{name}: "task" missing; an aggregate is over tasks')
        if task in tasks:
            raise ScoreError(f"{name}: task {json_line(task)} is already in {tasks[task]}")
        tasks[task] = name


def _without_provenance(value: Any) -> Any:
    """A setting; a mask without what says where it came from."""
    return {key: part for key, part in value.items() if key != "provenance"} if isinstance(value, dict) else value
