"""Tiny models, and request sets that hypothesis draws: shared beginnings, duplicates, truncation, any order."""

import functools

import pytest
import torch
from hypothesis import strategies as st
from transformers import OPTConfig, OPTForCausalLM

from lm_eval_prune import PruningMask

LAYERS, HEADS, VOCABULARY, POSITIONS = 3, 4, 61, 320
SHAPES = {
    "pre-norm": {},
    "post-norm, projected": {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
    "no biases, no affine norms, gelu": {
        "enable_bias": False,
        "layer_norm_elementwise_affine": False,
        "activation_function": "gelu",
    },
    "no last norm": {"_remove_final_layer_norm": True},
}
QUICK_FIRST = [*list(SHAPES)[:2], *(pytest.param(shape, marks=pytest.mark.slow) for shape in list(SHAPES)[2:])]
"""The two shapes that OPT comes in, and the others in the slow tests."""


@functools.cache
def tiny_model(shape="pre-norm"):
    """The random OPT of that shape; shared between tests."""
    return noisy_opt(**SHAPES[shape])


def noisy_opt(**changes):
    """A random OPT; every bias and norm is noisy, so that one left out shows."""
    settings = {
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_size": 32,
        "ffn_dim": 48,
        "vocab_size": VOCABULARY,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": POSITIONS,
        "init_std": 0.15,
    }
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = OPTForCausalLM(OPTConfig(**{**settings, **changes})).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.requires_grad_(False)
    return model


@st.composite
def request_sets(draw, longest=200):
    """Requests that branch off a few long texts at a few places, in any order, some of them twice."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def tokens(count):
        return torch.randint(2, VOCABULARY, (count,), generator=generator).tolist()

    texts = [tokens(400) for _ in range(draw(st.integers(1, 2)))]
    requests = []
    for _ in range(draw(st.integers(1, 5))):
        stem = draw(st.sampled_from(texts))[: draw(st.sampled_from([0, 1, 6, 40, 150, 330]))]
        context = stem + tokens(draw(st.sampled_from([0, 2, 30])))
        context = context or tokens(1)
        start = tokens(draw(st.integers(0, 2)))
        for _ in range(draw(st.integers(1, 4))):
            length = draw(st.sampled_from([1, 1, 2, 9, longest]))
            requests.append((context, (start + tokens(length))[:longest]))
    requests += draw(st.lists(st.sampled_from(requests), max_size=3))
    return draw(st.permutations(requests))


@st.composite
def pruning_masks(draw):
    """Any heads and FFNs; often all heads of a layer."""
    some = st.lists(st.integers(0, HEADS - 1), unique=True).map(tuple)
    heads = draw(
        st.dictionaries(st.integers(0, LAYERS - 1), st.one_of(some, st.just(tuple(range(HEADS)))), max_size=LAYERS)
    )
    ffns = draw(st.lists(st.integers(0, LAYERS - 1), unique=True, max_size=LAYERS))
    return PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads=heads, pruned_ffns=tuple(ffns))
