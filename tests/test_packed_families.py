"""Packed answers of every family equal the padded ones: windows, caps, grouped keys, any masks at once."""

import pytest
import torch

from lm_eval_prune import PruningMask, masked
from lm_eval_prune.decoders.forward import DecoderForward, why_not
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


def test_answers_do_not_depend_on_masks_and_requests_beside_them(tiny_model):
    masks = several(tiny_model)
    together = packed(tiny_model, masks)
    for mask, answers in zip(masks, together, strict=True):
        assert packed(tiny_model, [mask]) == [answers]
    for row, one in zip(together, packed(tiny_model, masks, batch_size=1), strict=True):
        likelihoods = [answer.log_likelihood for answer in one]
        assert [answer.log_likelihood for answer in row] == pytest.approx(likelihoods, abs=1e-4)
