"""A model's dimensions, from its configuration alone, and its parameters, counted exactly.

Names are those of transformers' OPTConfig. A matrix that serves as embedding and output layer counts once. A compacted
model has its original's dimensions, and says what it lacks of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from lm_eval_prune.decoders import opt
from lm_eval_prune.decoders.settings import checked_settings
from lm_eval_prune.errors import ArgumentError, MaskShapeError, UnsupportedModelError
from lm_eval_prune.files import is_folder, read_json
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.random_opt import SIZES, opt_settings

__all__ = ["Dimensions", "dimensions_of"]

FAMILIES = ("opt", "pruned_opt")
"""Model types in a configuration."""
OWN = ("name", "pruning_mask")
"""Fields of `Dimensions` that are not one number."""


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The numbers of an OPT that decide what it costs; defaults are OPTConfig's."""

    name: str
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_size: int = 768
    ffn_dim: int = 3072
    word_embed_proj_dim: int = 768
    """Width of the embeddings and of the output layer's input; projected to and from `hidden_size` where it differs."""
    vocab_size: int = 50272
    max_position_embeddings: int = 2048
    do_layer_norm_before: bool = True
    _remove_final_layer_norm: bool = False
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True
    pruning_mask: dict[str, Any] | None = None
    """What a compacted model lacks, as the content of a mask file; None lacks nothing."""

    @cached_property
    def lacking(self) -> PruningMask:
        """What the model lacks, as a mask. Raises FileFormatError, MaskError."""
        if self.pruning_mask is None:
            return PruningMask.dense(self.num_hidden_layers, self.num_attention_heads)
        return PruningMask.from_dict(self.pruning_mask, f"{self.name}: pruning_mask")

    @property
    def model_type(self) -> str:
        """As in a configuration, in whose place these numbers may stand."""
        return "opt"

    @property
    def num_heads(self) -> int:
        """Heads that are there, in all layers together."""
        return self.lacking.num_heads - self.lacking.num_pruned_heads

    @property
    def num_ffns(self) -> int:
        """FFNs that are there."""
        return self.num_hidden_layers - self.lacking.num_pruned_ffns

    @property
    def attentions(self) -> float:
        """All heads that are there, in layers of them."""
        return self.num_heads / self.num_attention_heads

    @property
    def parameters_per_head(self) -> int:
        """Query, key and value rows with their biases, and output columns; the output map's bias stays."""
        return opt.parameters_per_head(self._config)

    @property
    def parameters_per_ffn(self) -> int:
        """Both maps with their biases, and the layer norm before them; one behind them is the residual stream's."""
        return opt.parameters_per_ffn(self._config)

    def parameters_of(self, layer: int) -> int:
        """One decoder layer, as it is."""
        heads, ffns = self.num_attention_heads - len(self.lacking.kept_heads(layer)), layer in self.lacking.pruned_ffns
        return self.parameters_per_layer - self._in(heads, ffns, heads == self.num_attention_heads)

    @property
    def parameters_per_layer(self) -> int:
        """A whole decoder layer."""
        outside = self.hidden_size * self.enable_bias + self._norm  # the output map's bias, the attention's norm
        ffn_norm = 0 if self.do_layer_norm_before else self._norm
        return self.num_attention_heads * self.parameters_per_head + self.parameters_per_ffn + outside + ffn_norm

    @property
    def num_parameters(self) -> int:
        """All of them."""
        embeddings = self.vocab_size * self.word_embed_proj_dim
        positions = (self.max_position_embeddings + 2) * self.hidden_size
        projections = 2 * self.hidden_size * self.word_embed_proj_dim if self.is_projected else 0
        last_norm = self._norm if self.has_last_norm else 0
        output = 0 if self.tie_word_embeddings else embeddings
        layers = sum(self.parameters_of(layer) for layer in range(self.num_hidden_layers))
        return layers + embeddings + positions + projections + last_norm + output

    @property
    def has_last_norm(self) -> bool:
        """Whether a layer norm stands before the output layer."""
        return self.do_layer_norm_before and not self._remove_final_layer_norm

    @property
    def is_projected(self) -> bool:
        """Whether embeddings are of another width than the residual stream."""
        return self.word_embed_proj_dim != self.hidden_size

    @property
    def _config(self) -> Any:
        return self

    @property
    def _norm(self) -> int:
        return 2 * self.hidden_size * self.layer_norm_elementwise_affine

    def removed(self, num_heads: int, num_ffns: int) -> int:
        """Parameters that go with so many heads and FFNs: all heads of a model are alike, and so are its FFNs.

        A layer that loses every head loses the norm before attention too: whether one does is known where all do.
        """
        norms = self.num_hidden_layers - self._headless(self.lacking) if num_heads == self.num_heads else 0
        return self._in(num_heads, num_ffns, norms)

    def removed_by(self, mask: PruningMask, where: str = "mask") -> int:
        """Parameters that `mask` removes, of those that are there. Raises MaskShapeError."""
        shape = self.num_hidden_layers, self.num_attention_heads
        if mask.shape != shape:
            raise MaskShapeError(
                f"{where}: for {mask.shape[0]} layers of {mask.shape[1]} heads, but {self.name} has {shape[0]} layers "
                f"of {shape[1]} heads"
            )
        whole = mask | self.lacking
        heads, ffns = whole.num_pruned_heads, whole.num_pruned_ffns
        heads, ffns = heads - self.lacking.num_pruned_heads, ffns - self.lacking.num_pruned_ffns
        return self._in(heads, ffns, self._headless(whole) - self._headless(self.lacking))

    def _in(self, num_heads: int, num_ffns: int, headless_layers: int) -> int:
        norms = headless_layers * self._norm if self.do_layer_norm_before else 0
        return num_heads * self.parameters_per_head + num_ffns * self.parameters_per_ffn + norms

    def _headless(self, mask: PruningMask) -> int:
        """Layers without any head."""
        return sum(not mask.kept_heads(layer) for layer in range(self.num_hidden_layers))


