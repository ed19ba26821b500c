"""Everything that computes, in bfloat16: the same as in float32, as far as eight bits of precision go."""

from __future__ import annotations

import pytest
import torch
from fixtures_importance import examples, tiny_model

from lm_eval_prune.ablation import masked
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.importance.knockout import ffn_importance, score_under_masks
from lm_eval_prune.induction import copying_scores, prefix_matching_scores
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.scoring import score
from tests.helpers import TEXTS, build, requests

MASK = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1,), 2: (0, 3)}, pruned_ffns=(1,))


@pytest.fixture(params=[False, True], ids=["pre-norm", "post-norm"])
def models(request):
    return tiny_model(post_norm=request.param, dtype=torch.bfloat16), tiny_model(post_norm=request.param)


def test_log_likelihoods_under_masks_both_ways(models):
    half, full = models
    masks = [PruningMask.dense(3, 4), MASK]
    packed = torch.tensor([[answer[0] for answer in row] for row in score(half, examples(), masks)])
    padded = torch.tensor([[answer[0] for answer in row] for row in score_under_masks(half, examples(), masks)])
    exact = torch.tensor([[answer[0] for answer in row] for row in score_under_masks(full, examples(), masks)])
    for found in (packed, padded):
        torch.testing.assert_close(found, exact, rtol=0.05, atol=0.3)
        assert (found - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_masked_logits(models):
    half, full = models
    ids = torch.tensor([[2, 9, 11, 40, 7]])
    with torch.no_grad(), masked(half, MASK), masked(full, MASK):
        found, expected = half(ids).logits, full(ids).logits
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_knockout_and_induction(models):
    half, full = models
    assert torch.corrcoef(torch.stack([ffn_importance(model, examples(30)) for model in models]))[0, 1] > 0.99
    sequences = [[40, 7, 19, 88, 5], [11, 12, 13, 14, 15, 16, 17, 30]]
    for function in (prefix_matching_scores, copying_scores):
        # A head that attends to two tokens alike may have another of them come first: single scores jump.
        assert (function(half, sequences) - function(full, sequences)).abs().mean() < 0.02


@pytest.mark.parametrize("scorer", ["packed", "padded"])
def test_the_harness_model(checkpoint, mask, scorer):
    asked = requests("loglikelihood", TEXTS)
    half = build(PrunedOPT, checkpoint, mask=mask, scorer=scorer, dtype="bfloat16").loglikelihood(asked)
    full = build(PrunedOPT, checkpoint, mask=mask, scorer=scorer).loglikelihood(asked)
    for found, expected in zip(half, full, strict=True):
        assert found[0] == pytest.approx(expected[0], rel=0.03)
