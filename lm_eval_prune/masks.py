"""Which attention heads and FFNs stay.

A `PruningMask` lists what is pruned, by (layer, head) and by layer, counted from 0. As tensors, `head_mask` is
(num_hidden_layers, num_attention_heads) and `ffn_mask` (num_hidden_layers,); True keeps, False prunes. Nothing here
knows a model: `ablation.py` applies masks, `decoders/` counts the parameters that a mask removes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lm_eval_prune.components import checked_components, heads_per_unit, require_possible
from lm_eval_prune.errors import MaskError, MaskShapeError
from lm_eval_prune.files import json_line, read_json, require_ours, write_json
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.scores import lowest, lowest_heads, plain, score_rows

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

__all__ = ["FORMAT", "VERSION", "PruningMask"]

FORMAT = "lm-eval-prune-mask"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class PruningMask:
    """An immutable, hashable choice of heads and FFNs to prune from a model of a given shape.

    Two masks are equal when they prune the same components of the same shape; `provenance` does not count.
    Raises MaskError for components that are no integers, repeated, negative or out of range.
    """

    num_hidden_layers: int
    """Number of decoder layers of the model that the mask is for."""
    num_attention_heads: int
    """Number of attention heads in each of its layers."""
    pruned_heads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Layer -> its pruned heads, ascending; layers that keep every head are left out."""
    pruned_ffns: tuple[int, ...] = ()
    """Layers whose FFN is pruned, ascending."""
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """How the mask was made (files, fractions, seeds): JSON values, saved with the mask."""

    def __post_init__(self) -> None:
        for name in ("num_hidden_layers", "num_attention_heads"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise MaskError(f"{name} is {json_line(value)}; expected an integer from 1")
        require_possible(self.num_hidden_layers, self.num_attention_heads)
        if not isinstance(self.pruned_heads, Mapping):
            raise MaskError(f"pruned_heads is {json_line(self.pruned_heads)}; expected layer -> heads")
        heads = {}
        for layer in checked_components(self.pruned_heads, self.num_hidden_layers, "pruned_heads: layer"):
            where = f"pruned_heads: layer {layer}: head"
            if pruned := checked_components(self.pruned_heads[layer], self.num_attention_heads, where):
                heads[layer] = pruned
        ffns = checked_components(self.pruned_ffns, self.num_hidden_layers, "pruned_ffns: layer")
        object.__setattr__(self, "pruned_heads", MappingProxyType(heads))
        object.__setattr__(self, "pruned_ffns", ffns)
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    def __hash__(self) -> int:
        return hash((self.shape, tuple(self.pruned_heads.items()), self.pruned_ffns))

    def __reduce__(self) -> tuple[Any, ...]:
        # Mapping proxies cannot be copied or sent to another process; plain dictionaries can.
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}
        return _rebuild, (plain,)

    def __repr__(self) -> str:
        heads = f"{self.num_pruned_heads} of {self.num_heads} heads"
        return f"<PruningMask: {heads}, {self.num_pruned_ffns} of {self.num_hidden_layers} FFNs pruned>"

    # -- making masks ---------------------------------------------------------------------------------------------

    @classmethod
    def dense(cls, num_hidden_layers: int, num_attention_heads: int) -> PruningMask:
        """The mask that prunes nothing."""
        return cls(num_hidden_layers=num_hidden_layers, num_attention_heads=num_attention_heads)

    @classmethod
    def from_importance(
        cls,
        *,
        head_scores: ArrayLike | torch.Tensor | None = None,
        head_fraction: str | int | float | Decimal | Fraction = 0,
        ffn_scores: ArrayLike | torch.Tensor | None = None,
        ffn_fraction: str | int | float | Decimal | Fraction = 0,
        num_attention_heads: int | None = None,
        unit: str = "head",
        num_key_value_heads: int | None = None,
        layout: str = "global",
        provenance: Mapping[str, Any] | None = None,
    ) -> PruningMask:
        """The mask that prunes the least important components of the whole model.

        head_scores: (num_hidden_layers, num_attention_heads); ffn_scores: (num_hidden_layers,). Larger is more
        important; floor(fraction * n) components with the lowest scores go, of equal scores the lower (layer, head)
        first. A fraction is the decimal that was written: 0.29 of 100 is 29. With FFN scores alone,
        `num_attention_heads` says how many heads a layer of the model has.
        `ImportanceScores` bring their number of heads along; the shares, and the tasks on which they are an oracle, are
        then in the mask's provenance.
        With `unit="kv_group"` the query heads that share a key/value head go together: a group's score is the sum of
        its heads', and the fraction is of the `num_key_value_heads` groups of all layers. With `unit="attention"` all
        heads of a layer go together, by the sum of their scores, and the fraction is of the layers.
        With `layout="uniform"` heads are ranked within their layers, and every layer loses the same number: of its
        heads, of its groups with `unit="kv_group"`, or of the heads of each group where `num_key_value_heads` is given.
        Raises FractionError, MaskShapeError for scores of the wrong shape, MaskError for scores that are not finite.
        """
        head_rows = None if head_scores is None else score_rows(head_scores, "head_scores")
        ffn_row = None if ffn_scores is None else score_rows([plain(ffn_scores)], "ffn_scores")[0]
        for scores, fraction, name in ((head_rows, head_fraction, "head"), (ffn_row, ffn_fraction, "ffn")):
            if scores is None and parse_fraction(fraction, f"{name}_fraction"):
                raise MaskError(f"{name}_fraction={fraction} needs {name}_scores")
        if head_rows is None and ffn_row is None:
            raise MaskError("from_importance needs head_scores, ffn_scores or both")
        num_layers = len(head_rows if head_rows is not None else ffn_row)  # type: ignore[arg-type]
        if ffn_row is not None and len(ffn_row) != num_layers:
            raise MaskShapeError(f"ffn_scores has {len(ffn_row)} layers, head_scores {num_layers}")
        num_attention_heads = num_attention_heads or getattr(ffn_scores, "num_attention_heads", None)
        heads_per_layer = len(head_rows[0]) if head_rows is not None else num_attention_heads
        if heads_per_layer is None or heads_per_layer != (num_attention_heads or heads_per_layer):
            raise MaskShapeError(
                f"num_attention_heads={num_attention_heads}, head_scores has {heads_per_layer} heads a layer"
            )
        share = heads_per_unit(unit, heads_per_layer, num_key_value_heads)
        if num_key_value_heads is not None:
            heads_per_unit("kv_group", heads_per_layer, num_key_value_heads)
        share_of_heads = parse_fraction(head_fraction, "head_fraction")
        pruned = lowest_heads(head_rows or [], share_of_heads, share, layout=layout, groups=num_key_value_heads)
        return cls(
            num_hidden_layers=num_layers,
            num_attention_heads=heads_per_layer,
            pruned_heads=pruned,
            pruned_ffns=tuple(lowest(ffn_row or [], parse_fraction(ffn_fraction, "ffn_fraction"))),
            provenance={**_told(head_scores, head_fraction, ffn_scores, ffn_fraction), **(provenance or {})},
        )

    # -- files ----------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruningMask:
        """Read a mask file. Raises FileFormatError or MaskError; the message names the file.

        Besides lists of integers, `"all"` and ranges such as `"0-5"` (both ends included, several joined by commas)
        are read.
        """
        return cls.from_dict(read_json(path), path)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: object = "mask") -> PruningMask:
        """The mask that a file with this content holds. Raises FileFormatError or MaskError beginning with `where`."""
        from lm_eval_prune.mask_files import mask_of

        return mask_of(content, where)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as JSON, atomically; every pruned head and FFN is listed."""
        content = self.to_dict()
        lines = [f"  {json.dumps(key)}: {json.dumps(content[key])}" for key in content]
        require_ours(path)
        write_json(path, content, text="{\n" + ",\n".join(lines) + "\n}")

    def to_dict(self) -> dict[str, Any]:
        """The content of the mask's file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "pruned_heads": {str(layer): list(heads) for layer, heads in self.pruned_heads.items()},
            "pruned_ffns": list(self.pruned_ffns),
            "provenance": dict(self.provenance),
        }

    # -- what it prunes -------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """(num_hidden_layers, num_attention_heads)."""
        return self.num_hidden_layers, self.num_attention_heads

    @property
    def num_heads(self) -> int:
        """Heads of the whole model, pruned or not."""
        return self.num_hidden_layers * self.num_attention_heads

    @property
    def num_pruned_heads(self) -> int:
        return sum(map(len, self.pruned_heads.values()))

    @property
    def num_pruned_ffns(self) -> int:
        return len(self.pruned_ffns)

    @property
    def is_dense(self) -> bool:
        """Whether nothing is pruned."""
        return not self.pruned_heads and not self.pruned_ffns

    @property
    def head_mask(self) -> torch.Tensor:
        """A new bool tensor (num_hidden_layers, num_attention_heads); True keeps the head."""
        import torch

        mask = torch.ones(self.shape, dtype=torch.bool)
        for layer, heads in self.pruned_heads.items():
            mask[layer, list(heads)] = False
        return mask

    @property
    def ffn_mask(self) -> torch.Tensor:
        """A new bool tensor (num_hidden_layers,); True keeps the FFN."""
        import torch

        mask = torch.ones(self.num_hidden_layers, dtype=torch.bool)
        mask[list(self.pruned_ffns)] = False
        return mask

    def kept_heads(self, layer: int) -> tuple[int, ...]:
        """The heads of `layer` that stay, ascending."""
        pruned = self.pruned_heads.get(layer, ())
        return tuple(head for head in range(self.num_attention_heads) if head not in pruned)

    # -- combining ------------------------------------------------------------------------------------------------

    def __or__(self, other: PruningMask) -> PruningMask:
        """Prune what either prunes."""
        return self._combined(other, set.union)

    def __and__(self, other: PruningMask) -> PruningMask:
        """Prune what both prune."""
        return self._combined(other, set.intersection)

    def __sub__(self, other: PruningMask) -> PruningMask:
        """Prune what this mask prunes and the other keeps."""
        return self._combined(other, set.difference)

    def prune_head(self, layer: int, head: int) -> PruningMask:
        """This mask, and this head pruned too. Raises MaskError where there is none."""
        return self | replace(self, pruned_heads={layer: (head,)}, pruned_ffns=())

    def prune_ffn(self, layer: int) -> PruningMask:
        """This mask, and the FFN of `layer` pruned too. Raises MaskError where there is none."""
        return self | replace(self, pruned_heads={}, pruned_ffns=(layer,))

    def prune_layer(self, layer: int) -> PruningMask:
        """This mask, and every head and the FFN of `layer` pruned too."""
        every_head = tuple(range(self.num_attention_heads))
        return self | replace(self, pruned_heads={layer: every_head}, pruned_ffns=(layer,))

    def _combined(self, other: PruningMask, operation: Any) -> PruningMask:
        if not isinstance(other, PruningMask):
            return NotImplemented
        if self.shape != other.shape:
            raise MaskShapeError("cannot combine masks for {} x {} and {} x {} heads".format(*self.shape, *other.shape))
        heads: dict[int, tuple[int, ...]] = {}
        for layer in {*self.pruned_heads, *other.pruned_heads}:
            pair = (set(mask.pruned_heads.get(layer, ())) for mask in (self, other))
            heads[layer] = tuple(sorted(operation(*pair)))
        ffns = tuple(sorted(operation(set(self.pruned_ffns), set(other.pruned_ffns))))
        return replace(self, pruned_heads=heads, pruned_ffns=ffns, provenance={})


def _told(head_scores: Any, head_fraction: Any, ffn_scores: Any, ffn_fraction: Any) -> dict[str, Any]:
    """The provenance of a mask from `ImportanceScores`: the shares, and on which tasks it is an oracle."""
    told: dict[str, Any] = {}
    for name, scores, fraction in (("heads", head_scores, head_fraction), ("ffns", ffn_scores, ffn_fraction)):
        if (tasks := getattr(scores, "oracle_on", None)) is not None:
            told[f"prune_{name}"] = float(parse_fraction(fraction, f"prune_{name}"))
            if tasks:
                told["oracle_on"] = sorted({*told.get("oracle_on", ()), *tasks})
    return told


def _rebuild(fields: dict[str, Any]) -> PruningMask:
    return PruningMask(**fields)
