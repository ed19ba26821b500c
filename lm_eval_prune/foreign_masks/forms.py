"""What a foreign file says: its form, and what is in it, as the file counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval_prune.components import MAX_COMPONENTS
from lm_eval_prune.errors import ArgumentError, FileFormatError, MaskError
from lm_eval_prune.files import is_pickle
from lm_eval_prune.foreign_masks.arrays import arrays_of, is_array, matrix_of, ones_of, text_rows
from lm_eval_prune.strict_json import decoded, json_line, parse_json

__all__ = ["DESCRIPTORS", "MATRIX", "ForeignMask", "Shape", "foreign_mask", "json_of"]

Shape = tuple[int, int]
"""(num_hidden_layers, num_attention_heads)."""
MATRIX, PAIRS, BY_LAYER = "rows of 0 and 1", "pairs of layer and head", "pruned heads by layer"
DESCRIPTORS = "layer:head,head descriptors"
"""The forms, as messages call them."""
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
"""What configurations call the two numbers of a shape."""
PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib"}
MAX_TEXT = 16 * 2**20
"""Bytes of a file that is neither JSON nor an array."""
DESCRIPTOR = re.compile(r"([0-9]{1,9}):([0-9]{1,9}(?:,[0-9]{1,9})*)")
NO_MASK = (
    'no mask; expected "format": "lm-eval-prune-mask", {"0": [1, 3]} (pruned heads by layer), rows of 0 and 1, '
    "pairs of layer and head, or 0:1,3"
)


class ForeignMask(NamedTuple):
    """What a file says."""

    form: str
    rows: Sequence[Sequence[bool]] = ()
    """Of a matrix: layer by layer, which of its entries are one."""
    heads: Sequence[tuple[Any, Any]] = ()
    """Of other forms: (layer, head) of each pruned head."""
    ffn_ones: Sequence[bool] = ()
    """Of `ffn_mask`, layer by layer."""
    ffns: Sequence[Any] = ()
    """Of `pruned_ffns`, the layers."""
    shape: Shape | None = None
    """Where the file says it."""

    @property
    def is_matrix(self) -> bool:
        return bool(self.rows or self.ffn_ones)


def json_of(data: bytes, path: Path) -> Any:
    """The JSON value in a file that begins as one does; else None. Raises FileFormatError, for pickles too."""
    if data[:2] == b"PK" and path.suffix == ".npz":
        raise FileFormatError(f"{path}: an archive of arrays; expected one array, as numpy.save writes it (.npy)")
    if is_array(data):
        return None
    start = data.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1]
    if is_pickle(data) or (path.suffix.lower() in PICKLES and start not in (b"[", b"{")):
        raise FileFormatError(
            f"{path}: a pickle, which runs what is in it and is never loaded; where you trust it, load it yourself and "
            "write its mask as JSON or with numpy.save (docs/masks.md)"
        )
    return parse_json(data, path) if start in (b"[", b"{") else None


def foreign_mask(data: bytes, content: Any, path: Path, shape: Shape | None) -> ForeignMask:
    """What the file at `path` says; `content` is its JSON value, `shape` the model's where it is known.

    Raises FileFormatError, which names the file; ArgumentError and MaskError, which do not.
    """
    if isinstance(content, dict):
        return _of_object(content, path, shape)
    if isinstance(content, list):
        return _of_list(content, shape)
    if (arrays := arrays_of(data, path)) is not None:
        heads, ffns = arrays
        return _of_matrix(heads, ffns)
    if len(data) > MAX_TEXT:
        raise FileFormatError(f"{path}: {len(data) / 2**20:,.0f} MiB of text, more than a mask of any model; not read")
    text = decoded(data, path, "a mask")
    if pairs := _descriptors(text.replace(";", " ").split()):
        return ForeignMask(DESCRIPTORS, heads=pairs)
    if rows := text_rows(text):
        return _of_matrix(rows, None)
    raise FileFormatError(f"{path}: {NO_MASK}")


def _of_object(content: Mapping[str, Any], path: Path, shape: Shape | None) -> ForeignMask:
    own = _own_shape(content)
    heads = next((content[key] for key in ("heads_to_prune", "head_mask") if key in content), None)
    if heads is None and isinstance(content.get("pruned_heads"), dict | list):  # a number where it counts them
        heads = content["pruned_heads"]
    ffn_mask, ffns = content.get("ffn_mask"), content.get("pruned_ffns", [])
    if heads is None and ffn_mask is None and not ffns:
        if not content or any(not re.fullmatch("[0-9]{1,9}", key) for key in content):
            raise FileFormatError(f"{path}: {NO_MASK}")
        heads = content
    if "head_mask" in content and heads is content["head_mask"]:
        found = _of_matrix(heads, ffn_mask)
    elif isinstance(heads, dict):
        found = ForeignMask(BY_LAYER, heads=_by_layer(heads))
    elif heads is not None:
        found = ForeignMask(PAIRS, heads=_pairs(heads))
    else:
        found = _of_matrix([], ffn_mask) if ffn_mask is not None else ForeignMask(BY_LAYER)
    if ffn_mask is not None and not found.is_matrix:
        raise ArgumentError(f'{found.form} beside "ffn_mask"; give "pruned_ffns", the layers whose FFN goes')
    if not isinstance(ffns, list):
        raise MaskError(f"pruned_ffns is {json_line(ffns)}; expected a list of layers")
    return found._replace(ffns=ffns, shape=found.shape or own)


def _of_list(content: list[Any], shape: Shape | None) -> ForeignMask:
    if content and all(isinstance(entry, str) for entry in content):
        if pairs := _descriptors(content):
            return ForeignMask(DESCRIPTORS, heads=pairs)
    elif content and all(isinstance(entry, dict) for entry in content):
        return ForeignMask(PAIRS, heads=_pairs(content))
    elif content and all(isinstance(entry, list) for entry in content):
        if any(len(entry) != 2 for entry in content):
            return _of_matrix(content, None)
        if any(number not in (0, 1) for entry in content for number in entry):
            return ForeignMask(PAIRS, heads=_pairs(content))
        if any(type(number) is not int for entry in content for number in entry):
            return _of_matrix(content, None)
        if len({tuple(entry) for entry in content}) < len(content):  # nobody lists a pair twice
            return _of_matrix(content, None)
        if shape is not None and shape != (len(content), 2):
            return ForeignMask(PAIRS, heads=_pairs(content))
        raise ArgumentError(
            f"{len(content)} rows of two, each 0 or 1: {MATRIX} or {PAIRS}; "
            '{"head_mask": ...} or {"heads_to_prune": ...} around them says which'
        )
    raise MaskError(f"{json_line(content)}; expected {MATRIX}, or {PAIRS}")


def _of_matrix(heads: Any, ffns: Any) -> ForeignMask:
    rows = matrix_of(heads) if heads is not None and heads != [] else []
    ffn_ones = [] if ffns is None else ones_of(ffns, "ffn_mask")
    return ForeignMask(MATRIX, rows, ffn_ones=ffn_ones, shape=(len(rows), len(rows[0])) if rows else None)


def _by_layer(heads: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    pairs: list[tuple[Any, Any]] = []
    for key, numbers in heads.items():
        if not re.fullmatch("[0-9]{1,9}", key):
            raise MaskError(f"layer {json_line(key)} is not an integer")
        if not isinstance(numbers, list):
            raise MaskError(f"layer {key}: heads are {json_line(numbers)}; expected a list of integers")
        pairs += [(int(key), number) for number in numbers]
    return pairs


def _pairs(entries: Any) -> list[tuple[Any, Any]]:
    if isinstance(entries, list):
        entries = [[entry.get("layer"), entry.get("head")] if isinstance(entry, dict) else entry for entry in entries]
        if all(isinstance(entry, list) and len(entry) == 2 for entry in entries):
            for entry in entries:
                if type(entry[0]) is not int:
                    raise MaskError(f"layer {json_line(entry[0])} is not an integer")
            return [(layer, head) for layer, head in entries]
    raise MaskError(f"heads_to_prune is {json_line(entries)}; expected {PAIRS}, such as [[0, 1], [0, 3]]")


def _descriptors(words: list[str]) -> list[tuple[int, int]]:
    """The pairs in `layer:head,head` words; none where a word is something else."""
    found: list[tuple[int, int]] = []
    for word in words:
        match = DESCRIPTOR.fullmatch(word)
        if match is None or len(found) > MAX_COMPONENTS:
            return []
        found += [(int(match[1]), int(head)) for head in match[2].split(",")]
    return found


def _own_shape(content: Mapping[str, Any]) -> Shape | None:
    """The layers and heads that a configuration names."""
    inner = content.get("text_config")
    content = inner if isinstance(inner, dict) else content
    numbers = [next((content[key] for key in keys if key in content), None) for keys in (LAYERS, HEADS)]
    if all(type(number) is int and number > 0 for number in numbers):
        return numbers[0], numbers[1]  # type: ignore[return-value]
    return None
