"""PEFT's adapters on compact models: where they go by default, on layers without heads, and learned prefixes."""

import copy
import functools

import peft
import pytest
import torch
from scoring_cases import HEADS, LAYERS, SHAPES, VOCABULARY, tiny_model

from lm_eval_prune import PruningMask, compact, masked

NO_FIRST = PruningMask(
    num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads={0: (0, 1, 2, 3), 2: (1, 3)}, pruned_ffns=(1,)
)
NO_SECOND = PruningMask(
    num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads={0: (2,), 1: (0, 1, 2, 3)}, pruned_ffns=(0, 2)
)
MASKS = pytest.mark.parametrize("mask", [NO_FIRST, NO_SECOND], ids=["first layer headless", "second layer headless"])
IDS = torch.randint(3, VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(3))
EVERYWHERE = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
TASK = {"task_type": "CAUSAL_LM"}


def noisy(model):
    """All of an adapter's weights drawn at random: what is zero at first would hide a wrong place."""
    generator = torch.Generator().manual_seed(11)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator) + ("ia3" in name)
    return model


@MASKS
@pytest.mark.parametrize(
    ("config", "places"),
    [
        (peft.LoraConfig(**TASK), {"q_proj", "v_proj"}),
        (peft.AdaLoraConfig(**TASK, total_step=4), set(EVERYWHERE)),
        (peft.IA3Config(**TASK), {"q_proj", "k_proj", "fc2"}),
        (peft.LoHaConfig(**TASK), {"q_proj", "v_proj"}),
    ],
    ids=["LoRA", "AdaLoRA", "IA3", "LoHa"],
)
def test_adapters_go_by_default_where_they_go_in_an_opt(mask, config, places):
    adapted = peft.get_peft_model(compact(tiny_model(), mask), copy.deepcopy(config))
    inside = {name.split(".")[-1] for name in adapted.targeted_module_names}
    assert inside == {name.split(".")[-1] for name in _default_of_opt(config)} <= places
    assert torch.isfinite(adapted(IDS).logits).all()


def _default_of_opt(config):
    return peft.get_peft_model(copy.deepcopy(tiny_model()), copy.deepcopy(config)).targeted_module_names


@MASKS
@pytest.mark.parametrize("shape", list(SHAPES)[:3])
@pytest.mark.parametrize("how", [{}, {"use_dora": True}, {"use_rslora": True, "lora_dropout": 0.1}])
def test_lora_on_every_linear_map_leaves_headless_layers_as_they_are(mask, shape, how):
    smaller = compact(tiny_model(shape), mask)
    config = peft.LoraConfig(target_modules=EVERYWHERE, r=2, **how, **TASK)
    adapted = noisy(peft.get_peft_model(copy.deepcopy(smaller), config)).eval()
    layer = next(layer for layer in range(LAYERS) if not mask.kept_heads(layer))
    place = adapted.get_base_model().model.decoder.layers[layer].self_attn
    stream = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(place(stream)[0], smaller.model.decoder.layers[layer].self_attn(stream)[0])
    assert not torch.allclose(adapted(IDS).logits, smaller(IDS).logits, atol=1e-3)
    adapted(IDS, labels=IDS).loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in adapted.parameters() if weight.grad is not None)
    expected = adapted(IDS).logits
    torch.testing.assert_close(adapted.merge_and_unload()(IDS).logits, expected, rtol=0, atol=1e-4)


def test_an_adapter_is_saved_and_loaded(tmp_path):
    smaller = compact(tiny_model(), NO_FIRST)
    config = peft.LoraConfig(target_modules="all-linear", **TASK)
    adapted = noisy(peft.get_peft_model(copy.deepcopy(smaller), config)).eval()
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(smaller), tmp_path).eval()
    assert torch.equal(again(IDS).logits, adapted(IDS).logits)


@MASKS
@pytest.mark.parametrize("shape", list(SHAPES)[:2])
def test_a_learned_prefix_reaches_the_heads_that_are_left(mask, shape):
    config = peft.PrefixTuningConfig(num_virtual_tokens=4, **TASK)
    whole = noisy(peft.get_peft_model(copy.deepcopy(tiny_model(shape)), config))
    smaller = noisy(peft.get_peft_model(compact(tiny_model(shape), mask), config))
    generate = functools.partial(dict, input_ids=IDS, max_new_tokens=5, do_sample=False)
    with masked(whole, mask):
        expected, text = whole(IDS).logits, whole.generate(**generate())
    torch.testing.assert_close(smaller(IDS).logits, expected, rtol=0, atol=1e-5)
    assert torch.equal(smaller.generate(**generate()), text)
    without = compact(tiny_model(shape), mask)(IDS).logits
    assert not torch.allclose(expected, without, atol=1e-3)  # the prefix is felt
