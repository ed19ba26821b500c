"""A model's configuration, before its weights: read with errors of one line, and what it makes of a mask."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval_prune.decoders import check_fits, key_value_heads, removed_from, require_supported, shape_of
from lm_eval_prune.decoders.acceptance import require_accepted
from lm_eval_prune.decoders.settings import read_settings
from lm_eval_prune.errors import FileFormatError, PruneError
from lm_eval_prune.files import is_folder
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.text import message_of, one_line

__all__ = [
    "PLACES",
    "configuration_errors",
    "effective_mask",
    "find_file",
    "key_value_heads_asked_for",
    "model_folder",
    "read_configuration",
    "shape_asked_for",
]

PLACES = ("revision", "subfolder", "gguf_file", "trust_remote_code", "backend")
"""Arguments of `hf` by which a configuration is found and read, and by which it is one of a causal language model."""


def read_configuration(
    pretrained: str | os.PathLike[str], name: str | None = None, *, backend: str | None = None, **where: Any
) -> Any:
    """The transformers configuration of a supported model; errors call it `name`. Raises PruneError.

    `where` may hold `revision`, `subfolder` and `gguf_file`, as for `from_pretrained`; and `trust_remote_code`: unless
    it is True, code that comes with a configuration is not run, and nobody is asked whether it should be. `backend` is
    the harness's argument.
    """
    from transformers import AutoConfig

    name = name or os.fspath(pretrained)
    where = {key: value for key, value in where.items() if value is not None}
    where["trust_remote_code"] = where.get("trust_remote_code") is True
    file = find_file(pretrained, "config.json", where.get("revision"), where.get("subfolder"))
    if file is not None and not where.get("gguf_file"):
        read_settings(file, name)  # where there is none, AutoConfig says so
    with configuration_errors(name):
        config = AutoConfig.from_pretrained(pretrained, **where)
    require_accepted(config, name, backend)
    return config


def shape_asked_for(pretrained: Any, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """(num_hidden_layers, num_attention_heads) of a model, or of a checkpoint that `arguments` of `hf` say more of."""
    return shape_of(_asked_for(pretrained, arguments))


def key_value_heads_asked_for(pretrained: Any, arguments: Mapping[str, Any]) -> int:
    """Its key/value heads in each layer, likewise."""
    return key_value_heads(_asked_for(pretrained, arguments))


def _asked_for(pretrained: Any, arguments: Mapping[str, Any]) -> Any:
    if hasattr(pretrained, "config"):
        require_supported(pretrained.config, "the given model")
        return pretrained.config
    return read_configuration(pretrained, **{key: arguments[key] for key in PLACES if arguments.get(key)})


def find_file(
    model: str | os.PathLike[str], name: str, revision: str | None = None, subfolder: str | None = None
) -> Path | None:
    """The file of a local folder, or of a Hub repository (downloaded, or from the cache); None where it has none."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            os.fspath(model),
            name,
            revision=revision,
            subfolder=subfolder or "",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


def model_folder(pretrained: str, revision: str | None = None) -> Path:
    """The folder that a model is loaded from; a hub id's is where the hub's cache has it.

    Raises FileFormatError where there is none.
    """
    if is_folder(pretrained):
        return Path(pretrained)
    from transformers.utils import cached_file

    try:
        found = cached_file(pretrained, "config.json", revision=revision or "main")
    except (OSError, ValueError) as error:
        raise FileFormatError(f"pretrained={pretrained}: no such model: {message_of(error)}") from None
    return Path(str(found)).parent


@contextmanager
def configuration_errors(pretrained: str) -> Iterator[None]:
    """What transformers raises for a configuration that is not there or not valid, as a PruneError."""
    try:
        yield
    except PruneError:
        raise
    except Exception as error:  # of any kind: what transformers makes of a spoilt file
        if "custom code" in str(error):
            raise PruneError(
                f"pretrained={pretrained}: its configuration names code of its own, which is not run; "
                "trust_remote_code=True in model_args runs it"
            ) from error
        raise PruneError(
            f"pretrained={pretrained}: no model configuration found: {one_line(error)}; expected a checkpoint or hub id"
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
    return mask if removed.is_dense else replace(mask | removed, provenance=mask.provenance or removed.provenance)
