"""Packed answers of every family equal the padded ones: windows, caps, grouped keys, any masks at once."""

from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook
from accelerate.utils import offload_state_dict

from lm_eval_prune import PruningMask, masked
from lm_eval_prune.decoders import is_offloaded
from lm_eval_prune.decoders.forward import DecoderForward, why_not
from lm_eval_prune.decoders.trunk import Trunk
from lm_eval_prune.scoring import attending, flex
from lm_eval_prune.scoring.batched import batches_of
from lm_eval_prune.scoring.scorer import score_packs
from lm_eval_prune.scoring.trie import build_trie
from tests import families


def requests(longest=60):
    """Requests that branch off two texts, at a few places, longer than any window."""
    stem, other = families.tokens(longest, 1), families.tokens(30, 2)
    found = [(stem[:40] + families.tokens(5, seed), families.tokens(seed % 4 + 1, seed + 50)) for seed in range(4)]
    found += [(stem[:20], stem[20:33]), (stem, families.tokens(3, 9)), (other, [7]), (other, [8, 9]), (other[:1], [5])]
    return found


def several(model):
    heads = model.config.num_attention_heads
    shape = families.shape(model)
    return [
        PruningMask(**shape),
        PruningMask(**shape, pruned_heads={1: (1,)}),
        PruningMask(**shape, pruned_heads={0: range(heads // 2), 2: range(heads)}, pruned_ffns=(1,)),
        PruningMask(**shape, pruned_heads={1: (1,)}, pruned_ffns=(2,)),
        PruningMask(**shape, pruned_heads={layer: range(heads) for layer in range(3)}, pruned_ffns=(0, 2)),
    ]


def packed(model, masks, **settings):
    answers = [[None] * len(requests()) for _ in masks]
    for pack in score_packs(DecoderForward(model), build_trie(requests(), 256), masks, **settings):
        for row, found in zip(answers, pack.answers, strict=True):
            for index, answer in zip(pack.indices, found, strict=True):
                row[index] = answer
    return answers


def plain(model, mask):
    """The model itself, a request at a time."""
    found = []
    with masked(model, mask), torch.no_grad():
        for context, continuation in requests():
            read = torch.tensor([[*context, *continuation][:-1]])
            rows = model(read, use_cache=False).logits[0, -len(continuation) :].double().log_softmax(-1)
            found.append(float(rows[range(len(continuation)), continuation].sum()))
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_answers_are_those_of_the_model_itself(tiny_model, attention):
    if attention == "sdpa" and not tiny_model._supports_sdpa:
        attention = "eager"
    tiny_model.set_attn_implementation(attention)
    assert why_not(tiny_model) is None
    masks = several(tiny_model)
    together = packed(tiny_model, masks)
    for mask, answers in zip(masks, together, strict=True):
        assert [answer.log_likelihood for answer in answers] == pytest.approx(plain(tiny_model, mask), abs=1e-4)
    assert tiny_model.config._attn_implementation == attention
    assert not any("forward" in vars(module) for module in tiny_model.modules())


@pytest.mark.parametrize("most", [attending.MOST_PAIRS, 2000])
def test_many_calls_in_one_kernel_answer_as_the_model_itself(tiny_model, monkeypatch, most):
    """What a GPU does, here on the CPU: windows, caps, sinks and grouped keys, in large and in small batches."""
    tiny_model.set_attn_implementation("eager")
    monkeypatch.setattr(attending, "in_batches", lambda device: True)
    monkeypatch.setattr(attending, "MOST_PAIRS", most)
    made = Counter()
    monkeypatch.setattr(attending, "batches_of", lambda *args, **told: made.update(n=1) or batches_of(*args, **told))
    masks = several(tiny_model)
    for mask, answers in zip(masks, packed(tiny_model, masks), strict=True):
        assert [answer.log_likelihood for answer in answers] == pytest.approx(plain(tiny_model, mask), abs=1e-4)
    assert made["n"] > 0


def test_flex_attention_answers_as_the_model_itself(tiny_model, monkeypatch):
    """Windows, caps, sinks and grouped keys."""
    monkeypatch.setattr(flex.flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    masks = several(tiny_model)
    by_blocks, as_usual = packed(tiny_model, masks, flex=True), packed(tiny_model, masks)
    for answers, usual in zip(by_blocks, as_usual, strict=True):
        likelihoods = [answer.log_likelihood for answer in usual]
        assert [answer.log_likelihood for answer in answers] == pytest.approx(likelihoods, abs=1e-5)


def test_answers_do_not_depend_on_masks_and_requests_beside_them(tiny_model):
    masks = several(tiny_model)
    together = packed(tiny_model, masks)
    for mask, answers in zip(masks, together, strict=True):
        assert packed(tiny_model, [mask]) == [answers]
    for row, one in zip(together, packed(tiny_model, masks, batch_size=1), strict=True):
        likelihoods = [answer.log_likelihood for answer in one]
        assert [answer.log_likelihood for answer in row] == pytest.approx(likelihoods, abs=1e-4)


HALF = ("llama", "qwen3", "gemma2, windows and caps", "gpt_neox", "gpt2", "olmo2")


@pytest.mark.parametrize("variant", HALF)
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "autocast"])
def test_in_half_precision_packs_stay_as_close_to_float32_as_the_model_does(variant, kind):
    exact = families.made(variant)
    mask = several(exact)[2]
    expected = np.array(plain(exact, mask))
    model = exact if kind == "autocast" else families.made(variant).to(getattr(torch, kind))
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        theirs = np.array(plain(model, mask))
        (row,) = packed(model, [mask])
    ours = np.array([answer.log_likelihood for answer in row])
    assert np.abs(ours - theirs).max() > 0  # else nothing was rounded
    assert np.abs(ours - expected).max() <= max(2 * np.abs(theirs - expected).max(), 0.05)


@pytest.mark.parametrize("variant", ["llama", "qwen3", "gpt_neox", "gpt2", "olmo2"])  # Gemma 2's own attention rounds
def test_in_double_precision_nothing_is_rounded_to_float32(variant):
    model = families.made(variant).double()
    for mask, row in zip(several(model), packed(model, several(model)), strict=True):
        assert [answer.log_likelihood for answer in row] == pytest.approx(plain(model, mask), abs=1e-11)


@pytest.mark.parametrize("where", ["spread", "memory", "disk"])
@pytest.mark.parametrize("variant", ["llama", "gemma2, windows and caps", "gpt_neox", "gpt2"])
def test_weights_that_accelerate_moves_give_the_same_answers(variant, where, tmp_path):
    model = families.made(variant)
    masks = several(model)
    expected = packed(model, masks)
    if where == "spread":
        model = dispatch_model(model, {"": "cpu"}, force_hooks=True)
    elif where == "memory":
        model = cpu_offload(model, "cpu")
    else:
        offload_state_dict(tmp_path, model.state_dict())
        model = disk_offload(model, tmp_path, "cpu")
    assert why_not(model) is None
    assert packed(model, masks) == expected
    assert is_offloaded(model) == (where != "spread")


@pytest.mark.parametrize("variant", ["llama", "gemma2, windows and caps", "gpt_neox", "gpt2"])
def test_offloaded_weights_are_brought_in_once_a_pack(variant, tmp_path, monkeypatch):
    loads = Counter()
    original = AlignDevicesHook.pre_forward

    def counted(hook, module, *args, **kwargs):
        loads[module] += hook.offload
        return original(hook, module, *args, **kwargs)

    monkeypatch.setattr(AlignDevicesHook, "pre_forward", counted)
    model = families.made(variant)
    offload_state_dict(tmp_path, model.state_dict())
    model = disk_offload(model, tmp_path, "cpu")
    packed(model, several(model)[:1])
    layers = Trunk(model).layers
    weighted = {module for layer in layers for module in layer.modules() if list(module.parameters(recurse=False))}
    assert {loads[module] for module in weighted} == {1}


@pytest.mark.parametrize("variant", families.VARIANTS)
def test_stages_are_the_layers_to_the_last_bit(variant):
    model = families.made(variant)
    trunk, mask = Trunk(model), PruningMask(**families.shape(model), pruned_ffns=(1,))
    stream, calls = trunk.embed(torch.tensor([families.tokens(20), families.tokens(20, 1)]))
    divided = variant != "gpt_neox"
    assert len(trunk.stages) == families.LAYERS * (2 if divided else 1)
    with torch.no_grad():
        found = stream
        for stage in trunk.stages:
            found = trunk.stage(stage, found, calls, mask)
        with masked(model, mask):
            for layer in range(families.LAYERS):
                stream = trunk.layer(layer, stream, calls)
    assert torch.equal(found, stream)
