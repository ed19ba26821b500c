"""An OPT without the heads and FFNs that were removed from it: the model behind compacted checkpoints.

Weights are named as in OPT, and what is there computes as OPT's own classes do. A layer without heads keeps its output
map's bias; a layer without FFN lets the residual stream pass by, through the norm behind it where norms come last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import OPTForCausalLM, OPTModel
from transformers.models.opt.modeling_opt import OPTAttention, OPTDecoderLayer

from lm_eval_prune.decoders.pruned_opt_config import PrunedOPTConfig
from lm_eval_prune.errors import FileFormatError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CLASSES", "PLAIN", "PrunedOPTForCausalLM", "PrunedOPTModel"]


class PrunedOPTAttention(OPTAttention):
    """OPT's attention with some of its heads."""

    def __init__(self, config: PrunedOPTConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.place, self.kept_heads = layer_idx, config.removed.kept_heads(layer_idx)
        self.num_heads = len(self.kept_heads)
        width, bias = self.num_heads * self.head_dim, self.enable_bias
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(self.embed_dim, width, bias=bias) for _ in range(3))
        self.out_proj = nn.Linear(width, self.embed_dim, bias=bias)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if cache is not None:
            _keep_heads(cache, self.place, self.kept_heads, self.head_dim)
        return super().forward(hidden_states, **kwargs)


class OutputBias(nn.Linear):
    """An output map that has lost all its inputs.

    A linear map of one input, always zero, so that adapters (LoRA, DoRA on `out_proj`) find in it what they look for
    and change nothing. Its weight therefore has no effect and is not stored.
    """

    def __init__(self, width: int, bias: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = 1, width
        self.register_buffer("weight", torch.ones(width, 1), persistent=False)
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None  # type: ignore[assignment]

    def forward(self, zero: Tensor) -> Tensor:
        shape = *zero.shape[:-1], self.out_features  # a tensor of its own: adapters add to it in place
        return zero.new_zeros(shape) if self.bias is None else self.bias.expand(shape).clone()


class HeadlessAttention(OPTAttention):
    """What stays of an attention whose heads are all gone.

    An `OPTAttention`, so that `output_attentions` has an entry for the layer: of (batch, 0, queries, keys).
    """

    def __init__(self, config: PrunedOPTConfig, layer_idx: int) -> None:
        nn.Module.__init__(self)
        self.config, self.layer_idx, self.num_heads = config, layer_idx, 0
        self.out_proj = OutputBias(config.hidden_size, config.enable_bias)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))  # the name differs between versions of transformers
        if cache is not None and self.layer_idx == 0:
            # The model asks layer 0 how many tokens came before: one number a token answers.
            _keep_heads(cache, 0, (0,), width=1)
            counted = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            cache.update(counted, counted, 0)
        weights = None
        if self.config._attn_implementation == "eager":  # the others give no layer's attention weights
            tokens = hidden_states.shape[1]
            keys = tokens if attention_mask is None else attention_mask.shape[-1]
            weights = hidden_states.new_empty(len(hidden_states), 0, tokens, keys)
        return self.out_proj(hidden_states.new_zeros(*hidden_states.shape[:-1], 1)), weights


def _keep_heads(cache: Any, layer_idx: int, heads: tuple[int, ...], width: int | None) -> None:
    """Leave of what stands in the cache for a layer the kept heads, where it was made for all of the original's heads.

    So is a learned prefix (PEFT's prefix tuning), which knows the configuration's number of heads alone.
    """
    layer = cache.layers[layer_idx] if layer_idx < len(getattr(cache, "layers", ())) else None
    if layer is None or not layer.is_initialized:
        return
    if (layer.keys.shape[1], layer.keys.shape[3]) != (len(heads), width):
        layer.keys, layer.values = (part[:, list(heads), :, :width] for part in (layer.keys, layer.values))


