"""Compaction in memory: the smaller model against the weights in float64, and everything that works on models."""

import copy
import functools

import pytest
import torch
from hypothesis import Phase, example, given, settings
from scoring_cases import HEADS, LAYERS, QUICK_FIRST, SHAPES, VOCABULARY, pruning_masks, tiny_model
from scoring_reference import _logits as reference_logits
from scoring_reference import log_likelihood
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    OPTForCausalLM,
    OPTModel,
)

from lm_eval_prune import PruningMask, compact, ffn_importance, head_importance, masked, prefix_matching_scores
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.decoders.compacted import PrunedOPTConfig, PrunedOPTForCausalLM
from lm_eval_prune.decoders.skeleton import num_pruned_parameters, num_removed_parameters
from lm_eval_prune.errors import MaskError, MaskShapeError, UnsupportedModelError
from lm_eval_prune.importance.gradient import ffn_gradient_importance
from lm_eval_prune.importance.knockout import component_knockout
from lm_eval_prune.importance.methods import magnitude
from lm_eval_prune.induction import copying_scores
from lm_eval_prune.scoring import score

EVERYTHING = PruningMask(
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    pruned_heads={layer: tuple(range(HEADS)) for layer in range(LAYERS)},
    pruned_ffns=tuple(range(LAYERS)),
)
MASK = PruningMask(
    num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads={0: (0, 1, 2, 3), 2: (1, 3)}, pruned_ffns=(1,)
)
IDS = torch.randint(3, VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(3))
EXAMPLES = [([5, 9, 13, 4], [7, 8]), ([6, 30, 31], [12]), ([11, 2, 3, 40, 41, 42], [3, 9, 4])]
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]


@functools.cache
def compacted(shape):
    return compact(tiny_model(shape), MASK)


def some_masks(count):
    return settings(max_examples=count, deadline=None, phases=PHASES)


