"""The weights of a checkpoint by name: found, checked against what the model needs, and read a part at a time.

Safetensors files, whole or sharded, are read slice by slice; PyTorch's .bin files, of older models, are
mapped into memory and read as tensors alone, so that no code in them is run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open

from lm_eval_prune.compaction.sources import shard_names
from lm_eval_prune.decoders.configuration import find_file
from lm_eval_prune.errors import FileFormatError, PruneError, UnsupportedModelError
from lm_eval_prune.text import one_line

if TYPE_CHECKING:
    from lm_eval_prune.decoders.cuts import Cut

__all__ = ["PartialWeight", "Stored", "Weights"]

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The types that models compute in, by their names in safetensors files."""
KINDS = ("model.safetensors", "pytorch_model.bin")


class Stored(NamedTuple):
    """Where one weight is, and what it is."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    """None: of no floating-point type that a model computes in."""


@dataclass(frozen=True)
class Weights:
    """The weights of one checkpoint. Files are opened while they are read, not longer."""

    stored: Mapping[str, Stored]
    dtype: torch.dtype
    """Of the first weight in floating point."""
    num_bytes: int
    """Size of the files."""

    @classmethod
    def of(cls, model: str | os.PathLike[str], revision: str | None = None) -> Weights:
        """Read the headers of all files. Raises FileFormatError for missing files and for those that are cut short."""
        stored: dict[str, Stored] = {}
        files = _files_of(model, revision)
        dtype = None
        for file in files:
            with opened(file) as (keys, part_of):
                for key in keys:
                    shape, own = _kind(part_of(key))
                    stored[key] = Stored(file, key, shape, own)
                    dtype = dtype or own
        if dtype is None:
            raise FileFormatError(f"{files[0] if files else model}: no weights in floating point in it")
        return cls(stored, dtype, sum(file.stat().st_size for file in files))

    def places(self, model: Any, where: object) -> Callable[[str], Stored]:
        """Where each weight of the empty `model` is, by name.

        Raises FileFormatError unless it is there and of its shape; UnsupportedModelError where weights of such models
        are not stored as they are computed with.
        """
        from lm_eval_prune.decoders.cuts import named_in_model, tensors_of

        tensors, keys = tensors_of(model), named_in_model(model, self.stored)

        def place(name: str) -> Stored:
            if name not in keys:
                raise FileFormatError(f"{where}: the weight {name} is missing")
            if (key := keys[name]) is None:
                raise UnsupportedModelError(
                    f"{where}: {name} is stored in parts; compact the loaded model instead: "
                    "compact(model, mask).save_pretrained(...)"
                )
            found = self.stored[key]
            shape = tuple(tensors[name].shape)
            if found.shape != shape:
                raise FileFormatError(f"{found.file}: {name} is {found.shape}; expected {shape} by config.json")
            if found.dtype is None:
                raise FileFormatError(
                    f"{found.file}: {name} is not in floating point; compact the model before quantising"
                )
            return found

        return place


class PartialWeight:
    """The part of a stored weight that a cut leaves, read when it is asked for, as safetensors' own slices are.

    A copy, and the file is closed again: of a file that stays mapped, every page read would count as memory.
    """

    def __init__(self, stored: Stored, cut: Cut) -> None:
        self.stored, self.cut = stored, cut

    def __getitem__(self, everything: Any) -> torch.Tensor:
        with opened(self.stored.file) as (_, part_of):
            part = self.cut.of(part_of(self.stored.key))
            joined = len(self.cut.ranges) > 1  # a copy already
            return part if joined else part.clone(memory_format=torch.contiguous_format)


@contextmanager
def opened(file: Path) -> Iterator[tuple[Iterable[str], Callable[[str], Any]]]:
    """The names of its tensors, and what gives each: whole, or a slice of safetensors. Raises FileFormatError."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                yield tensors.keys(), tensors.get_slice
        else:
            # `weights_only` makes tensors alone: what else a pickle could do is refused.
            content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
            if not isinstance(content, dict):
                raise ValueError(f"a {type(content).__name__} instead of weights by name")
            plain = {key: value for key, value in content.items() if isinstance(key, str) and _is_plain(value)}
            yield plain, plain.__getitem__
    except PruneError:
        raise
    except Exception as error:  # of any kind: what a spoilt pickle makes torch raise
        raise FileFormatError(
            f"{file}: weights cannot be read, the file may be cut short: {one_line(error)}"
        ) from error


def _kind(part: Any) -> tuple[tuple[int, ...], torch.dtype | None]:
    """The shape of a tensor or slice, and its type where models compute in that."""
    if isinstance(part, torch.Tensor):
        return tuple(part.shape), part.dtype if part.dtype in FLOATS.values() else None
    return tuple(part.get_shape()), FLOATS.get(part.get_dtype())


def _is_plain(value: object) -> bool:
    """Whether it is a tensor with all of its elements in the file: strides of 0 make terabytes out of one number."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _files_of(model: str | os.PathLike[str], revision: str | None) -> list[Path]:
    for kind in KINDS:
        if (index := find_file(model, f"{kind}.index.json", revision)) is not None:
            return [_shard(model, name, revision, index) for name in shard_names(index)]
        if (whole := find_file(model, kind, revision)) is not None:
            return [whole]
    raise FileFormatError(f"{model}: no weights found; expected {' or '.join(KINDS)}, whole or sharded with an index")


def _shard(model: str | os.PathLike[str], name: str, revision: str | None, index: Path) -> Path:
    found = find_file(model, name, revision)
    if found is None:
        raise FileFormatError(f"{index}: the shard {name} is missing")
    return found
