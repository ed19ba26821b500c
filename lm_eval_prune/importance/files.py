"""Importance files: the scores of every head, or of every FFN, as readable JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import FileFormatError, ScoreError
from lm_eval_prune.files import json_line, read_json, require_format, write_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMAT", "VERSION", "ImportanceScores"]

FORMAT = "lm-eval-prune-importance"
VERSION = 1
_REQUIRED = {"component", "num_hidden_layers", "num_attention_heads", "scores"}


@dataclass(frozen=True, kw_only=True)
class ImportanceScores:
    """Scores of one component kind over a whole model; larger is more important."""

    component: str
    """`"heads"` or `"ffns"`."""
    num_hidden_layers: int
    num_attention_heads: int
    scores: tuple[tuple[float, ...], ...] | tuple[float, ...]
    """For heads one row a layer with one score a head; for FFNs one score a layer."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How they were made: method, model, task, num_fewshot, num_examples, seed and more, as in the file."""

    @classmethod
    def from_tensor(
        cls, scores: Tensor, *, num_attention_heads: int, settings: Mapping[str, Any] | None = None
    ) -> ImportanceScores:
        """Scores of heads from (num_hidden_layers, num_attention_heads), of FFNs from (num_hidden_layers,).

        Raises ScoreError naming the component whose score is not finite.
        """
        for place in (~scores.isfinite()).nonzero().tolist():
            names = [f"{name} {at}" for name, at in zip(("layer", "head"), place, strict=False)]
            raise ScoreError(f"the score of {', '.join(names)} is {float(scores[tuple(place)])}; scores must be finite")
        of_heads = scores.dim() == 2
        rows: Any = tuple(map(tuple, scores.tolist())) if of_heads else tuple(scores.tolist())
        return cls(
            component="heads" if of_heads else "ffns",
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
            files = self.settings.get("files", ())
            splits = dict(zip(self.settings.get("tasks", ()), (file.get("split") for file in files), strict=True))
        return tuple(str(task) for task, split in splits.items() if task and split not in (None, "training"))

    def tensor(self) -> Tensor:
        """A new float64 tensor: (num_hidden_layers, num_attention_heads) for heads, (num_hidden_layers,) for FFNs."""
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
        lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
        rows = ",\n    ".join(json.dumps(row) for row in self.scores)
        lines.append(f'  "scores": [\n    {rows}\n  ]')
        write_json(path, content, text="{\n" + ",\n".join(lines) + "\n}")

    @classmethod
    def load(cls, path: str | os.PathLike[str], component: str | None = None) -> ImportanceScores:
        """Read an importance file, optionally only of this `component`. Raises FileFormatError naming the file."""
        content = read_json(path)
        settings = {key: value for key, value in content.items() if key not in _REQUIRED | {"format", "version"}}
        require_format(content, path, name=FORMAT, version=VERSION, required=_REQUIRED, optional=set(settings))
        found = content["component"]
        if found not in ("heads", "ffns"):
            raise FileFormatError(f'{path}: "component" is {json_line(found)}; expected "heads" or "ffns"')
        if component not in (None, found):
            raise FileFormatError(f"{path}: holds scores of {found}; expected scores of {component}")
        layers, heads = content["num_hidden_layers"], content["num_attention_heads"]
        for key, value in (("num_hidden_layers", layers), ("num_attention_heads", heads)):
            if type(value) is not int or value < 1:
                raise FileFormatError(f'{path}: "{key}" is {json_line(value)}; expected an integer from 1')
        scores = content["scores"]
        if found == "heads":
            checked: Any = tuple(_row(row, heads, f"{path}: scores of layer {i}") for i, row in _rows(scores, path))
        else:
            checked = _row(scores, layers, f"{path}: scores")
        if len(checked) != layers:
            raise FileFormatError(f"{path}: scores have {len(checked)} layers; expected {layers}")
        return cls(
            component=found, num_hidden_layers=layers, num_attention_heads=heads, scores=checked, settings=settings
        )


def _rows(scores: object, path: object) -> enumerate[object]:
    if not isinstance(scores, list):
        raise FileFormatError(f'{path}: "scores" is {json_line(scores)}; expected a list with one row a layer')
    return enumerate(scores)


def _row(row: object, length: int, where: str) -> tuple[float, ...]:
    if not isinstance(row, list) or len(row) != length:
        raise FileFormatError(f"{where}: {json_line(row)}; expected a list of {length} numbers")
    for value in row:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise FileFormatError(f"{where}: {json_line(value)} is not a finite number")
    return tuple(float(value) for value in row)
