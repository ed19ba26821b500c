"""From a user's arguments to a mask: a mask file, or importance files and the fractions to prune (ranked_masks.py)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from lm_eval_prune.components import UNITS
from lm_eval_prune.errors import ArgumentError, FileFormatError, MaskShapeError
from lm_eval_prune.files import sha256_of
from lm_eval_prune.foreign_masks import Shape, read_mask
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.importance.exclusion import LEFT_OUT
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.ranked_masks import ranked_mask
from lm_eval_prune.text import printable

if TYPE_CHECKING:
    from torch import Tensor

    FilePath = str | os.PathLike[str]
    Share = str | int | float | Decimal | Fraction

__all__ = ["component_scores", "read_mask_file", "select_mask"]

logger = logging.getLogger(__name__)


def select_mask(
    *,
    mask: FilePath | None = None,
    head_importance: FilePath | None = None,
    prune_heads: Share | None = None,
    ffn_importance: FilePath | None = None,
    prune_ffns: Share | None = None,
    order: str = "least",
    layers: tuple[int, int] | None = None,
    normalisation: str = "none",
    seed: int = 1234,
    unit: str = "head",
    layout: str = "global",
    num_key_value_heads: int | Callable[[], int] | None = None,
    shape: Shape | Callable[[], Shape] | None = None,
    without_importance: FilePath | None = None,
    leave_out: Share | None = None,
    layer_importance: FilePath | None = None,
    prune_layers: Share | None = None,
) -> PruningMask | None:
    """The mask that the arguments ask for; None where they ask for none (a dense model).

    Either `mask`, a file of ours or of another project (`foreign_masks`; some need the model's `shape`), or
    `prune_heads` with `head_importance`, `prune_ffns` with `ffn_importance` and `prune_layers` with `layer_importance`;
    with `unit="attention"` the scores of heads may be those of each layer's attention. The other arguments are those of
    `ranked_mask`. With `order="most"`, `without_importance` is a file of heads' scores whose top share, `leave_out`
    (0.02), is left out. The mask's provenance names the files with their SHA-256, and as `oracle_on` the tasks whose
    scores were taken from other than training documents.
    Raises ArgumentError, FractionError, FileFormatError, MaskError.
    """
    pairs = (
        ("head", "prune_heads", head_importance, prune_heads),
        ("ffn", "prune_ffns", ffn_importance, prune_ffns),
        ("layer", "prune_layers", layer_importance, prune_layers),
    )
    if unit not in UNITS:
        raise ArgumentError(f"unit={unit}: unknown; expected {', '.join(UNITS[:-1])} or {UNITS[-1]}")
    if mask is not None:
        _require_alone(mask, pairs, unit, layout)
        return read_mask_file(mask, shape)
    files = _Files(unit, order)
    for kind, name, file, share in pairs:
        files.rank(kind, name, file, share)
    files.leave_out(without_importance, leave_out, among=head_importance)
    if not files.arguments:
        return None
    choice: dict[str, Any] = {"order": order, "layers": layers, "normalisation": normalisation, "seed": seed}
    if layout != "global":
        choice["layout"] = layout
    if unit != "head" or layout != "global":
        groups = num_key_value_heads() if callable(num_key_value_heads) else num_key_value_heads
        choice |= {"unit": unit, "num_key_value_heads": groups}
    mask_made = ranked_mask(**files.arguments, num_attention_heads=files.num_attention_heads, **choice)
    defaults = {"order": "least", "layers": None, "normalisation": "none", "seed": seed if order != "random" else None}
    defaults["unit"] = "head"
    unusual = {key: value for key, value in choice.items() if value != defaults.get(key)}
    return replace(mask_made, provenance={**files.provenance, **unusual})


class _Files:
    """The importance files that a mask is made of: what `ranked_mask` takes of them, and what the mask says of them."""

    def __init__(self, unit: str, order: str) -> None:
        self.unit, self.order = unit, order
        self.arguments: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}

    def rank(self, kind: str, name: str, file: FilePath | None, share: Share | None) -> None:
        """Prune a share, called `name`, by the scores in `file`. Raises ArgumentError where one comes without the
        other."""
        if share is not None:
            share = parse_fraction(share, name)
        if file is None and share is not None:
            raise ArgumentError(f"{name}={float(share):g} needs {kind}_importance=FILE")
        if file is not None and share is None:
            raise ArgumentError(f"{kind}_importance={file} needs {name}=FRACTION, such as {name}=0.2")
        if file is not None and share is not None:
            scores = ImportanceScores.load(file)
            ranked = component_scores(scores, f"{kind}s", self.unit, where=str(file))
            self.arguments |= {f"{kind}_scores": ranked, f"{kind}_fraction": share}
            self.provenance |= {name: float(share), f"{kind}_importance": _file_record(file)}
            self._seen(file, scores, oracle=self.order != "random")

    def leave_out(self, file: FilePath | None, share: Share | None, *, among: FilePath | None) -> None:
        """Leave the top share of heads by the scores in `file` out of the ranking by those in `among`."""
        if file is None:
            if share is not None:
                raise ArgumentError(f"leave_out={share} needs without_importance=FILE")
            return
        if among is None or self.order != "most":
            given = "without_importance" if among is None else f"order={self.order}"
            raise ArgumentError(f"{given}: heads are left out of a ranking by head_importance, with order=most")
        share = parse_fraction(LEFT_OUT if share is None else share, "leave_out")
        scores = ImportanceScores.load(file, "heads")
        self.arguments |= {"without_scores": scores.tensor(), "leave_out": share}
        self.provenance |= {"without_importance": _file_record(file), "leave_out": float(share)}
        self._seen(file, scores)

    @property
    def num_attention_heads(self) -> int:
        """Of each layer. Raises MaskShapeError where files are of different models."""
        if len(set(self.shapes.values())) > 1:
            told = " and ".join("{} ({} layers of {} heads)".format(file, *of) for file, of in self.shapes.items())
            raise MaskShapeError(f"importance files of different models: {told}")
        return next(iter(self.shapes.values()))[1]

    def _seen(self, file: FilePath, scores: ImportanceScores, *, oracle: bool = True) -> None:
        self.shapes[str(file)] = scores.shape
        if scores.oracle_on and oracle:
            self.provenance["oracle_on"] = sorted({*self.provenance.get("oracle_on", ()), *scores.oracle_on})


def _require_alone(mask: FilePath, pairs: Iterable[tuple[Any, ...]], unit: str, layout: str) -> None:
    """A mask's file is all that is asked for. Raises ArgumentError."""
    for kind, name, file, share in pairs:
        if file is not None or share is not None:
            given = name if share is not None else f"{kind}_importance"
            raise ArgumentError(f"mask={mask} and {given}=... exclude one another; give one of the two")
    if unit != "head" or layout != "global":
        given = "unit" if unit != "head" else "layout"
        raise ArgumentError(f"mask={mask} and {given}=... exclude one another; a mask is of query heads")


def read_mask_file(
    path: FilePath,
    shape: Shape | Callable[[], Shape] | None = None,
    *,
    invert: bool = False,
    counting_from: int | None = None,
    say: bool = True,
) -> PruningMask:
    """The mask in a file of ours or of another project; the arguments are those of `foreign_masks.read_mask`.

    Its provenance names the file with its SHA-256, and as `read_as` how a foreign one was read; that is logged too,
    unless `say` is False.
    """
    loaded, told = read_mask(path, shape, invert=invert, counting_from=counting_from)
    if told and say:
        logger.warning("%s: read as %s", printable(os.fspath(path)), told)
    form = {"read_as": told} if told else {}
    return replace(loaded, provenance={**loaded.provenance, **form, "mask_file": _file_record(path)})


def component_scores(scores: ImportanceScores, component: str, unit: str = "head", *, where: str) -> Tensor:
    """The scores by which `component` goes, of heads (num_hidden_layers, num_attention_heads).

    Where whole layers of attention are the `unit`, scores of those are taken too, for each of their heads.
    Raises FileFormatError, which begins with `where`, for scores of another component.
    """
    tensor = scores.tensor()
    if component == "heads" and scores.component == "attention" and unit == "attention":
        return tensor[:, None].expand(scores.shape) / scores.num_attention_heads
    if scores.component != component:
        hint = "; for those give unit=attention" if (component, scores.component) == ("heads", "attention") else ""
        raise FileFormatError(f"{where}: holds scores of {scores.component}; expected scores of {component}{hint}")
    return tensor


def _file_record(path: FilePath) -> dict[str, str]:
    return {"path": os.fspath(path), "sha256": sha256_of(path)}
