"""Mean outputs of heads and FFNs: what mean ablation puts in the place of what is pruned.

A head's mean is that of its output (attention x values, before the output map) over all tokens that the model reads of
all examples, each token counted once; an FFN's, of what it adds to the residual stream. So a pruned component keeps
saying what it says on average, and loses what it says about this text (Wang et al. 2023, arXiv 2211.00593, section 2.1;
there the means are over positions apart, which a constant in a map's bias could not hold).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.components import require_possible
from lm_eval_prune.errors import ArgumentError, FileFormatError, MaskError, MaskShapeError
from lm_eval_prune.files import read_bytes, require_ours, write_bytes
from lm_eval_prune.strict_json import json_line, parse_json
from lm_eval_prune.text import one_line

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ABLATIONS", "FORMAT", "Means", "means_asked_for"]

ABLATIONS = ("zero", "mean")
"""What is in the place of what is pruned: nothing, the default, or its mean output."""

FORMAT = "lm-eval-prune-means"
VERSION = "1"
EXPECTED = "a file of means, as `lm-eval-prune means` writes it"


@dataclass(frozen=True, kw_only=True, eq=False)
class Means:
    """The mean outputs of one model over one set of prompts. Raises MaskError for numbers that are not finite."""

    heads: Tensor
    """float32 (num_hidden_layers, num_attention_heads, head_dim); zeros for heads that a compacted model lacks."""
    ffns: Tensor
    """float32 (num_hidden_layers, hidden_size); zeros for FFNs that it lacks."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How they were made: model, task, num_fewshot, num_examples, num_tokens, split, seed and more; JSON values."""

    def __post_init__(self) -> None:
        if self.heads.dim() != 3 or self.ffns.dim() != 2 or len(self.heads) != len(self.ffns):
            raise MaskShapeError(
                f"means of heads {tuple(self.heads.shape)} and FFNs {tuple(self.ffns.shape)}; expected "
                "(num_hidden_layers, num_attention_heads, head_dim) and (num_hidden_layers, hidden_size)"
            )
        for name, values in (("heads", self.heads), ("ffns", self.ffns)):
            for layer in (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()[:1]:
                raise MaskError(f"means of {name}, layer {layer}: not all numbers are finite")

    @property
    def shape(self) -> tuple[int, int]:
        """(num_hidden_layers, num_attention_heads)."""
        return self.heads.shape[0], self.heads.shape[1]

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers, in hexadecimal: the same for the same means, wherever they lie."""
        found = hashlib.sha256()
        for values in (self.heads, self.ffns):
            found.update(repr(tuple(values.shape)).encode())
            found.update(values.contiguous().cpu().numpy().tobytes())
        return found.hexdigest()

    def check_fits(self, shape: tuple[int, int], head_dim: int, hidden_size: int, where: str = "the model") -> None:
        """Raise MaskShapeError unless they are of a model of these sizes."""
        own = (*self.shape, self.heads.shape[2], self.ffns.shape[1])
        if own != (*shape, head_dim, hidden_size):
            told = "{} layers of {} heads of {}, hidden size {}"
            raise MaskShapeError(
                f"means are of {told.format(*own)}, but {where} has {told.format(*shape, head_dim, hidden_size)}"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as safetensors, atomically. Raises ArgumentError rather than replace a file that is not ours."""
        from safetensors.torch import save

        require_ours(path)
        told = {"format": FORMAT, "version": VERSION, "settings": json.dumps(self.settings, allow_nan=False)}
        tensors = {"heads": self.heads.contiguous().cpu(), "ffns": self.ffns.contiguous().cpu()}
        write_bytes(path, save(tensors, metadata=told))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Means:
        """Read a file that `save` wrote. Raises FileFormatError naming it."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = Path(path)
        data = read_bytes(path, "safetensors")
        settings = _settings(data, path)
        try:
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"{path}: {one_line(error)}; expected {EXPECTED}") from None
        for name, dim in (("heads", 3), ("ffns", 2)):
            found = tensors.get(name)
            if found is None or found.dim() != dim or str(found.dtype) != "torch.float32" or not found.numel():
                raise FileFormatError(f"{path}: no float32 numbers {name!r} in {dim} dimensions; expected {EXPECTED}")
        heads, ffns = tensors["heads"], tensors["ffns"]
        try:
            require_possible(heads.shape[0], heads.shape[1])
            return cls(heads=heads, ffns=ffns, settings=settings)
        except MaskError as error:
            raise FileFormatError(f"{path}: {error}") from None


def means_asked_for(ablation: str | None, means: str | os.PathLike[str] | Means | None) -> Means | None:
    """The means that the two arguments ask for; None for zeros. Either says `ablation` too.

    Raises ArgumentError where they do not agree, FileFormatError for a file that holds none.
    """
    if ablation is not None and ablation not in ABLATIONS:
        raise ArgumentError(f"ablation={ablation}: unknown; expected {' or '.join(ABLATIONS)}")
    if ablation == "mean" and means is None:
        raise ArgumentError("ablation=mean needs means=FILE, which `lm-eval-prune means` writes")
    if ablation == "zero" and means is not None:
        raise ArgumentError("ablation=zero and means=... exclude one another; leave one of the two out")
    return means if means is None or isinstance(means, Means) else Means.load(means)


def _settings(data: bytes, path: Path) -> dict[str, Any]:
    """What the file's header says of how the means were made."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise FileFormatError(f"{path}: no safetensors file, or one that is cut short; expected {EXPECTED}")
    header = parse_json(data[8 : 8 + length], path)
    told = header.get("__metadata__") if isinstance(header, Mapping) else None
    if not isinstance(told, Mapping) or told.get("format") != FORMAT:
        raise FileFormatError(f"{path}: its header does not say {FORMAT!r}; expected {EXPECTED}")
    if told.get("version") != VERSION:
        raise FileFormatError(f"{path}: version {json_line(told.get('version'))} of {FORMAT}; expected {VERSION}")
    settings = parse_json(str(told.get("settings", "{}")).encode(), path)
    if not isinstance(settings, dict):
        raise FileFormatError(f"{path}: its settings are no JSON object; expected {EXPECTED}")
    return settings
