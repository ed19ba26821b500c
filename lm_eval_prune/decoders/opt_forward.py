"""OPT's forward pass in pieces, for tokens that lie in no rectangle: `scoring/` puts the pieces together.

Hidden states are [tokens, hidden_size], without a batch dimension. Pruned heads are left out of the weights, which are
sliced when they are used: a slice costs one copy, a pack thousands of tokens. In a compacted model, which lacks some
heads and FFNs, heads keep the original model's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from lm_eval_prune.decoders import removed_from
from lm_eval_prune.decoders.linear import linear
from lm_eval_prune.decoders.offloaded import at_hand, device_of
from lm_eval_prune.decoders.plain import KNOWN_ATTENTION, oddity

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.masks import PruningMask

__all__ = ["OPTForward", "why_not"]


class OPTForward:
    """The pieces of an `OPTForCausalLM`, or a compacted one, for which `why_not` finds no reason against."""

    def __init__(self, model: Any) -> None:
        self.model, self.decoder, self.config = model, model.model.decoder, model.config
        self.removed: PruningMask = removed_from(model.config)
        """What the model lacks: to be added to every mask, since there is nothing of it to compute."""
        self.num_hidden_layers: int = model.config.num_hidden_layers
        self.num_attention_heads: int = model.config.num_attention_heads
        self.head_dim: int = model.config.hidden_size // model.config.num_attention_heads
        self.hidden_size: int = model.config.hidden_size
        self.ffn_dim: int = model.config.ffn_dim
        self.vocab_size: int = model.lm_head.out_features

    @property
    def max_length(self) -> int:
        """Positions that the model knows."""
        return self.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return device_of(self.decoder.embed_tokens)

    def at_hand(self, layer: int, *, ffn: bool, pruned: bool = False) -> AbstractContextManager[None]:
        """A block in which the weights of a layer's attention, or of its FFN, are there if they are offloaded."""
        block = self.decoder.layers[layer]
        names = ["self_attn", "self_attn_layer_norm"]
        if ffn:
            names = ["final_layer_norm", *(() if pruned else ("fc1", "fc2"))]
        return at_hand(*(getattr(block, name, None) for name in names))

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """[N] tokens and how many come before each -> the first layer's input [N, hidden_size]."""
        hidden = self.decoder.embed_tokens(token_ids)
        table = self.decoder.embed_positions
        with at_hand(table):
            placed = F.embedding(positions.to(table.weight.device) + table.offset, table.weight)
        if self.decoder.project_in is not None:
            hidden = self.decoder.project_in(hidden)
        return hidden + placed.to(hidden.device)

    def attention(self, layer: int, kept_heads: Sequence[int]) -> AttentionPiece:
        """Attention of `layer` with only `kept_heads`, ascending; none of them leaves the output map's bias."""
        return AttentionPiece(self, layer, kept_heads)

    def ffn(self, layer: int, pruned: bool, hidden: Tensor) -> Tensor:
        """The residual stream [n, hidden_size] behind the FFN of `layer`; pruned, it passes by."""
        block = self.decoder.layers[layer]
        if not pruned:
            inner = block.final_layer_norm(hidden) if block.do_layer_norm_before else hidden
            inner = linear(inner, block.fc1.weight, block.fc1.bias)
            inner = inner.relu_() if type(block.activation_fn) is nn.ReLU else block.activation_fn(inner)
            hidden = _added(linear(inner, block.fc2.weight, block.fc2.bias), hidden)
        return hidden if block.do_layer_norm_before else block.final_layer_norm(hidden)

    def ffn_device(self, layer: int) -> torch.device:
        block = self.decoder.layers[layer]
        return device_of(block.fc1) if hasattr(block, "fc1") else _device_of(block, self.device)

    @property
    def output_device(self) -> torch.device:
        """Where logits are."""
        return device_of(self.model.lm_head)

    def logits(self, hidden: Tensor) -> Tensor:
        """The residual stream behind the last layer -> logits [n, vocab_size]."""
        if self.decoder.final_layer_norm is not None:
            hidden = self.decoder.final_layer_norm(hidden.to(_device_of(self.decoder.final_layer_norm, hidden.device)))
        if self.decoder.project_out is not None:
            hidden = self.decoder.project_out(hidden.to(device_of(self.decoder.project_out)))
        with at_hand(self.model.lm_head):
            return linear(hidden.to(self.output_device), self.model.lm_head.weight, self.model.lm_head.bias)


