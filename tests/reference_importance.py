"""OPT, head importance, prefix matching and copying in float64, written from the definitions.

From the weights alone: no transformers, no code under test. Slow and plain on purpose.
"""

from __future__ import annotations

import torch

DOUBLE = torch.float64


class Weights:
    """The weights of an `OPTForCausalLM` as float64, by their short names."""

    def __init__(self, model):
        self.config = model.config
        self.state = {name: value.detach().cpu().to(DOUBLE) for name, value in model.state_dict().items()}

    def decoder(self, name):
        return self.state.get(f"model.decoder.{name}")

    def linear(self, name, x):
        y = x @ self.decoder(f"{name}.weight").T
        bias = self.decoder(f"{name}.bias")
        return y if bias is None else y + bias

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.decoder(f"{name}.weight") + self.decoder(f"{name}.bias")

    @property
    def unembedding(self):
        return self.state["lm_head.weight"]


def embedded(weights, tokens):
    hidden = weights.decoder("embed_tokens.weight")[tokens]
    if weights.decoder("project_in.weight") is not None:
        hidden = hidden @ weights.decoder("project_in.weight").T
    return hidden + weights.decoder("embed_positions.weight")[torch.arange(len(tokens)) + 2]


def attention(weights, layer, hidden):
    """Per head: attention (heads, tokens, tokens) and values (heads, tokens, head_dim) of the stream `hidden`."""
    config = weights.config
    place = f"layers.{layer}.self_attn"
    x = weights.norm(f"{place}_layer_norm", hidden) if config.do_layer_norm_before else hidden
    heads = []
    for name in ("q_proj", "k_proj", "v_proj"):
        projected = weights.linear(f"{place}.{name}", x)
        heads.append(projected.reshape(len(hidden), config.num_attention_heads, -1).transpose(0, 1))
    q, k, v = heads
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    future = torch.ones(len(hidden), len(hidden)).triu(1).bool()
    return logits.masked_fill(future, -torch.inf).softmax(-1), v


def run(weights, tokens, *, edit=None, skip_ffn=()):
    """Logits (tokens, vocabulary) and each layer's head outputs (tokens, heads * head_dim).

    `edit(layer, outputs)` may replace a layer's head outputs; the FFNs of layers in `skip_ffn` are passed by.
    """
    config = weights.config
    hidden = embedded(weights, torch.tensor(tokens))
    outputs = []
    for layer in range(config.num_hidden_layers):
        place = f"layers.{layer}"
        probabilities, values = attention(weights, layer, hidden)
        heads = (probabilities @ values).transpose(0, 1).reshape(len(tokens), -1)
        if edit is not None:
            heads = edit(layer, heads)
        outputs.append(heads)
        hidden = hidden + weights.linear(f"{place}.self_attn.out_proj", heads)
        if not config.do_layer_norm_before:
            hidden = weights.norm(f"{place}.self_attn_layer_norm", hidden)
        if layer not in skip_ffn:
            x = weights.norm(f"{place}.final_layer_norm", hidden) if config.do_layer_norm_before else hidden
            hidden = hidden + weights.linear(f"{place}.fc2", weights.linear(f"{place}.fc1", x).relu())
        if not config.do_layer_norm_before:
            hidden = weights.norm(f"{place}.final_layer_norm", hidden)
    if config.do_layer_norm_before:
        hidden = weights.norm("final_layer_norm", hidden)
    if weights.decoder("project_out.weight") is not None:
        hidden = hidden @ weights.decoder("project_out.weight").T
    return hidden @ weights.unembedding.T, outputs


def loss(weights, context, continuation, **changes):
    """The mean negative log-likelihood of the continuation's tokens, and each layer's head outputs."""
    tokens = [*context, *continuation]
    logits, outputs = run(weights, tokens[:-1], **changes)
    first = len(context) - 1
    log_probabilities = logits[first:].log_softmax(-1)
    return -log_probabilities[torch.arange(len(continuation)), torch.tensor(continuation)].mean(), outputs