class PrunedOPTDecoderLayer(OPTDecoderLayer):
    """OPT's layer with some heads or none, and with its FFN or without."""

    def __init__(self, config: PrunedOPTConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        assert config.layer_head_num is not None
        assert config.layer_inter_size is not None
        self.has_ffn = config.layer_inter_size[layer_idx] > 0
        if config.layer_head_num[layer_idx]:
            self.self_attn = PrunedOPTAttention(config, layer_idx)
        else:
            self.self_attn = HeadlessAttention(config, layer_idx)
            if self.do_layer_norm_before:
                self.self_attn_layer_norm = nn.Identity()  # type: ignore[assignment]
        if not self.has_ffn:
            del self.fc1, self.fc2
            if self.do_layer_norm_before:
                del self.final_layer_norm

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        if self.has_ffn:
            return super().forward(hidden_states, **kwargs)
        kwargs.pop("use_cache", None)
        entering = self.self_attn_layer_norm(hidden_states) if self.do_layer_norm_before else hidden_states
        attended, _ = self.self_attn(hidden_states=entering, **kwargs)
        attended = nn.functional.dropout(attended, p=self.dropout, training=self.training)
        hidden_states = hidden_states + attended
        if self.do_layer_norm_before:
            return hidden_states
        return self.final_layer_norm(self.self_attn_layer_norm(hidden_states))


class _Complete:
    """`from_pretrained` in one line where a checkpoint is broken, and never with weights that were drawn at random."""

    @classmethod
    def from_pretrained(
        cls, *args: Any, output_loading_info: bool = False, ignore_mismatched_sizes: bool = False, **kwargs: Any
    ) -> Any:
        """As transformers' own. Raises FileFormatError for weights that are missing, cut short or misshapen."""
        try:
            loaded = super().from_pretrained(  # type: ignore[misc]
                *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        except SafetensorError as error:
            where = args[0] if args else kwargs.get("pretrained_model_name_or_path")
            raise FileFormatError(f"{where}: weights cannot be read, a file may be cut short: {error}") from error
        model, info = loaded
        where = model.config.name_or_path
        if missing := sorted(info["missing_keys"]):
            raise FileFormatError(f"{where}: the weight {missing[0]} is missing ({len(missing)} in all)")
        if not ignore_mismatched_sizes and (misshapen := sorted(info["mismatched_keys"])):
            name, found, expected = misshapen[0]
            raise FileFormatError(f"{where}: {name} is {tuple(found)}; expected {tuple(expected)} by config.json")
        return (model, info) if output_loading_info else model

    @classmethod
    def register_for_auto_class(cls, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration's `save_pretrained` writes what other programs need."""


class PrunedOPTModel(_Complete, OPTModel):
    """The decoder alone."""

    config: PrunedOPTConfig
    config_class = PrunedOPTConfig
    _no_split_modules = ["PrunedOPTDecoderLayer"]  # noqa: RUF012 - transformers' own spelling

    def __init__(self, config: PrunedOPTConfig) -> None:
        super().__init__(config)
        _replace_layers(self, config)


class PrunedOPTForCausalLM(_Complete, OPTForCausalLM):
    """The language model: `generate`, its key-value cache and `save_pretrained` are OPT's."""

    config: PrunedOPTConfig
    config_class = PrunedOPTConfig
    _no_split_modules = ["PrunedOPTDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: PrunedOPTConfig) -> None:
        super().__init__(config)
        _replace_layers(self.model, config)


def _replace_layers(model: Any, config: PrunedOPTConfig) -> None:
    """Put smaller layers in the place of whole ones. Those cost nothing on the meta device, where models are loaded."""
    layers = model.decoder.layers
    for index in range(config.num_hidden_layers):
        layers[index] = PrunedOPTDecoderLayer(config, index)
    model.post_init()


PLAIN = (OPTForCausalLM, PrunedOPTForCausalLM)
"""Language models whose weights and forward pass are known to the last part; a subclass may do anything."""
CLASSES = (PrunedOPTForCausalLM, PrunedOPTDecoderLayer, PrunedOPTAttention, HeadlessAttention, OutputBias)
"""Modules that a compacted language model may hold beside OPT's own."""