def dimensions_of(model: str) -> Dimensions:
    """The dimensions of a model: an OPT's size (`66b`, `facebook/opt-66b`), a folder, or another id on the hub.

    Sizes are built in; a hub id's configuration is taken from the cache, and fetched where it is not there.
    Raises ArgumentError, FileFormatError, UnsupportedModelError.
    """
    size = model.removeprefix("facebook/").lower()
    size = size if size.startswith("opt-") else f"opt-{size}"
    if size in SIZES:
        return _from_settings(f"facebook/{size}", opt_settings(size))
    path = Path(model)
    if is_folder(path):
        if not (path / "config.json").is_file():
            raise ArgumentError(f"model {model}: no config.json in this folder; expected a checkpoint's folder")
        return _from_settings(model, read_json(path / "config.json"))
    return _from_settings(model, read_json(_hub_config(model)))


def _from_settings(name: str, settings: dict[str, Any]) -> Dimensions:
    checked_settings(settings, name)
    family = settings.get("model_type", "opt")
    if family not in FAMILIES:
        raise UnsupportedModelError(f"{name}: model type {family!r} is not supported; supported: {', '.join(FAMILIES)}")
    if settings.get("word_embed_proj_dim") is None:
        settings = {**settings, "word_embed_proj_dim": settings.get("hidden_size", Dimensions.hidden_size)}
    known = {field.name for field in fields(Dimensions)}
    given = {key: value for key, value in settings.items() if key in known and key not in OWN and value is not None}
    mask = settings.get("pruning_mask") if family == "pruned_opt" else None
    found = Dimensions(name=name, pruning_mask=mask, **given)
    if found.hidden_size % found.num_attention_heads:  # of the defaults, too
        raise ArgumentError(f"{name}: {found.num_attention_heads} heads do not divide a width of {found.hidden_size}")
    shape = found.num_hidden_layers, found.num_attention_heads
    if found.lacking.shape != shape:
        raise MaskShapeError(
            "{}: pruning_mask is for {} layers of {} heads, not {} of {}".format(name, *found.lacking.shape, *shape)
        )
    return found


def _hub_config(model: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    expected = f"expected a size ({', '.join(size.removeprefix('opt-') for size in SIZES)}), a folder or a hub id"
    try:
        found = try_to_load_from_cache(model, "config.json")
        return Path(found if isinstance(found, str) else hf_hub_download(model, "config.json", etag_timeout=5))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise ArgumentError(f"model {model!r}: no configuration found ({reason}); {expected}") from error
