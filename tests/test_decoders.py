import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM, T5Config

from lm_eval_prune import PruningMask
from lm_eval_prune.decoders import decoder_of, require_supported
from lm_eval_prune.decoders.skeleton import flops_per_token, num_pruned_parameters
from lm_eval_prune.errors import MaskShapeError, UnsupportedModelError
from lm_eval_prune.random_opt import SIZES, opt_config


def counted_in_the_weights(model, mask):
    """The parameters a mask removes, counted element by element on the model's own tensors."""
    gone = 0
    width = model.config.hidden_size // model.config.num_attention_heads
    for index, layer in enumerate(model.model.decoder.layers):
        rows = torch.zeros(model.config.hidden_size, dtype=torch.bool)
        for head in mask.pruned_heads.get(index, ()):
            rows[head * width : (head + 1) * width] = True
        for name in ("q_proj", "k_proj", "v_proj"):
            projection = getattr(layer.self_attn, name)
            gone += projection.weight[rows].numel()
            gone += projection.bias[rows].numel() if projection.bias is not None else 0
        gone += layer.self_attn.out_proj.weight[:, rows].numel()
        if rows.all() and model.config.do_layer_norm_before:
            gone += sum(parameter.numel() for parameter in layer.self_attn_layer_norm.parameters())
        if index in mask.pruned_ffns:
            parts = [layer.fc1, layer.fc2]
            if model.config.do_layer_norm_before:
                parts.append(layer.final_layer_norm)
            gone += sum(parameter.numel() for part in parts for parameter in part.parameters())
    return gone


@pytest.mark.parametrize("enable_bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_pruned_parameters_are_counted_exactly(enable_bias, affine, before):
    config = OPTConfig(
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_size=32,
        ffn_dim=40,
        vocab_size=64,
        word_embed_proj_dim=16,
        max_position_embeddings=8,
        enable_bias=enable_bias,
        layer_norm_elementwise_affine=affine,
        do_layer_norm_before=before,
    )
    mask = PruningMask(
        num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1,), 2: (0, 1, 2, 3)}, pruned_ffns=(0, 1)
    )
    assert num_pruned_parameters(config, mask) == counted_in_the_weights(OPTForCausalLM(config), mask)


@pytest.mark.parametrize("size", SIZES)
def test_every_public_size_is_counted_exactly(size):
    config = opt_config(size)
    with torch.device("meta"):
        model = OPTForCausalLM(config)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    mask = PruningMask(
        num_hidden_layers=layers, num_attention_heads=heads, pruned_heads={0: range(heads), 1: (0,)}, pruned_ffns=(1,)
    )
    assert num_pruned_parameters(config, mask) == counted_in_the_weights(model, mask)


def test_public_sizes_have_the_published_number_of_parameters():
    # Counted on facebook/opt-*'s configurations; the name rounds.
    published = {"opt-125m": 125_239_296, "opt-350m": 331_196_416, "opt-1.3b": 1_315_758_080}
    for size, expected in published.items():
        with torch.device("meta"):
            assert OPTForCausalLM(opt_config(size)).num_parameters() == expected


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(MaskShapeError, match="12 layers of 12 heads"):
        num_pruned_parameters(opt_config("opt-125m"), PruningMask.dense(12, 16))


def test_an_unknown_family_is_named_with_those_that_are_known():
    with pytest.raises(UnsupportedModelError, match=r"'t5' is not supported.*proven: gemma2, gpt2"):
        require_supported(T5Config())
    with pytest.raises(UnsupportedModelError, match="no supported decoder in it"):
        decoder_of(torch.nn.Linear(2, 2))


def test_a_decoder_is_found_behind_wrappers(tiny_opt):
    expected = decoder_of(tiny_opt)
    assert decoder_of(torch.nn.DataParallel(tiny_opt)) == expected


def test_flops_of_a_token_are_those_that_torch_counts(tiny_opt):
    from torch.utils.flop_counter import FlopCounterMode

    config = tiny_opt.config
    tiny_opt.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tiny_opt(torch.tensor([[5]]), use_cache=False)
    # One token attends to itself: a dot product and a weighting of head_dim numbers in each head.
    attention = 2 * 2 * config.hidden_size * config.num_hidden_layers
    dense = PruningMask.dense(config.num_hidden_layers, config.num_attention_heads)
    assert flops_per_token(config, dense) == counter.get_total_flops() - attention


def test_flops_of_a_pruned_model_are_those_of_its_remaining_weights(tiny_opt, mask):
    config = tiny_opt.config
    width = config.hidden_size // config.num_attention_heads
    kept = 0
    for index, layer in enumerate(tiny_opt.model.decoder.layers):
        rows = width * (config.num_attention_heads - len(mask.pruned_heads.get(index, ())))
        kept += 4 * layer.self_attn.q_proj.weight[:rows].numel()
        kept += 0 if index in mask.pruned_ffns else layer.fc1.weight.numel() + layer.fc2.weight.numel()
    kept += tiny_opt.lm_head.weight.numel()
    for name in ("project_in", "project_out"):
        projection = getattr(tiny_opt.model.decoder, name)
        kept += 0 if projection is None else projection.weight.numel()
    assert flops_per_token(config, mask) == 2 * kept
    with pytest.raises(MaskShapeError):
        flops_per_token(config, PruningMask.dense(1, 1))
