"""From a user's arguments to a mask: a mask file, or importance files and the fractions to prune."""

from __future__ import annotations

import os
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import ArgumentError, MaskShapeError
from lm_eval_prune.files import sha256_of
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    FilePath = str | os.PathLike[str]
    Share = str | int | float | Decimal | Fraction

__all__ = ["select_mask"]


def select_mask(
    *,
    mask: FilePath | None = None,
    head_importance: FilePath | None = None,
    prune_heads: Share | None = None,
    ffn_importance: FilePath | None = None,
    prune_ffns: Share | None = None,
) -> PruningMask | None:
    """The mask that the arguments ask for; None where they ask for none (a dense model).

    Either `mask`, or `prune_heads` with `head_importance` and `prune_ffns` with `ffn_importance`. The mask's
    provenance names the files with their SHA-256. Raises ArgumentError, FractionError, FileFormatError, MaskError.
    """
    pairs = (("head", "prune_heads", head_importance, prune_heads), ("ffn", "prune_ffns", ffn_importance, prune_ffns))
    if mask is not None:
        for kind, name, file, share in pairs:
            if file is not None or share is not None:
                given = name if share is not None else f"{kind}_importance"
                raise ArgumentError(f"mask={mask} and {given}=... exclude one another; give one of the two")
        loaded = PruningMask.load(mask)
        return _with_provenance(loaded, {**loaded.provenance, "mask_file": _file_record(mask)})
    arguments: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for kind, name, file, share in pairs:
        if share is not None:
            share = parse_fraction(share, name)
        if file is None and share is not None:
            raise ArgumentError(f"{name}={float(share):g} needs {kind}_importance=FILE")
        if file is not None and share is None:
            raise ArgumentError(f"{kind}_importance={file} needs {name}=FRACTION, such as {name}=0.2")
        if file is not None and share is not None:
            scores = ImportanceScores.load(file, "heads" if kind == "head" else "ffns")
            arguments[f"{kind}_scores"], arguments[f"{kind}_fraction"] = scores.scores, share
            shapes[str(file)] = (scores.num_hidden_layers, scores.num_attention_heads)
            provenance |= {name: float(share), f"{kind}_importance": _file_record(file)}
    if not arguments:
        return None
    if len(set(shapes.values())) > 1:
        described = " and ".join("{} ({} layers of {} heads)".format(file, *shape) for file, shape in shapes.items())
        raise MaskShapeError(f"importance files of different models: {described}")
    _, heads = next(iter(shapes.values()))
    return PruningMask.from_importance(**arguments, num_attention_heads=heads, provenance=provenance)


def _file_record(path: FilePath) -> dict[str, str]:
    return {"path": os.fspath(path), "sha256": sha256_of(path)}


def _with_provenance(mask: PruningMask, provenance: dict[str, Any]) -> PruningMask:
    layers, heads = mask.shape
    return PruningMask(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pruned_heads=mask.pruned_heads,
        pruned_ffns=mask.pruned_ffns,
        provenance=provenance,
    )
