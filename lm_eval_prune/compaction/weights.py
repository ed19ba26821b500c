"""The weights of a checkpoint by name: found, checked against what the model needs, and read a part at a time.

Safetensors files, whole or sharded, are read slice by slice; PyTorch's .bin files (what the Hub holds of OPT) are
mapped into memory and read as tensors alone, so that no code in them is run.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from lm_eval_prune.errors import FileFormatError

if TYPE_CHECKING:
    from lm_eval_prune.decoders.cuts import Cut

__all__ = ["PartialWeight", "Weights", "find_file"]

KINDS = ("model.safetensors", "pytorch_model.bin")
TIED = "model.decoder.embed_tokens.weight", "lm_head.weight"
"""The same weight where the model ties them; a checkpoint may hold either."""


def find_file(model: str | os.PathLike[str], name: str, revision: str | None = None) -> Path | None:
    """The file of a local folder, or of a Hub repository (downloaded, or from the cache); None where it has none."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            os.fspath(model),
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


class Stored(NamedTuple):
    """Where one weight is, and what it is."""

    file: Path
    key: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """The weights of one checkpoint. Files are opened while they are read, not longer."""

    stored: Mapping[str, Stored]
    dtype: torch.dtype
    """Of the first weight."""
    num_bytes: int
    """Size of the files."""

    @classmethod
    def of(cls, model: str | os.PathLike[str], revision: str | None = None) -> Weights:
        """Read the headers of all files. Raises FileFormatError for missing files and for those that are cut short."""
        stored: dict[str, Stored] = {}
        files = _files_of(model, revision)
        dtype = None
        for file in files:
            with opened(file) as tensors:
                for key in tensors.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    part = tensors.get_slice(key)
                    stored[_canonical(key)] = Stored(file, key, tuple(part.get_shape()))
                    if dtype is None:
                        dtype = part[:1].dtype
        if dtype is None:
            raise FileFormatError(f"{model}: no weights in {', '.join(map(str, files))}")
        return cls(stored, dtype, sum(file.stat().st_size for file in files))

    def place(self, name: str, shape: Iterable[int], where: object) -> Stored:
        """Where the weight `name` is. Raises FileFormatError unless it is there and of this shape."""
        found = self.stored.get(name)
        if found is None and name in TIED:
            found = self.stored.get(TIED[1 - TIED.index(name)])
        if found is None:
            raise FileFormatError(f"{where}: the weight {name} is missing")
        if found.shape != tuple(shape):
            raise FileFormatError(f"{found.file}: {name} is {found.shape}; expected {tuple(shape)} by config.json")
        return found


class PartialWeight:
    """The part of a stored weight that a cut leaves, read when it is asked for, as safetensors' own slices are.

    A copy, and the file is closed again: of a file that stays mapped, every page read would count as memory.
    """

    def __init__(self, stored: Stored, cut: Cut) -> None:
        self.stored, self.cut = stored, cut

    def __getitem__(self, everything: Any) -> torch.Tensor:
        with opened(self.stored.file) as tensors:
            part = self.cut.of(tensors.get_slice(self.stored.key))
            joined = len(self.cut.ranges) > 1  # a copy already
            return part if joined else part.clone(memory_format=torch.contiguous_format)


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """The file's tensors, with `keys` and `get_slice`. Raises FileFormatError."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                yield tensors
        else:
            # `weights_only` makes tensors alone: what else a pickle could do is refused.
            yield _Pickled(torch.load(file, map_location="cpu", mmap=True, weights_only=True))
    except (SafetensorError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise FileFormatError(f"{file}: weights cannot be read, the file may be cut short: {reason}") from error


class _Pickled:
    """Tensors that `torch.load` has mapped into memory, in the manner of an open safetensors file."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def keys(self) -> Iterable[str]:
        return [key for key, value in self.tensors.items() if isinstance(value, torch.Tensor)]

    def get_slice(self, key: str) -> Any:
        return _PickledSlice(self.tensors[key])


class _PickledSlice:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self.tensor[index]


def _files_of(model: str | os.PathLike[str], revision: str | None) -> list[Path]:
    for kind in KINDS:
        if (index := find_file(model, f"{kind}.index.json", revision)) is not None:
            return [_shard(model, name, revision, index) for name in _shard_names(index)]
        if (whole := find_file(model, kind, revision)) is not None:
            return [whole]
    raise FileFormatError(f"{model}: no weights found; expected {' or '.join(KINDS)}, whole or sharded with an index")


def _shard_names(index: Path) -> list[str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        return sorted(set(content["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise FileFormatError(f"{index}: not an index of shards: {type(error).__name__}: {error}") from error


def _shard(model: str | os.PathLike[str], name: str, revision: str | None, index: Path) -> Path:
    found = find_file(model, name, revision)
    if found is None:
        raise FileFormatError(f"{index}: the shard {name} is missing")
    return found


def _canonical(key: str) -> str:
    """The name in `OPTForCausalLM`; checkpoints of the bare decoder leave out its first part."""
    return f"model.{key}" if key.startswith("decoder.") else key
