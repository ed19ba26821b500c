"""Tiny OPTs of both shapes, and examples of several lengths; imported by the tests of importance and induction."""

from __future__ import annotations

import random

import torch
from transformers import OPTConfig, OPTForCausalLM

VOCABULARY = 96


def tiny_model(*, post_norm=False, seed=0, layers=3, heads=4, dtype=torch.float32, **changes):
    """A seeded OPT of `layers` x `heads` whose biases and norms are random too; post-layer-norm as OPT-350m is."""
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "ffn_dim": 64,
        "word_embed_proj_dim": 24 if post_norm else 32,
        "do_layer_norm_before": not post_norm,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 128,
        "init_std": 0.3,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "dropout": 0.5,  # a forward pass in training mode shows
        "layerdrop": 0.5,
    }
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = OPTForCausalLM(OPTConfig(**{**settings, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    torch.random.set_rng_state(state)
    return model.to(dtype).eval()


def examples(count=9, seed=0, longest=20):
    """(context, continuation) pairs of different lengths, tokens drawn from the vocabulary's ordinary part."""
    draw = random.Random(seed)

    def tokens(length):
        return [draw.randrange(4, VOCABULARY) for _ in range(length)]

    return [([2, *tokens(draw.randint(0, longest))], tokens(draw.randint(1, 4))) for _ in range(count)]
