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

    def __init__(self, config: PrunedOPTConfig, layer_idx: int, num_heads: int) -> None:
        super().__init__(config, layer_idx)
        self.num_heads = num_heads
        width, bias = num_heads * self.head_dim, self.enable_bias
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(self.embed_dim, width, bias=bias) for _ in range(3))
        self.out_proj = nn.Linear(width, self.embed_dim, bias=bias)


class OutputBias(nn.Module):
    """An output map that has lost all its inputs."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.bias is None:
            return torch.zeros_like(hidden_states)
        return self.bias.expand_as(hidden_states)


class HeadlessAttention(nn.Module):
    """What stays of an attention whose heads are all gone."""

    def __init__(self, config: PrunedOPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.out_proj = OutputBias(config.hidden_size, config.enable_bias)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))  # the name differs between versions of transformers
        if cache is not None and self.layer_idx == 0:
            # The model asks layer 0 how many tokens came before: one number a token answers.
            counted = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            cache.update(counted, counted, 0)
        return self.out_proj(hidden_states), None


class PrunedOPTDecoderLayer(OPTDecoderLayer):
    """OPT's layer with some heads or none, and with its FFN or without."""

    def __init__(self, config: PrunedOPTConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        assert config.layer_head_num is not None
        assert config.layer_inter_size is not None
        num_heads = config.layer_head_num[layer_idx]
        self.has_ffn = config.layer_inter_size[layer_idx] > 0
        if num_heads:
            self.self_attn = PrunedOPTAttention(config, layer_idx, num_heads)
        else:
            self.self_attn = HeadlessAttention(config, layer_idx)  # type: ignore[assignment]
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
