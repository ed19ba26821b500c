"""What files of importance, means and induction record of their model, and what a model's arguments alone say of it.

So a finished file is told from one of another model, dtype or mask without loading any.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders import key_value_heads, shape_of
from lm_eval_prune.decoders.configuration import PLACES, effective_mask, read_configuration
from lm_eval_prune.demo import BUNDLED_NAME, bundled_model_path, is_bundled
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import json_line
from lm_eval_prune.harness.arguments import check_arguments, check_fits_config
from lm_eval_prune.identity import MASK_ARGUMENTS, counting_arguments
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.means import Means, means_asked_for
from lm_eval_prune.selection import select_mask

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["model_record", "record_of_arguments", "require_same_model"]

RECORDED_OTHERWISE = {"revision", "dtype", "load", "ablation", "means"}


def model_record(lm: PrunedModel) -> dict[str, Any]:
    """`model` and `dtype`; `revision`, `model_args` (all others that count) and `mask` where the model has them."""
    dtype = next(lm.model.parameters()).dtype
    return _record(lm.model_name, lm.arguments, dtype, lm.mask, lm.means)


def record_of_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same of the model that these arguments ask for; without `dtype` where only its weights say it.

    Reads the model's configuration and the mask's files. Raises PruneError.
    """
    check_arguments(arguments)
    given = arguments.get("pretrained")
    place = str(bundled_model_path() if is_bundled(given) else given)
    name = BUNDLED_NAME if place == str(bundled_model_path()) else place
    where = {key: arguments[key] for key in PLACES if key in arguments}
    config = read_configuration(place, name, **where)
    check_fits_config(arguments, config)
    given = {key: arguments[key] for key in MASK_ARGUMENTS if key in arguments}
    requested = select_mask(**given, num_key_value_heads=partial(key_value_heads, config), shape=shape_of(config))
    dtype = str(arguments.get("dtype", "auto")).removeprefix("torch.")
    known = config.dtype if dtype == "auto" else getattr(torch, dtype, None)
    means = means_asked_for(arguments.get("ablation"), arguments.get("means"))
    return _record(name, arguments, known, effective_mask(config, requested, name), means)


def _record(
    name: str, arguments: Mapping[str, Any], dtype: Any, mask: PruningMask, means: Means | None
) -> dict[str, Any]:
    record: dict[str, Any] = {"model": name}
    if (revision := arguments.get("revision") or "main") != "main":
        record["revision"] = revision
    if dtype is not None:
        record["dtype"] = str(dtype).removeprefix("torch.")
    if further := {
        key: value
        for key, value in sorted(arguments.items())
        if key in counting_arguments(arguments).keys() - RECORDED_OTHERWISE and isinstance(value, str | int | float)
    }:
        record["model_args"] = further
    if not mask.is_dense:
        record["mask"] = mask.to_dict()
    if means is not None:
        record["means"] = means.digest
    return record


def require_same_model(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise ArgumentError where the file at `path`, of settings `found`, is not of the model that is `asked` for."""
    hint = "--overwrite computes it again"
    for key in ("model", "revision", "model_args", "means", *(("dtype",) if "dtype" in asked else ())):
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
