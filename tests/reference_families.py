"""Forward passes written from the weights alone, in float64: what five families compute without some heads and FFNs."""

import math

import torch
import torch.nn.functional as F


def logits(model, ids, mask, instead=None, seen=None):
    """(tokens, vocabulary) of one sequence under a mask.

    `instead` is (heads (layers, heads, width), FFNs (layers, hidden)): what pruned ones give in the place of nothing.
    Into `seen`, what each head gives, (tokens, width) at (layer, head), and each FFN, (tokens, hidden) at layer; and
    the residual stream, (tokens, hidden), at ("before" the layer, "between" attention and FFN, "after" it; layer).
    """
    weights = {name: each.double() for name, each in model.state_dict().items()}
    kind = model.config.model_type
    forward = {"gpt2": _gpt2, "gpt_neox": _gpt_neox}.get(kind, _llama_like)
    return forward(model.config, weights, torch.tensor(ids), mask, instead, {} if seen is None else seen)


def _linear(weights, x, name):
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def _rms(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def _layer_norm(weights, x, name, eps=1e-5):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps).sqrt()
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _rotated(x, theta):
    """(tokens, width): position p turns the pair (i, i + width / 2) by p * theta ** (-2 i / width)."""
    count, width = x.shape
    pairs = torch.arange(width // 2, dtype=torch.float64)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * theta ** (-2 * pairs / width)
    one, other = x[:, : width // 2], x[:, width // 2 :]
    return torch.cat([one * angles.cos() - other * angles.sin(), other * angles.cos() + one * angles.sin()], -1)


def _attended(q, k, v, scale, window=None, cap=None):
    scores = q @ k.T * scale
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    back = torch.arange(len(q))[:, None] - torch.arange(len(q))
    scores = scores.masked_fill((back < 0) | (back >= (window or len(q))), -math.inf)
    return scores.softmax(-1) @ v


def _llama_like(config, weights, ids, mask, instead, seen):
    gemma, qwen3 = config.model_type == "gemma2", config.model_type == "qwen3"
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    scale = (config.query_pre_attn_scalar if gemma else width) ** -0.5
    cap = config.attn_logit_softcapping if gemma else None
    theta = config.rope_parameters["rope_theta"]

    def norm(x, name):
        weight = weights[f"{name}.weight"]
        return _rms(x, 1 + weight if gemma else weight, config.rms_norm_eps)

    x = weights["model.embed_tokens.weight"][ids] * (config.hidden_size**0.5 if gemma else 1)
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        window = config.sliding_window if gemma and config.layer_types[layer] == "sliding_attention" else None
        seen["before", layer] = x
        read = norm(x, f"{at}.input_layernorm")
        q, k, v = (_linear(weights, read, f"{at}.self_attn.{each}_proj") for each in "qkv")
        outputs = torch.zeros(len(ids), heads * width, dtype=torch.float64)
        for head in range(heads):
            group = head // (heads // groups)
            own, shared = slice(head * width, (head + 1) * width), slice(group * width, (group + 1) * width)
            if head in mask.pruned_heads.get(layer, ()):
                outputs[:, own] = instead[0][layer, head] if instead else 0
                continue
            query, key = q[:, own], k[:, shared]
            if qwen3:
                query, key = norm(query, f"{at}.self_attn.q_norm"), norm(key, f"{at}.self_attn.k_norm")
            query, key = _rotated(query, theta), _rotated(key, theta)
            seen[layer, head] = outputs[:, own] = _attended(query, key, v[:, shared], scale, window, cap)
        attended = _linear(weights, outputs, f"{at}.self_attn.o_proj")
        x = x + (norm(attended, f"{at}.post_attention_layernorm") if gemma else attended)
        seen["between", layer] = x
        if layer in mask.pruned_ffns:
            x = x + (instead[1][layer] if instead else 0)
            continue
        read = norm(x, f"{at}.pre_feedforward_layernorm" if gemma else f"{at}.post_attention_layernorm")
        gate = _linear(weights, read, f"{at}.mlp.gate_proj")
        gate = F.gelu(gate, approximate="tanh") if gemma else F.silu(gate)
        added = _linear(weights, gate * _linear(weights, read, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
        seen[layer] = norm(added, f"{at}.post_feedforward_layernorm") if gemma else added
        seen["after", layer] = x = x + seen[layer]
    found = _linear(weights, norm(x, "model.norm"), "lm_head")
    final = config.final_logit_softcapping if gemma else None
    return found if final is None else final * (found / final).tanh()


def _gpt_neox(config, weights, ids, mask, instead, seen):
    heads = config.num_attention_heads
    width = config.hidden_size // heads
    turned = int(width * config.rope_parameters["partial_rotary_factor"])
    theta = config.rope_parameters["rope_theta"]
    x = weights["gpt_neox.embed_in.weight"][ids]
    for layer in range(config.num_hidden_layers):
        at = f"gpt_neox.layers.{layer}"
        seen["before", layer] = x
        read = _layer_norm(weights, x, f"{at}.input_layernorm", config.layer_norm_eps)
        qkv = _linear(weights, read, f"{at}.attention.query_key_value").view(len(ids), heads, 3, width)
        outputs = torch.zeros(len(ids), heads, width, dtype=torch.float64)
        for head in range(heads):
            if head in mask.pruned_heads.get(layer, ()):
                outputs[:, head] = instead[0][layer, head] if instead else 0
                continue
            q, k, v = qkv[:, head].unbind(1)
            q, k = (torch.cat([_rotated(each[:, :turned], theta), each[:, turned:]], -1) for each in (q, k))
            seen[layer, head] = outputs[:, head] = _attended(q, k, v, width**-0.5)
        attended = _linear(weights, outputs.flatten(1), f"{at}.attention.dense")
        read = x if config.use_parallel_residual else x + attended
        seen["between", layer] = x = x + attended
        if layer not in mask.pruned_ffns:
            read = _layer_norm(weights, read, f"{at}.post_attention_layernorm", config.layer_norm_eps)
            inner = F.gelu(_linear(weights, read, f"{at}.mlp.dense_h_to_4h"))
            seen[layer] = _linear(weights, inner, f"{at}.mlp.dense_4h_to_h")
            seen["after", layer] = x = x + seen[layer]
        elif instead:
            x = x + instead[1][layer]
    x = _layer_norm(weights, x, "gpt_neox.final_layer_norm", config.layer_norm_eps)
    return _linear(weights, x, "lm_head")


def _gpt2(config, weights, ids, mask, instead, seen):
    def conv(x, name):
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    heads, hidden = config.n_head, config.n_embd
    width = hidden // heads
    x = weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][: len(ids)]
    for layer in range(config.n_layer):
        at = f"transformer.h.{layer}"
        seen["before", layer] = x
        q, k, v = conv(_layer_norm(weights, x, f"{at}.ln_1"), f"{at}.attn.c_attn").split(hidden, -1)
        outputs = torch.zeros_like(q)
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            if head in mask.pruned_heads.get(layer, ()):
                outputs[:, own] = instead[0][layer, head] if instead else 0
                continue
            seen[layer, head] = outputs[:, own] = _attended(q[:, own], k[:, own], v[:, own], width**-0.5)
        seen["between", layer] = x = x + conv(outputs, f"{at}.attn.c_proj")
        if layer not in mask.pruned_ffns:
            inner = conv(_layer_norm(weights, x, f"{at}.ln_2"), f"{at}.mlp.c_fc")
            seen[layer] = conv(F.gelu(inner, approximate="tanh"), f"{at}.mlp.c_proj")
            seen["after", layer] = x = x + seen[layer]
        elif instead:
            x = x + instead[1][layer]
    return _linear(weights, _layer_norm(weights, x, "transformer.ln_f"), "lm_head")
