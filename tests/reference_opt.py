"""OPT's logits under a mask, in float64 with NumPy, from the checkpoint's weights and the paper's equations.

Written from the definition (Zhang et al. 2022; masks as in Bansal et al. 2023) and shares no code with the package or
with transformers: what the package computes is compared with this.
"""

from __future__ import annotations

import numpy as np


def reference_logits(model, input_ids, pruned_heads=None, pruned_ffns=()):
    """Logits (len(input_ids), vocab_size) of one unpadded sequence; pruned_heads is {layer: heads}."""
    config = model.config
    weights = {name: tensor.detach().double().cpu().numpy() for name, tensor in model.state_dict().items()}
    pruned_heads = pruned_heads or {}

    def get(name):
        return weights.get(f"model.decoder.{name}")

    def linear(x, name):
        out = x @ get(f"{name}.weight").T
        bias = get(f"{name}.bias")
        return out if bias is None else out + bias

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        out = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        weight = get(f"{name}.weight")
        return out if weight is None else out * weight + get(f"{name}.bias")

    length = len(input_ids)
    hidden = get("embed_tokens.weight")[input_ids]
    if get("project_in.weight") is not None:
        hidden = hidden @ get("project_in.weight").T
    hidden = hidden + get("embed_positions.weight")[np.arange(length) + 2]
    num_heads = config.num_attention_heads
    head_dim = config.hidden_size // num_heads
    before = config.do_layer_norm_before
    for layer in range(config.num_hidden_layers):
        at = f"layers.{layer}"
        x = norm(hidden, f"{at}.self_attn_layer_norm") if before else hidden
        q, k, v = (linear(x, f"{at}.self_attn.{name}_proj") for name in "qkv")
        outputs = np.zeros((length, config.hidden_size))
        for head in range(num_heads):
            if head in pruned_heads.get(layer, ()):
                continue
            part = slice(head * head_dim, (head + 1) * head_dim)
            scores = q[:, part] @ k[:, part].T / np.sqrt(head_dim)
            scores[np.triu_indices(length, 1)] = -np.inf
            attention = np.exp(scores - scores.max(-1, keepdims=True))
            outputs[:, part] = attention / attention.sum(-1, keepdims=True) @ v[:, part]
        hidden = hidden + linear(outputs, f"{at}.self_attn.out_proj")
        if not before:
            hidden = norm(hidden, f"{at}.self_attn_layer_norm")
        if layer not in pruned_ffns:
            x = norm(hidden, f"{at}.final_layer_norm") if before else hidden
            hidden = hidden + linear(np.maximum(linear(x, f"{at}.fc1"), 0), f"{at}.fc2")
        if not before:
            hidden = norm(hidden, f"{at}.final_layer_norm")
    if get("final_layer_norm.weight") is not None:
        hidden = norm(hidden, "final_layer_norm")
    if get("project_out.weight") is not None:
        hidden = hidden @ get("project_out.weight").T
    return hidden @ weights["lm_head.weight"].T