class AttentionPiece:
    """One layer's attention, but for the attending itself, under one choice of heads."""

    def __init__(self, model: OPTForward, layer: int, kept_heads: Sequence[int]) -> None:
        block: Any = model.decoder.layers[layer]
        attention = block.self_attn
        there = model.removed.kept_heads(layer)
        places = [place for place, head in enumerate(there) if head in kept_heads]
        self.block, self.norm = block, block.self_attn_layer_norm
        self.num_heads, self.head_dim, self.scaling = len(places), model.head_dim, model.head_dim**-0.5
        self.device = _device_of(block, model.device)
        self.out_bias: Tensor | None = attention.out_proj.bias
        if not there:
            return
        maps = [attention.q_proj, attention.k_proj, attention.v_proj]
        weights: list[Tensor] = [part.weight for part in maps]
        biases: list[Tensor | None] = [part.bias for part in maps]
        self.out_weight: Tensor = attention.out_proj.weight
        if self.num_heads < len(there):
            rows = torch.arange(len(there) * self.head_dim, device=self.device).view(-1, self.head_dim)
            rows = rows[places].flatten()
            weights = [weight.index_select(0, rows) for weight in weights]
            biases = [None if bias is None else bias.index_select(0, rows) for bias in biases]
            self.out_weight = self.out_weight.index_select(1, rows)
        self.weights, self.biases = weights, biases

    def inputs(self, hidden: Tensor) -> Tensor:
        """What queries, keys and values are computed from: [n, hidden_size] -> the same shape."""
        return self.norm(hidden) if self.block.do_layer_norm_before else hidden

    def queries(self, inputs: Tensor) -> Tensor:
        """Scaled queries [n, num_heads * head_dim]: attention adds no scale of its own."""
        return linear(inputs, self.weights[0], self.biases[0]).mul_(self.scaling)

    def keys(self, inputs: Tensor) -> Tensor:
        """[n, num_heads * head_dim]"""
        return linear(inputs, self.weights[1], self.biases[1])

    def values(self, inputs: Tensor) -> Tensor:
        """[n, num_heads * head_dim]"""
        return linear(inputs, self.weights[2], self.biases[2])

    def output(self, hidden: Tensor, heads: Tensor | None) -> Tensor:
        """The residual stream behind attention; `heads` [n, num_heads * head_dim] are the kept heads' outputs."""
        if heads is not None:
            hidden = _added(linear(heads, self.out_weight, self.out_bias), hidden)
        elif self.out_bias is not None:
            hidden = hidden + self.out_bias
        return hidden if self.block.do_layer_norm_before else self.norm(hidden)


def _added(output: Tensor, hidden: Tensor) -> Tensor:
    """Their sum, in the wider of both dtypes: under autocast the residual stream stays in float32."""
    return output.add_(hidden) if output.dtype == hidden.dtype else output + hidden


def why_not(model: nn.Module) -> str | None:
    """Why the pieces could differ from `model(...)`; None where they cannot.

    Everything that is not plain OPT counts: adapters, quantised or sharded weights, hooks but accelerate's.
    """
    from lm_eval_prune.decoders.pruned_opt import PLAIN

    if type(model) not in PLAIN:
        return f"the model is a {type(model).__name__}, not an OPTForCausalLM"
    attention = getattr(model.config, "_attn_implementation", None)
    if attention not in KNOWN_ATTENTION:
        return f"attention implementation {attention!r} is unknown"
    for name, module in model.named_modules():
        if reason := _oddity(module):
            return f"{name or 'the model'} {reason}"
    return None


def _oddity(module: nn.Module) -> str | None:
    from transformers.models.opt import modeling_opt as opt

    from lm_eval_prune.decoders import pruned_opt

    ours = (opt.OPTForCausalLM, opt.OPTModel, opt.OPTDecoder, opt.OPTDecoderLayer, opt.OPTAttention)
    plain = (nn.Linear, nn.LayerNorm, nn.Embedding, opt.OPTLearnedPositionalEmbedding, nn.ModuleList)
    activation = not list(module.children()) and not list(module.parameters(recurse=False))
    if type(module) not in (*ours, *pruned_opt.CLASSES, *plain) and not activation:
        return f"is a {type(module).__name__}"
    return oddity(module)


def _device_of(module: nn.Module, default: torch.device) -> torch.device:
    """Where `module` computes; `default` where it has no weights."""
    first = next((part for part in module.modules() if list(part.parameters(recurse=False))), None)
    return default if first is None else device_of(first)
