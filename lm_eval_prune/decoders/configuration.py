"""A model's configuration, before its weights: read with errors of one line, and what it makes of a mask."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from lm_eval_prune.decoders import check_fits, removed_from, require_supported, shape_of
from lm_eval_prune.errors import PruneError
from lm_eval_prune.masks import PruningMask

__all__ = ["configuration_errors", "effective_mask", "read_configuration", "shape_asked_for"]


def read_configuration(pretrained: str | os.PathLike[str], name: str | None = None, **where: Any) -> Any:
    """The transformers configuration of a supported model; errors call it `name`. Raises PruneError.

    `where` may hold `revision`, `subfolder` and `gguf_file`, as for `from_pretrained`.
    """
    from transformers import AutoConfig

    with configuration_errors(name or os.fspath(pretrained)):
        config = AutoConfig.from_pretrained(pretrained, **where)
    require_supported(config, name or os.fspath(pretrained))
    return config


def shape_asked_for(pretrained: Any, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """(num_hidden_layers, num_attention_heads) of a model, or of a checkpoint that `arguments` of `hf` say more of."""
    if hasattr(pretrained, "config"):
        config = pretrained.config
    else:
        where = {key: arguments[key] for key in ("revision", "subfolder", "gguf_file") if arguments.get(key)}
        config = read_configuration(pretrained, **where)
    require_supported(config, "the given model")
    return shape_of(config)


@contextmanager
def configuration_errors(pretrained: str) -> Iterator[None]:
    """What transformers raises for a configuration that is not there or not valid, as a PruneError."""
    try:
        yield
    except (OSError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise PruneError(
            f"pretrained={pretrained}: no model configuration found: {reason}; expected a checkpoint or hub id"
        ) from error


def effective_mask(config: Any, requested: PruningMask | None, name: str) -> PruningMask:
    """All that the original model has and this one computes without: what was requested, and what compaction removed.

    Raises MaskShapeError, UnsupportedModelError.
    """
    require_supported(config, name)
    shape = shape_of(config)
    if requested is not None:
        check_fits(requested, *shape, where=name)
    mask, removed = requested or PruningMask.dense(*shape), removed_from(config)
    return mask if removed.is_dense else replace(mask | removed, provenance=mask.provenance)
