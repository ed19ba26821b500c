"""Masks in the forms of other projects, read into a `PruningMask`. Nothing is unpickled.

    {"0": [1, 3]}               pruned heads by layer: `pruned_heads` of transformers, inside a `config.json` too
    [[1, 0, 1], [1, 1, 1]]      a row of 0 and 1 a layer, as transformers' `head_mask`: JSON, text, .npy, .safetensors
    [[0, 1], [0, 3]]            pairs of layer and head, {"layer": 0, "head": 1} too; often under "heads_to_prune"
    0:1,3 2:0                   layer:head,head, as the code of Michel et al. 2019 is told them

What a file is, its content says, not its name. What could be read in two ways is refused, with what would tell.
`forms.py` makes of a file what it says, `arrays.py` reads binary ones; here it becomes the mask of a model.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lm_eval_prune.components import require_possible
from lm_eval_prune.errors import ArgumentError, MaskError, MaskShapeError
from lm_eval_prune.files import read_bytes
from lm_eval_prune.foreign_masks.forms import DESCRIPTORS, MATRIX, ForeignMask, Shape, foreign_mask, json_of
from lm_eval_prune.masks import PruningMask

__all__ = ["Shape", "read_mask"]

GIVE_SHAPE = "give --model_args pretrained=..., or --num_hidden_layers and --num_attention_heads"


def read_mask(
    path: str | os.PathLike[str],
    shape: Shape | Callable[[], Shape] | None = None,
    *,
    invert: bool = False,
    counting_from: int | None = None,
) -> tuple[PruningMask, str]:
    """(the mask in a file of ours or of another project, how the latter was read in words, `""` for ours).

    shape: of the model, where it is known; a function is called for foreign files only.
    invert: in rows of 0 and 1 a one prunes instead of keeping.
    counting_from: the number of the first layer and the first head, 0 or 1. Without it `layer:head` texts are refused
    where nothing in them tells; all else counts from 0.
    Raises FileFormatError, ArgumentError, MaskError, which name the file.
    """
    path = Path(path)
    data = read_bytes(path, "a mask")
    content = json_of(data, path)
    if isinstance(content, dict) and (str(content.get("format")).startswith("lm-eval-prune") or not content):
        if invert or counting_from is not None:
            raise ArgumentError(f"{path}: a mask file of this package, which says itself what is pruned")
        return PruningMask.from_dict(content, path), ""
    given = shape() if callable(shape) else shape
    try:
        found = foreign_mask(data, content, path, given)
        first = _first_number(found, given or found.shape, counting_from)
        return _mask(found, given, invert, first), _told(found, invert, first)
    except (ArgumentError, MaskError) as error:
        raise type(error)(f"{path}: {error}") from None


def _mask(found: ForeignMask, given: Shape | None, invert: bool, first: int) -> PruningMask:
    shape = given or found.shape
    if invert and not found.is_matrix:
        raise ArgumentError(f"{found.form}; --invert is for {MATRIX}")
    if shape is None:
        raise ArgumentError(f"{found.form}, without a word of how many layers and heads there are; {GIVE_SHAPE}")
    require_possible(*shape)
    if found.shape not in (None, shape):
        raise MaskShapeError("for {} layers of {} heads; the model has {} of {}".format(*(found.shape or ()), *shape))
    if found.ffn_ones and len(found.ffn_ones) != shape[0]:
        raise MaskShapeError(f"ffn_mask has {len(found.ffn_ones)} entries; expected one for each of {shape[0]} layers")
    heads: dict[int, list[int]] = {}
    for layer, row in enumerate(found.rows):
        heads[layer] = [head for head, one in enumerate(row) if one is invert]
    for layer, head in found.heads:
        heads.setdefault(_less(layer, first), []).append(_less(head, first))
    ffns = [layer for layer, one in enumerate(found.ffn_ones) if one is invert]
    return PruningMask(
        num_hidden_layers=shape[0],
        num_attention_heads=shape[1],
        pruned_heads={layer: tuple(numbers) for layer, numbers in heads.items()},
        pruned_ffns=(*ffns, *(_less(layer, first) for layer in found.ffns)),
    )


def _first_number(found: ForeignMask, shape: Shape | None, counting_from: int | None) -> int:
    """What the file calls the first layer and the first head."""
    if counting_from is not None:
        if found.is_matrix:
            raise ArgumentError(f"{found.form}; --counting_from is for files that name layers and heads")
        return counting_from
    numbers = [number for pair in found.heads for number in pair]
    if found.form != DESCRIPTORS or 0 in numbers:
        return 0
    if shape is not None and any(layer == shape[0] or head == shape[1] for layer, head in found.heads):
        return 1
    raise ArgumentError(
        f"{found.form} without a 0: counted from 0, or from 1 as in the code of Michel et al.; "
        "lm-eval-prune mask --from FILE --counting_from 0 (or 1) says which"
    )


def _less(number: int, first: int) -> int:
    """The number counted from 0; what is none stays, for `PruningMask` to refuse."""
    return number - first if type(number) is int else number


def _told(found: ForeignMask, invert: bool, first: int) -> str:
    """How the file was read, where it could have been meant otherwise."""
    if found.is_matrix:
        return f"{found.form}, 1 {'prunes' if invert else 'keeps'}"
    return f"{found.form}, counted from {first}"
