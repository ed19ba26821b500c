"""A model's numbers, from the model itself without its weights: counted from names and shapes, exactly.

A matrix that serves as embedding and output layer counts once. A compacted model has its original's dimensions, and
says what it lacks of them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.decoders import check_fits, removed_from, shape_of
from lm_eval_prune.decoders.configuration import read_configuration
from lm_eval_prune.decoders.known_sizes import KNOWN_SIZES, known_config
from lm_eval_prune.decoders.skeleton import empty_model, linear_weights, num_pruned_parameters, skeleton_of
from lm_eval_prune.decoders.slices import sizes_of
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.files import is_folder
from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel

    from lm_eval_prune.decoders.places import Places
    from lm_eval_prune.decoders.skeleton import LinearWeights

__all__ = ["Dimensions", "dimensions_of"]


@dataclass(frozen=True)
class Dimensions:
    """What decides a model's cost. Raises UnsupportedModelError where a decoder of its kind is not supported."""

    name: str
    config: Any
    """The transformers configuration."""

    @cached_property
    def places(self) -> Places:
        """Of the original model, without weights."""
        return skeleton_of(self.config)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model as it is, without weights: a compacted one lacks what it lacks."""
        return empty_model(self.config)

    @cached_property
    def lacking(self) -> PruningMask:
        """What the model lacks, as a mask."""
        return removed_from(self.config)

    @cached_property
    def weights(self) -> LinearWeights:
        """What FLOPs are counted from."""
        return linear_weights(self.config)

    @property
    def num_hidden_layers(self) -> int:
        return shape_of(self.config)[0]

    @property
    def num_attention_heads(self) -> int:
        """Query heads of a whole layer."""
        return shape_of(self.config)[1]

    @property
    def num_key_value_heads(self) -> int:
        return self.places.num_key_value_heads

    @property
    def head_dim(self) -> int:
        return self.places.head_dim

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.weights.hidden_size

    @property
    def vocab_size(self) -> int:
        """Logits at a position."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def max_position_embeddings(self) -> int:
        """Tokens of the longest input."""
        return getattr(self.config.get_text_config(decoder=True), "max_position_embeddings", None) or sys.maxsize

    @property
    def ffn_width(self) -> int:
        """Inner width of the widest FFN; of a mixture of experts, of those together that a token meets."""
        return max(self.weights.ffns) // (2 if self.ffn_maps < 2 else 3) // self.hidden_size

    @property
    def ffn_maps(self) -> int:
        """Maps that an FFN begins with: 2 where it is gated, as a mixture's experts are."""
        return len(self.places.layers[0].up) or 2

    @property
    def num_heads(self) -> int:
        """Heads that are there, in all layers together."""
        return self.lacking.num_heads - self.lacking.num_pruned_heads

    @property
    def num_ffns(self) -> int:
        """FFNs that are there."""
        return self.num_hidden_layers - self.lacking.num_pruned_ffns

    @cached_property
    def num_parameters(self) -> int:
        """All of them."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def num_groups(self, layers: Iterable[int]) -> int:
        """Key/value heads that are there in these layers."""
        return sum(len(set(map(self.places.group_of, self.lacking.kept_heads(layer)))) for layer in layers)

    @property
    def parameters_per_head(self) -> int:
        """Rows and columns of one query head; where several share keys and values, without those."""
        return sizes_of(self.places, 0).head

    @property
    def parameters_per_group(self) -> int:
        """Keys and values of a group of query heads, which go with the group's last; 0 where each has its own."""
        return sizes_of(self.places, 0).group

    @property
    def parameters_in_heads(self) -> int:
        """Of all heads that are there, with their keys and values."""
        groups = self.num_groups(range(self.num_hidden_layers))
        return self.num_heads * self.parameters_per_head + groups * self.parameters_per_group

    @cached_property
    def parameters_in_ffns(self) -> int:
        """Of all FFNs that are there."""
        return self.removed_by(self.pruned(0, self.num_hidden_layers))

    @property
    def parameters_per_ffn(self) -> int:
        """Of the smallest, where layers differ: all maps with their biases, and the norm that only serves them."""
        return min(self._ffn_sizes)

    def pruned(self, num_heads: int, num_ffns: int, *, groups: bool = False) -> PruningMask:
        """A mask of so many heads and FFNs of the original, what is gone already among them, that removes least.

        Heads of all groups and layers in turn, so that each keeps its keys and values, and its norm, as long as it can;
        with `groups`, one whole group after another. Of FFNs, the smallest first.
        """
        share = self.num_attention_heads // self.num_key_value_heads
        layers, gone = range(self.num_hidden_layers), self.lacking.pruned_heads
        heads = sorted(
            ((layer, head) for layer in layers for head in range(self.num_attention_heads)),
            key=lambda at: (at[1] not in gone.get(at[0], ()), 0 if groups else at[1] % share, at[1] // share, at[0]),
        )[:num_heads]
        ffns = sorted(layers, key=lambda layer: (layer not in self.lacking.pruned_ffns, self._ffn_sizes[layer], layer))[
            :num_ffns
        ]
        chosen = PruningMask(
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            pruned_heads={layer: tuple(head for at, head in heads if at == layer) for layer in layers},
            pruned_ffns=tuple(sorted(ffns)),
        )
        return chosen | self.lacking

    def removed_by(self, mask: PruningMask, where: str = "mask") -> int:
        """Parameters that `mask` removes, of those that are there. Raises MaskShapeError, which begins with `where`."""
        check_fits(mask, self.num_hidden_layers, self.num_attention_heads, self.name, what=where)
        return num_pruned_parameters(self.config, mask)

    @cached_property
    def _ffn_sizes(self) -> list[int]:
        return [sizes_of(self.places, layer).ffn for layer in range(self.num_hidden_layers)]


def dimensions_of(model: str) -> Dimensions:
    """The dimensions of a model: a known size (`66b`, `facebook/opt-66b`), a folder, or another id on the hub.

    Sizes are built in; a hub id's configuration is taken from the cache, and fetched where it is not there.
    Raises ArgumentError, FileFormatError, UnsupportedModelError.
    """
    found = _configured(model)
    _ = found.places  # of a model that is not supported, there are none
    return found


def _configured(model: str) -> Dimensions:
    if (size := model.lower()) in KNOWN_SIZES:
        return Dimensions(*known_config(size))
    if is_folder(Path(model)):
        if not Path(model, "config.json").is_file():
            raise ArgumentError(f"model {model}: no config.json in this folder; expected a checkpoint's folder")
        return Dimensions(model, read_configuration(model))
    try:
        return Dimensions(model, read_configuration(model))
    except PruneError as error:
        if "no model configuration found" not in str(error):
            raise
        reason = str(error).partition("no model configuration found: ")[2].split(". ")[0]
        sizes = ", ".join(size for size in KNOWN_SIZES if "/" not in size and "-" not in size)
        raise ArgumentError(
            f"model {model!r}: no configuration found ({reason}); expected a size ({sizes}), a folder or a hub id"
        ) from error
