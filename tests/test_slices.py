"""What belongs to a head and to an FFN, counted on the tensors of tiny models of every family."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lm_eval_prune import PruningMask
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.decoders.places import places_of
from lm_eval_prune.decoders.skeleton import flops_per_token, num_pruned_parameters
from lm_eval_prune.decoders.slices import parts_of
from lm_eval_prune.random_opt import opt_config
from tests import families


def mask_of(model, heads=(), ffns=()):
    return PruningMask(**families.shape(model), pruned_heads=dict(heads), pruned_ffns=tuple(ffns))


def test_a_model_of_numbers_of_66_billion_is_counted_to_the_last():
    config = opt_config("opt-66b")
    heads = {layer: range(72) for layer in range(64)}
    everything = PruningMask(num_hidden_layers=64, num_attention_heads=72, pruned_heads=heads, pruned_ffns=range(64))
    per_head = 4 * 128 * 9216 + 3 * 128
    assert num_pruned_parameters(config, everything) == 64 * (
        72 * per_head + 2 * 9216 * 36864 + 36864 + 9216 + 4 * 9216
    )
    scattered = PruningMask(
        num_hidden_layers=64,
        num_attention_heads=72,
        pruned_heads={layer: range(51 if layer < 25 else 50) for layer in range(64)},
    )
    assert scattered.num_pruned_heads == 3225
    assert num_pruned_parameters(config, scattered) == 15_218_697_600


def test_parts_never_overlap_and_lie_inside_their_parameters(tiny_model):
    places = places_of(tiny_model)
    for index, layer in enumerate(places.layers):
        weights = {name: torch.zeros_like(each) for name, each in layer.module.named_parameters()}
        for part in parts_of(places, index):
            weight = weights[part.name]
            taken = weight if part.dim is None else weight.narrow(part.dim, part.start, part.stop - part.start)
            assert taken.numel() == part.numel
            taken += 1
        assert all(float(each.max()) <= 1 for each in weights.values())
        whole = [name for name, each in weights.items() if not each.all()]
        # What stays of a layer that has lost everything: biases of output maps, and norms in the stream.
        assert all(name.endswith(".bias") or "norm" in name for name in whole), whole


def test_what_no_head_is_left_to_use_changes_nothing(tiny_model, input_ids):
    """Random numbers in all parts of pruned components leave the masked model's logits as they are."""
    from lm_eval_prune import masked

    heads = tiny_model.config.num_attention_heads
    mask = mask_of(tiny_model, {0: (1,), 1: range(heads), 2: range(heads // 2, heads)}, (1,))
    ids = input_ids % families.VOCABULARY
    with torch.no_grad(), masked(tiny_model, mask):
        expected = tiny_model(ids).logits
        places = places_of(tiny_model)
        gone = 0
        for index, layer in enumerate(places.layers):
            weights = dict(layer.module.named_parameters())
            for part in parts_of(places, index):
                if part.goes(mask, index):
                    weight = weights[part.name]
                    taken = weight if part.dim is None else weight.narrow(part.dim, part.start, part.stop - part.start)
                    taken.normal_()
                    gone += part.numel
        torch.testing.assert_close(tiny_model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert num_pruned_parameters(tiny_model.config, mask) == gone > 0


@pytest.mark.parametrize(
    ("variant", "pruned", "expected"),
    [
        # A head of 8 rows and columns; a key/value head of a pair goes with its second query head.
        ("llama", (0,), 2 * 8 * 32),
        ("llama", (0, 1), 4 * 8 * 32 + 2 * 8 * 32),
        ("llama", (1, 2), 4 * 8 * 32),
        ("llama, a head_dim of its own, biases, tied", (2,), 4 * 12 * 32 + 3 * 12),
        ("llama, 8 query heads a key", (0, 1, 2, 3, 4, 5, 6), 7 * 2 * 4 * 32),
        ("llama, 8 query heads a key", range(8), 8 * 2 * 4 * 32 + 2 * 4 * 32 + 32),
        ("qwen2, a window above", (2, 3), 6 * 8 * 32 + 4 * 8),
        ("qwen3", (0,), 2 * 16 * 32),
        ("qwen3", range(4), 8 * 16 * 32 + 4 * 16 * 32 + 2 * 16 + 32),
        # One norm over all heads' queries, and one over all keys: they go with the last head.
        ("olmo2", (0,), 8 * 32),
        ("olmo2", (0, 1), 2 * 8 * 32 + 8 * 32),
        ("gpt_neox", (3,), 4 * 8 * 32 + 3 * 8),
        ("gpt2", (3,), 4 * 8 * 32 + 3 * 8),
        ("gpt2", range(4), 4 * (4 * 8 * 32 + 3 * 8) + 2 * 32),
    ],
)
def test_parameters_of_heads(variant, pruned, expected):
    model = families.made(variant)
    assert num_pruned_parameters(model.config, mask_of(model, {1: tuple(pruned)})) == expected


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("opt", 2 * 48 * 32 + 48 + 32 + 64),
        ("opt, norms last, projected", 2 * 48 * 32 + 48 + 32),
        ("llama", 3 * 48 * 32 + 32),
        ("llama, a head_dim of its own, biases, tied", 3 * 48 * 32 + 2 * 48 + 32 + 32),
        ("gemma2, windows and caps", 3 * 48 * 32 + 64),
        ("olmo2", 3 * 48 * 32 + 32),
        ("gpt_neox", 2 * 48 * 32 + 48 + 32 + 64),
        ("gpt2", 2 * 48 * 32 + 48 + 32 + 64),
    ],
)
def test_parameters_of_an_ffn(variant, expected):
    model = families.made(variant)
    assert num_pruned_parameters(model.config, mask_of(model, ffns=(2,))) == expected


def test_flops_of_a_token_are_those_that_torch_counts(tiny_model):
    tiny_model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tiny_model(torch.tensor([[5]]), use_cache=False)
    decoder, dense = decoder_of(tiny_model), mask_of(tiny_model)
    # One token attends to itself: a dot product and a weighting of head_dim numbers in each head.
    attention = 2 * 2 * decoder.head_dim * decoder.num_attention_heads * decoder.num_hidden_layers
    rotary = counter.get_total_flops() - attention - flops_per_token(tiny_model.config, dense)
    assert 0 <= rotary <= 2 * 32  # a token's angles are a product of transformers' own
