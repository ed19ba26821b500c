"""What the scorer must answer, computed another way: OPT in float64 from its weights alone, one request at a time."""

import math

import torch

from lm_eval_prune import PruningMask


def log_likelihood(model, context, continuation, max_length, mask=None):
    """(sum of log-probabilities, whether each continuation token is the likeliest), in float64."""
    config = model.config
    mask = mask or PruningMask.dense(config.num_hidden_layers, config.num_attention_heads)
    read = [*context, *continuation][-(max_length + 1) :][:-1]
    log_probs = _logits(model, read, mask)[-len(continuation) :].log_softmax(-1)
    picked = [row[token].item() for row, token in zip(log_probs, continuation, strict=True)]
    return math.fsum(picked), log_probs.argmax(-1).tolist() == list(continuation)


def _logits(model, ids, mask):
    config, weights = model.config, {name: tensor.double() for name, tensor in model.state_dict().items()}
    activation = {"relu": torch.relu, "gelu": torch.nn.functional.gelu}[config.activation_function]

    def linear(x, name):
        return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0)

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return x * weights.get(name + ".weight", 1) + weights.get(name + ".bias", 0)

    x = weights["model.decoder.embed_tokens.weight"][ids]
    if "model.decoder.project_in.weight" in weights:
        x = linear(x, "model.decoder.project_in")
    x = x + weights["model.decoder.embed_positions.weight"][2 : 2 + len(ids)]
    future = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    width = config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        at = f"model.decoder.layers.{layer}"
        read = norm(x, f"{at}.self_attn_layer_norm") if config.do_layer_norm_before else x
        q, k, v = (linear(read, f"{at}.self_attn.{kind}_proj") for kind in "qkv")
        heads = torch.zeros_like(q)
        for head in set(range(config.num_attention_heads)) - set(mask.pruned_heads.get(layer, ())):
            part = slice(head * width, (head + 1) * width)
            scores = (q[:, part] @ k[:, part].T / math.sqrt(width)).masked_fill(future, -math.inf)
            heads[:, part] = scores.softmax(-1) @ v[:, part]
        x = x + linear(heads, f"{at}.self_attn.out_proj")
        x = x if config.do_layer_norm_before else norm(x, f"{at}.self_attn_layer_norm")
        if layer not in mask.pruned_ffns:
            read = norm(x, f"{at}.final_layer_norm") if config.do_layer_norm_before else x
            x = x + linear(activation(linear(read, f"{at}.fc1")), f"{at}.fc2")
        x = x if config.do_layer_norm_before else norm(x, f"{at}.final_layer_norm")
    if config.do_layer_norm_before and not config._remove_final_layer_norm:
        x = norm(x, "model.decoder.final_layer_norm")
    if "model.decoder.project_out.weight" in weights:
        x = linear(x, "model.decoder.project_out")
    return linear(x, "lm_head")