def head_importance(weights, examples, *, signed=False):
    """(layers, heads). `signed` leaves out the absolute value, so that sums are derivatives with respect to a gate."""
    config = weights.config
    total = torch.zeros(config.num_hidden_layers, config.num_attention_heads, dtype=DOUBLE)
    for context, continuation in examples:

        def track(layer, heads):
            return heads if heads.requires_grad else heads.detach().requires_grad_()

        value, outputs = loss(weights, context, continuation, edit=track)
        for layer, (output, gradient) in enumerate(zip(outputs, torch.autograd.grad(value, outputs), strict=True)):
            per_token = (output * gradient).reshape(len(output), config.num_attention_heads, -1).sum(-1).detach()
            total[layer] += (per_token if signed else per_token.abs()).sum(0)
    if not signed:
        total[:-1] /= sum(len(context) + len(continuation) - 1 for context, continuation in examples)
        total[-1] /= sum(len(continuation) for _, continuation in examples)
    return total


def prefix_matching(weights, sequence, bos, repeats=4):
    """(layers, heads): attention of each repeated token to what followed its earlier occurrences."""
    tokens = [bos] + list(sequence) * repeats
    hidden = embedded(weights, torch.tensor(tokens))
    scores = []
    for layer, probabilities in enumerate(_all_attention(weights, tokens)):
        del layer
        total, count = 0, 0
        for position in range(1 + len(sequence), len(tokens)):
            followers = [p + 1 for p in range(1, position) if tokens[p] == tokens[position]]
            total = total + probabilities[:, position, followers].sum(-1)
            count += 1
        scores.append(total / count)
    assert len(hidden) == len(tokens)
    return torch.stack(scores)


def _all_attention(weights, tokens):
    return [probabilities for probabilities, _, _ in _per_layer(weights, tokens)]


def _per_layer(weights, tokens):
    """Per layer: attention, values, and the head outputs (heads, tokens, head_dim)."""
    result = []
    hidden = embedded(weights, torch.tensor(tokens))
    _, outputs = run(weights, tokens)
    config = weights.config
    for layer in range(config.num_hidden_layers):
        probabilities, values = attention(weights, layer, hidden)
        result.append((probabilities, values, probabilities @ values))
        place = f"layers.{layer}"
        hidden = hidden + weights.linear(f"{place}.self_attn.out_proj", outputs[layer])
        if not config.do_layer_norm_before:
            hidden = weights.norm(f"{place}.self_attn_layer_norm", hidden)
        x = weights.norm(f"{place}.final_layer_norm", hidden) if config.do_layer_norm_before else hidden
        hidden = hidden + weights.linear(f"{place}.fc2", weights.linear(f"{place}.fc1", x).relu())
        if not config.do_layer_norm_before:
            hidden = weights.norm(f"{place}.final_layer_norm", hidden)
    return result


def copying(weights, sequence, bos, definition="olsson2022"):
    """(layers, heads): the share of the most-attended token among the tokens raised, over the positions after BOS."""
    config = weights.config
    tokens = [bos, *sequence]
    head_dim = config.hidden_size // config.num_attention_heads
    real = _per_layer(weights, tokens)
    scores = torch.zeros(config.num_hidden_layers, config.num_attention_heads, dtype=DOUBLE)
    for layer in range(config.num_hidden_layers):
        probabilities, _, outputs = real[layer]
        bias = 0
        if definition == "bansal2023":
            probabilities, outputs = attention(weights, layer, embedded(weights, torch.tensor(tokens)))
            bias = weights.decoder(f"layers.{layer}.self_attn.out_proj.bias")
        out = weights.decoder(f"layers.{layer}.self_attn.out_proj.weight")
        for head in range(config.num_attention_heads):
            written = outputs[head] @ out[:, head * head_dim : (head + 1) * head_dim].T + bias
            if weights.decoder("project_out.weight") is not None:
                written = written @ weights.decoder("project_out.weight").T
            likely = (written @ weights.unembedding.T).softmax(-1)
            for position in range(1, len(tokens)):
                seen = likely[position, tokens[: position + 1]]
                raised = (seen - seen.mean()).clamp(min=0)
                attended = int(probabilities[head, position].argmax())
                if raised.sum() > 0:
                    scores[layer, head] += raised[attended] / raised.sum()
    return scores / len(sequence)