# -- the same outputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@some_masks(5)
@example(mask=EVERYTHING)
@given(mask=pruning_masks())
def test_logits_are_those_of_the_masked_weights_in_float64(shape, mask):
    model = tiny_model(shape)
    smaller = compact(model, mask)
    for row, logits in zip(IDS.tolist(), smaller(IDS).logits, strict=True):
        torch.testing.assert_close(logits.double(), reference_logits(model, row, mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", QUICK_FIRST)
@some_masks(2)
@given(mask=pruning_masks())
def test_generation_is_the_masked_models_with_and_without_cache(shape, mask):
    model = tiny_model(shape)
    smaller = compact(model, mask)
    padded = {"input_ids": IDS, "attention_mask": torch.tensor([[0] * 3 + [1] * 14, [1] * 17])}
    generate = functools.partial(smaller.generate, max_new_tokens=7, do_sample=False, **padded)
    with masked(model, mask):
        expected = model.generate(max_new_tokens=7, do_sample=False, **padded)
    assert torch.equal(generate(), expected)
    assert torch.equal(generate(use_cache=False), expected)


@pytest.mark.parametrize("shape", QUICK_FIRST)
@pytest.mark.parametrize("mask", [MASK, EVERYTHING], ids=["some", "everything"])
@pytest.mark.parametrize("cache", ["dynamic", "static", "beams"])
def test_the_key_value_cache_has_the_shape_of_each_layer(shape, mask, cache):
    model = tiny_model(shape)
    smaller = compact(model, mask)
    how = {"num_beams": 3} if cache == "beams" else {"cache_implementation": cache}
    with masked(model, mask):
        expected = model.generate(IDS, max_new_tokens=6, do_sample=False, num_beams=how.get("num_beams", 1))
    assert torch.equal(smaller.generate(IDS, max_new_tokens=6, do_sample=False, **how), expected)
    filled = smaller(IDS, use_cache=True).cache.layers
    # A first layer without heads keeps one number a token, to count them.
    heads = [len(mask.kept_heads(layer)) for layer in range(LAYERS)]
    assert [layer.keys.shape[1] for layer in filled if layer.is_initialized] == [
        heads[0] or 1,
        *filter(None, heads[1:]),
    ]


def test_attention_implementations_agree():
    smaller = compacted("pre-norm")
    expected = smaller(IDS).logits
    eager = copy.deepcopy(smaller)
    eager.set_attn_implementation("eager")
    assert eager.config._attn_implementation == "eager"
    torch.testing.assert_close(eager(IDS).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", QUICK_FIRST)
@pytest.mark.parametrize("headless", [(0,), (1,), (0, 1), (2,), (0, 1, 2)])
def test_every_layer_has_its_own_attention_weights(shape, headless):
    model = tiny_model(shape)
    mask = PruningMask(
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        pruned_heads={layer: tuple(range(HEADS)) if layer in headless else (layer,) for layer in range(LAYERS)},
        pruned_ffns=(1,),
    )
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    smaller = compact(model, mask)
    with masked(model, mask):
        expected = model(IDS, output_attentions=True).attentions
    found = smaller(IDS, output_attentions=True).attentions
    assert len(found) == LAYERS
    for layer, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(ours, theirs[:, list(mask.kept_heads(layer))], rtol=0, atol=1e-5)
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    how |= {"output_attentions": True, "return_dict_in_generate": True}
    with masked(model, mask):
        expected = model.generate(IDS, **how).attentions
    for ours, theirs in zip(smaller.generate(IDS, **how).attentions, expected, strict=True):
        kept = [part[:, list(mask.kept_heads(layer))].shape for layer, part in enumerate(theirs)]
        assert [part.shape for part in ours] == kept


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("asked_before", [False, True])
def test_setting_the_attention_implementation_depends_on_no_other_model(implementation, asked_before, monkeypatch):
    for cls in (PrunedOPTForCausalLM, OPTForCausalLM):
        monkeypatch.setattr(cls, "_can_set_attn_implementation_cached_value", None, raising=False)
    if asked_before:
        tiny_model().set_attn_implementation("eager")
        tiny_model().set_attn_implementation("sdpa")
    smaller = copy.deepcopy(compacted("pre-norm"))
    smaller.set_attn_implementation("eager" if implementation == "sdpa" else "sdpa")
    smaller.set_attn_implementation(implementation)
    assert smaller.config._attn_implementation == implementation


def test_the_copy_keeps_attention_implementation_mode_and_checkpointing():
    model = copy.deepcopy(tiny_model()).train()
    model.set_attn_implementation("eager")
    model.gradient_checkpointing_enable()
    smaller = compact(model, MASK)
    assert smaller.config._attn_implementation == "eager"
    assert smaller.training
    assert smaller.model.decoder.gradient_checkpointing
    plain = compacted("pre-norm")
    assert (plain.config._attn_implementation, plain.training) == ("sdpa", False)
    assert not plain.model.decoder.gradient_checkpointing


@pytest.mark.parametrize("shape", QUICK_FIRST)
def test_hidden_states_and_training_work(shape):
    smaller = copy.deepcopy(compacted(shape)).train().requires_grad_(True)
    smaller.gradient_checkpointing_enable()
    output = smaller(IDS, labels=IDS, output_hidden_states=True)
    output.loss.backward()
    assert len(output.hidden_states) == LAYERS + 1
    assert all(parameter.grad is not None for parameter in smaller.parameters())


# -- what is left -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@some_masks(3)
@given(mask=pruning_masks())
def test_nothing_is_left_of_what_was_pruned(shape, mask):
    model = tiny_model(shape)
    smaller = compact(model, mask)
    removed = num_pruned_parameters(model.config, mask)
    assert smaller.num_parameters() == model.num_parameters() - removed
    assert num_removed_parameters(smaller.config) == removed
    for layer, block in enumerate(smaller.model.decoder.layers):
        assert isinstance(block.fc1, torch.nn.Module) == (layer not in mask.pruned_ffns)
        assert hasattr(block.self_attn, "q_proj") == bool(mask.kept_heads(layer))


def test_the_original_is_neither_changed_nor_shared():
    model = copy.deepcopy(tiny_model())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    smaller = compact(model, MASK)
    for parameter in smaller.parameters():
        parameter.data.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert smaller.lm_head.weight is smaller.model.decoder.embed_tokens.weight
    assert smaller.training == model.training


def test_untied_output_layers_and_half_precision_stay():
    model = copy.deepcopy(tiny_model()).to(torch.bfloat16)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    smaller = compact(model, MASK)
    assert torch.equal(smaller.lm_head.weight, model.lm_head.weight)
    assert {parameter.dtype for parameter in smaller.parameters()} == {torch.bfloat16}


def test_the_configuration_says_what_was_removed():
    config = compacted("pre-norm").config
    assert PruningMask.from_dict(config.pruning_mask) == config.removed == MASK
    assert (config.num_hidden_layers, config.num_attention_heads) == (LAYERS, HEADS)
    assert config.layer_head_num == [0, 4, 2]
    assert config.layer_inter_size == [48, 0, 48]


# -- a compact model is a model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", QUICK_FIRST)
@some_masks(3)
@given(first=pruning_masks(), second=pruning_masks())
def test_it_is_masked_and_compacted_again_in_the_original_coordinates(shape, first, second):
    model = tiny_model(shape)
    smaller = compact(model, first)
    expected = torch.stack([reference_logits(model, row, first | second) for row in IDS.tolist()])
    with masked(smaller, second):
        torch.testing.assert_close(smaller(IDS).logits.double(), expected, rtol=0, atol=1e-5)
    again = compact(smaller, second)
    torch.testing.assert_close(again(IDS).logits.double(), expected, rtol=0, atol=1e-5)
    assert again.config.removed == first | second
    assert again.num_parameters() == smaller.num_parameters() - num_pruned_parameters(smaller.config, second)


@pytest.mark.parametrize("shape", QUICK_FIRST)
@some_masks(3)
@given(first=pruning_masks(), second=pruning_masks())
def test_the_packed_scorer_computes_it(shape, first, second):
    model = tiny_model(shape)
    smaller = compact(model, first)
    dense = PruningMask.dense(LAYERS, HEADS)
    for mask, answers in zip((dense, second), score(smaller, EXAMPLES, [dense, second]), strict=True):
        for (context, continuation), answer in zip(EXAMPLES, answers, strict=True):
            expected, greedy = log_likelihood(model, context, continuation, 200, first | mask)
            assert answer.log_likelihood == pytest.approx(expected, abs=1e-4)
            assert answer.is_greedy == greedy


@pytest.mark.parametrize("shape", ["pre-norm", "post-norm, projected"])
@pytest.mark.parametrize("mask", [MASK, EVERYTHING], ids=["some", "everything"])
def test_scores_are_those_under_the_mask_and_zero_where_nothing_is_left(shape, mask):
    model = tiny_model(shape)
    smaller = compact(model, mask)
    sequences = [[5, 9, 13, 4], [20, 30, 21]]
    heads, ffns = mask.head_mask, mask.ffn_mask
    for method, kept in [
        (lambda m: head_importance(m, EXAMPLES), heads),
        (lambda m: ffn_gradient_importance(m, EXAMPLES), ffns),
        (lambda m: component_knockout(m, EXAMPLES, "heads"), heads),
        (lambda m: ffn_importance(m, EXAMPLES), ffns),
        (lambda m: magnitude(m, "heads"), heads),
        (lambda m: magnitude(m, "ffns"), ffns),
        (lambda m: prefix_matching_scores(m, sequences, bos_token_id=2), heads),
        (lambda m: copying_scores(m, sequences, bos_token_id=2), heads),
        (lambda m: copying_scores(m, sequences, definition="bansal2023", bos_token_id=2), heads),
    ]:
        with masked(model, mask):
            expected = method(model)
        found = method(smaller)
        torch.testing.assert_close(found, expected.masked_fill(~kept.expand_as(expected), 0), rtol=1e-4, atol=1e-6)


def test_its_decoder_says_which_heads_there_are():
    decoder = decoder_of(compacted("pre-norm"))
    assert decoder.removed == MASK
    assert [module is None for module in decoder.head_outputs] == [True, False, False]
    assert [module is None for module in decoder.ffn_outputs] == [False, True, False]


# -- saved and loaded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", QUICK_FIRST)
@pytest.mark.parametrize("mask", [MASK, EVERYTHING], ids=["some", "everything"])
def test_saved_and_loaded_twice_it_is_the_same(shape, mask, tmp_path):
    smaller = compact(tiny_model(shape), mask)
    smaller.save_pretrained(tmp_path / "one", max_shard_size="8KB")
    once = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    once.save_pretrained(tmp_path / "two")
    twice = AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert type(once) is type(twice) is PrunedOPTForCausalLM
    assert torch.equal(once(IDS).logits, smaller(IDS).logits)
    assert torch.equal(twice(IDS).logits, smaller(IDS).logits)
    generate = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(twice.generate(IDS, **generate), smaller.generate(IDS, **generate))
    assert AutoConfig.from_pretrained(tmp_path / "two").removed == mask
    decoder = AutoModel.from_pretrained(tmp_path / "one")
    hidden = smaller.model(IDS).last_hidden_state
    assert torch.equal(decoder(IDS).last_hidden_state, hidden)


def test_layers_are_not_split_over_devices():
    from accelerate import infer_auto_device_map

    smaller = compacted("pre-norm")
    size = sum(parameter.numel() * parameter.element_size() for parameter in smaller.parameters())
    devices = infer_auto_device_map(smaller, {"cpu": size - 9000, "disk": 10**9}, list(smaller._no_split_modules))
    assert set(devices.values()) == {"cpu", "disk"}
    assert {name for name in devices if ".layers." in name} == {f"model.decoder.layers.{i}" for i in range(LAYERS)}


# -- bad input --------------------------------------------------------------------------------------------------------


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(MaskShapeError, match="mask is for 3 layers of 5 heads"):
        compact(tiny_model(), PruningMask.dense(3, 5))


def test_what_is_no_plain_opt_is_refused_in_one_line():
    quantised = copy.deepcopy(tiny_model())
    quantised.model.decoder.layers[0].fc1.weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.int8), False)
    dynamic = torch.ao.quantization.quantize_dynamic(tiny_model(), {torch.nn.Linear})
    with torch.device("meta"):
        offloaded = type(tiny_model())(tiny_model().config)
    own = type("OwnOPT", (OPTForCausalLM,), {})(tiny_model().config)
    for model, message in [
        (own, "OwnOPT cannot be compacted"),
        (OPTModel(tiny_model().config), "OPTModel cannot be compacted"),
        (torch.nn.Linear(2, 2), "Linear cannot be compacted"),
        (quantised, r"fc1.weight is quantised \(torch.int8\)"),
        (dynamic, r"k_proj.weight is quantised \(Linear\)"),
        (offloaded, "is offloaded; compact the model's folder"),
    ]:
        with pytest.raises(UnsupportedModelError, match=message) as caught:
            compact(model, MASK)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_head_num": [1, 1, 1]}, r"layer_head_num is \[1, 1, 1\], but its pruning_mask leaves \[0, 4, 2\]"),
        ({"num_attention_heads": 8}, "pruning_mask is for 3 layers of 4 heads, not 3 of 8"),
        ({"pruning_mask": {**MASK.to_dict(), "pruned_ffns": [7]}}, "pruning_mask: pruned_ffns: layer 7 does not exist"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(changes, message):
    content = {**compacted("pre-norm").config.to_dict(), **changes}
    with pytest.raises(MaskError, match=message):
        PrunedOPTConfig(**content)
