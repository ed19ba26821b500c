"""What importance and induction files record of their model, and what a model's arguments alone say of it.

So a finished file is told from one of another model, dtype or mask without loading any.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.demo import BUNDLED_NAME, bundled_model_path
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import json_line
from lm_eval_prune.harness.configuration import effective_mask, read_configuration
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.selection import select_mask

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedOPT

__all__ = ["model_record", "record_of_arguments", "require_same_model"]

MASK_ARGUMENTS = ("mask", "head_importance", "prune_heads", "ffn_importance", "prune_ffns")


def model_record(lm: PrunedOPT) -> dict[str, Any]:
    """`model` and `dtype`, with `revision` and `mask` where the model has them."""
    record: dict[str, Any] = {"model": lm.model_name}
    if (revision := getattr(lm, "revision", None)) not in (None, "main"):
        record["revision"] = revision
    record["dtype"] = str(next(lm.model.parameters()).dtype).removeprefix("torch.")
    if not lm.mask.is_dense:
        record["mask"] = lm.mask.to_dict()
    return record


def record_of_arguments(arguments: Mapping[str, str]) -> dict[str, Any]:
    """The same of the model that `--model_args` ask for; `dtype` only where they say it.

    Reads the model's configuration and the mask's files. Raises PruneError.
    """
    name, revision = arguments.get("pretrained", BUNDLED_NAME), arguments.get("revision", "main")
    config = read_configuration(bundled_model_path() if name == BUNDLED_NAME else name, revision, name)
    requested = select_mask(**{key: arguments[key] for key in MASK_ARGUMENTS if key in arguments})  # type: ignore[arg-type]
    mask = effective_mask(config, requested, name)
    record: dict[str, Any] = {"model": name}
    if revision != "main":
        record["revision"] = revision
    if (dtype := arguments.get("dtype", "auto")) != "auto":
        record["dtype"] = dtype.removeprefix("torch.")
    if not mask.is_dense:
        record["mask"] = mask.to_dict()
    return record


def require_same_model(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise ArgumentError where the file at `path`, of settings `found`, is not of the model that is `asked` for."""
    hint = "--overwrite computes it again"
    for key in ("model", "revision", *(("dtype",) if "dtype" in asked else ())):
        if found.get(key) != asked.get(key):
            there, now = json_line(found.get(key)), json_line(asked.get(key))
            raise ArgumentError(f"{path}: computed with {key}={there}, now {now}; {hint}")
    before, after = _mask(found, path), _mask(asked, path)
    if before != after:
        raise ArgumentError(f"{path}: computed {_told(before)}, now {_told(after)}; {hint}")


def _mask(record: Mapping[str, Any], path: Path) -> PruningMask | None:
    return PruningMask.from_dict(record["mask"], f"{path}: mask") if record.get("mask") else None


def _told(mask: PruningMask | None) -> str:
    if mask is None:
        return "without a mask"
    return f"under a mask of {mask.num_pruned_heads} heads and {mask.num_pruned_ffns} FFNs"
