"""Importance files: the scores of every head, or of every FFN, as readable JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lm_eval_prune.components import require_possible
from lm_eval_prune.errors import FileFormatError, MaskError, ScoreError
from lm_eval_prune.files import read_json, require_ours, write_json
from lm_eval_prune.strict_json import json_line, validated

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["FORMAT", "VERSION", "ImportanceFile", "ImportanceScores"]

FORMAT = "lm-eval-prune-importance"
VERSION = 1
NOT_SETTINGS = {"format", "version", "component", "num_hidden_layers", "num_attention_heads", "scores"}


class ScoredFile(BaseModel):
    """What an aggregate says of one of the scores that it is the mean of."""

    model_config = ConfigDict(strict=True, extra="allow")

    path: str | None = None
    """None for scores that a program had in memory."""
    sha256: str | None = None
    num_examples: int | None = Field(default=None, ge=0)
    split: str | None = None


class ImportanceFile(BaseModel):
    """An importance file's content: the scores, and of how they were made what this package reads again."""

    model_config = ConfigDict(strict=True, extra="allow")

    format: Literal["lm-eval-prune-importance"]
    version: Literal[1]
    component: Literal["heads", "ffns", "attention", "layers"] = Field(
        description='"heads", "ffns", "attention" or "layers"'
    )
    num_hidden_layers: int = Field(ge=1, description="an integer from 1")
    num_attention_heads: int = Field(ge=1, description="an integer from 1")
    scores: list[Any] = Field(description="a list with one row a layer")
    method: str | None = Field(default=None, description="a name")
    model: str | None = Field(default=None, description="a name")
    task: str | None = Field(default=None, description="a name")
    num_fewshot: int | None = Field(default=None, ge=0, le=10**6, description="a number of shots, from 0")
    num_examples: int | None = Field(default=None, ge=0, description="a number of examples, from 0")
    limit: float | None = Field(default=None, gt=0, description="a number of documents, or a share below 1")
    seed: int | None = Field(default=None, description="an integer")
    split: str | None = Field(default=None, description="a split's name")
    tasks: list[str] | None = Field(default=None, description="names of tasks")
    files: list[ScoredFile] | None = Field(default=None, description="a path, sha256, num_examples and split for each")

    @model_validator(mode="after")
    def _tasks_have_files(self) -> ImportanceFile:
        if self.task == "aggregate" and len(self.tasks or ()) != len(self.files or ()):
            raise ValueError(f'{len(self.tasks or ())} "tasks" but {len(self.files or ())} "files"; expected one each')
        return self


@dataclass(frozen=True, kw_only=True)
class ImportanceScores:
    """Scores of one component kind over a whole model; larger is more important."""

    component: str
    """`"heads"`, `"ffns"`, `"attention"` (all heads of a layer) or `"layers"` (those and its FFN)."""
    num_hidden_layers: int
    num_attention_heads: int
    scores: tuple[tuple[float, ...], ...] | tuple[float, ...]
    """For heads one row a layer with one score a head; for all else one score a layer."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How they were made: method, model, task, num_fewshot, num_examples, seed and more, as in the file."""

    @classmethod
    def from_tensor(
        cls,
        scores: Tensor,
        *,
        num_attention_heads: int,
        settings: Mapping[str, Any] | None = None,
        component: str = "ffns",
    ) -> ImportanceScores:
        """Scores of heads from (num_hidden_layers, num_attention_heads), of another `component` from
        (num_hidden_layers,).

        Raises ScoreError naming the component whose score is not finite.
        """
        for place in (~scores.isfinite()).nonzero().tolist():
            names = [f"{name} {at}" for name, at in zip(("layer", "head"), place, strict=False)]
            raise ScoreError(f"the score of {', '.join(names)} is {float(scores[tuple(place)])}; scores must be finite")
        of_heads = scores.dim() == 2
        rows: Any = tuple(map(tuple, scores.tolist())) if of_heads else tuple(scores.tolist())
        return cls(
            component="heads" if of_heads else component,
            num_hidden_layers=scores.shape[0],
            num_attention_heads=num_attention_heads,
            scores=rows,
            settings=dict(settings or {}),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(num_hidden_layers, num_attention_heads) of the model that was scored."""
        return self.num_hidden_layers, self.num_attention_heads

    @property
    def oracle_on(self) -> tuple[str, ...]:
        """The tasks from whose documents the scores were taken, but not from those of the training split."""
        splits = {self.settings.get("task"): self.settings.get("split")}
        if self.settings.get("task") == "aggregate":
            files = self.settings.get("files") or ()
            splits = dict(zip(self.settings.get("tasks") or (), (file.get("split") for file in files), strict=True))
        return tuple(str(task) for task, split in splits.items() if task and split not in (None, "training"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        """The same as `tensor()` for NumPy, and for all that takes arrays, such as `analysis`."""
        import numpy as np

        return np.asarray(self.scores, dtype=dtype or np.float64)

    def tensor(self) -> Tensor:
        """A new float64 tensor: (num_hidden_layers, num_attention_heads) for heads, else (num_hidden_layers,)."""
        import torch

        return torch.tensor(self.scores, dtype=torch.float64)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the scores as JSON, atomically, one layer of heads a line."""
        settings = dict(self.settings)
        first: dict[str, Any] = {key: settings.pop(key) for key in ("method", "model") if key in settings}
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "component": self.component,
            **first,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            **settings,
        }
        lines = [
            f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
            for key, value in content.items()
        ]
        rows = ",\n    ".join(json.dumps(row) for row in self.scores)
        lines.append(f'  "scores": [\n    {rows}\n  ]')
        require_ours(path)
        write_json(path, content, text="{\n" + ",\n".join(lines) + "\n}")

    @classmethod
    def load(cls, path: str | os.PathLike[str], component: str | None = None) -> ImportanceScores:
        """Read an importance file, optionally only of this `component`. Raises FileFormatError naming the file."""
        content = read_json(path)
        file = validated(ImportanceFile, content, path)
        if component not in (None, file.component):
            raise FileFormatError(f"{path}: holds scores of {file.component}; expected scores of {component}")
        layers, heads = file.num_hidden_layers, file.num_attention_heads
        try:
            require_possible(layers, heads)
        except MaskError as error:
            raise FileFormatError(f"{path}: {error}") from None
        if file.component == "heads":
            checked: Any = tuple(_row(row, heads, f"{path}: scores of layer {i}") for i, row in enumerate(file.scores))
        else:
            checked = _row(file.scores, layers, f"{path}: scores")
        if len(checked) != layers:
            raise FileFormatError(f"{path}: scores have {len(checked)} layers; expected {layers}")
        return cls(
            component=file.component,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            scores=checked,
            settings={key: value for key, value in content.items() if key not in NOT_SETTINGS},
        )


def _row(row: object, length: int, where: str) -> tuple[float, ...]:
    if not isinstance(row, list) or len(row) != length:
        raise FileFormatError(f"{where}: {json_line(row)}; expected a list of {length} numbers")
    for value in row:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise FileFormatError(f"{where}: {json_line(value)} is not a finite number")
    return tuple(float(value) for value in row)
