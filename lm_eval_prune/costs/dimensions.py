"""A model's dimensions, from its configuration alone, and its parameters, counted exactly.

Names are those of transformers' OPTConfig. A matrix that serves as embedding and output layer counts once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.decoders import opt
from lm_eval_prune.errors import ArgumentError, MaskShapeError, UnsupportedModelError
from lm_eval_prune.files import read_json
from lm_eval_prune.random_opt import SIZES, opt_settings

if TYPE_CHECKING:
    from lm_eval_prune.masks import PruningMask

__all__ = ["Dimensions", "dimensions_of"]


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
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True

    @property
    def model_type(self) -> str:
        """As in a configuration, in whose place these numbers may stand."""
        return "opt"

    @property
    def num_heads(self) -> int:
        """Heads of the whole model."""
        return self.num_hidden_layers * self.num_attention_heads

    @property
    def parameters_per_head(self) -> int:
        """Query, key and value rows with their biases, and output columns; the output map's bias stays."""
        return opt.parameters_per_head(self._config)

    @property
    def parameters_per_ffn(self) -> int:
        """Both maps with their biases, and the layer norm before them; one behind them is the residual stream's."""
        return opt.parameters_per_ffn(self._config)

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
        last_norm = self._norm if self.do_layer_norm_before else 0
        output = 0 if self.tie_word_embeddings else embeddings
        layers = self.num_hidden_layers * self.parameters_per_layer
        return layers + embeddings + positions + projections + last_norm + output

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
        """Parameters in so many heads and FFNs: all heads of a model are alike, and so are its FFNs."""
        return num_heads * self.parameters_per_head + num_ffns * self.parameters_per_ffn

    def removed_by(self, mask: PruningMask, where: str = "mask") -> int:
        """Parameters that `mask` removes. Raises MaskShapeError."""
        shape = self.num_hidden_layers, self.num_attention_heads
        if mask.shape != shape:
            raise MaskShapeError(
                f"{where}: for {mask.shape[0]} layers of {mask.shape[1]} heads, but {self.name} has {shape[0]} layers "
                f"of {shape[1]} heads"
            )
        return self.removed(mask.num_pruned_heads, mask.num_pruned_ffns)


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
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ArgumentError(f"model {model}: no config.json in this folder; expected a checkpoint's folder")
        return _from_settings(model, read_json(path / "config.json"))
    return _from_settings(model, json.loads(_hub_config(model).read_text(encoding="utf-8")))


def _from_settings(name: str, settings: dict[str, Any]) -> Dimensions:
    family = settings.get("model_type", "opt")
    if family != "opt":
        raise UnsupportedModelError(f"{name}: model type {family!r} is not supported; supported: opt")
    known = {field.name: field for field in fields(Dimensions)} | {}
    given = {key: value for key, value in settings.items() if key in known and key != "name"}
    for key, value in given.items():
        wanted = bool if isinstance(known[key].default, bool) else int
        if type(value) is not wanted or (wanted is int and value < 1):
            raise ArgumentError(f"{name}: its configuration has {key}={value!r}; expected {wanted.__name__}")
    found = Dimensions(name=name, **given)
    if found.hidden_size % found.num_attention_heads:
        raise ArgumentError(f"{name}: {found.num_attention_heads} heads do not divide a width of {found.hidden_size}")
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
