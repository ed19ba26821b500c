"""The files of a checkpoint beside its weights: which are copied into a new one, and what an index may name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from lm_eval_prune.decoders.configuration import find_file
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import read_json
from lm_eval_prune.strict_json import validated

__all__ = ["copy_kept_files", "require_own", "shard_names"]

KEPT_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "chat_template.jinja",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
    "LICENSE.md",
)
"""Files beside the weights that are copied as they are, where there are any."""
LARGEST_KEPT = 2**30
"""Bytes; the largest tokenizers take some 40 MB."""


def require_own(file: Path) -> Path:
    """The file. Raises ArgumentError where it is a link that leads out of its folder.

    The Hub's cache is made of links: from a snapshot's folder to the blobs of the same repository.
    """
    folder, target = file.parent.resolve(), file.resolve()
    repository = folder.parent.parent
    if target.is_relative_to(folder):
        return file
    if folder.parent.name == "snapshots" and target.is_relative_to(repository / "blobs"):
        return file
    raise ArgumentError(f"{file}: a link out of the checkpoint's folder is not copied; put the file itself there")


def copy_kept_files(model: str | os.PathLike[str], revision: str | None, folder: Path) -> None:
    """Copy the tokenizer, the licence and the settings of generation. Raises ArgumentError for links out of there."""
    for name in KEPT_FILES:
        if (found := find_file(model, name, revision)) is None:
            continue
        if require_own(found).stat().st_size > LARGEST_KEPT:
            raise ArgumentError(f"{found}: larger than {LARGEST_KEPT // 2**20} MiB; not copied")
        shutil.copyfile(found, folder / name)


class _Index(BaseModel):
    """The index of a checkpoint in shards: weights by name, and which file of the same folder holds each."""

    model_config = ConfigDict(strict=True)

    weight_map: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]] = Field(
        description="weights by name, and for each the name of a file in this folder"
    )


def shard_names(index: Path) -> list[str]:
    """The names of the files that an index names, sorted. Raises FileFormatError."""
    return sorted(set(validated(_Index, read_json(index), f"{index}: not an index of shards").weight_map.values()))
