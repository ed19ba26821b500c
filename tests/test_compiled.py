"""Masks and scores on models that torch.compile has compiled: compiled code does not see hooks put on after it."""

from __future__ import annotations

import pytest
import torch
from fixtures_importance import examples, tiny_model

from lm_eval_prune.ablation import masked
from lm_eval_prune.importance.gradient import head_importance
from lm_eval_prune.induction import prefix_matching_scores
from lm_eval_prune.masks import PruningMask

pytestmark = pytest.mark.slow
IDS = torch.tensor([[2, 9, 11, 40, 7]])
MASK = PruningMask(
    num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1,), 1: (0, 1, 2, 3)}, pruned_ffns=(2,)
)


def wrapped():
    return torch.compile(tiny_model(), backend="eager")


def in_place():
    model = tiny_model()
    model.compile(backend="eager")
    return model


def by_layer():
    model = tiny_model()
    for layer in model.model.decoder.layers:
        layer.compile(backend="eager")
    return model


@pytest.fixture(params=[wrapped, in_place, by_layer])
def compiled(request):
    """A compiled model that has already run, so that its compiled code is there."""
    torch._dynamo.reset()
    model = request.param()
    with torch.no_grad():
        model(IDS)
    yield model
    torch._dynamo.reset()


def test_masks_are_obeyed_and_undone(compiled):
    plain = tiny_model()
    with torch.no_grad():
        dense = plain(IDS).logits
        with masked(plain, MASK):
            expected = plain(IDS).logits
        with masked(compiled, MASK):
            torch.testing.assert_close(compiled(IDS).logits, expected)
        torch.testing.assert_close(compiled(IDS).logits, dense)


def test_scores_are_those_of_the_model_as_written(compiled):
    plain = tiny_model()
    torch.testing.assert_close(head_importance(compiled, examples(3)), head_importance(plain, examples(3)))
    sequence = [[40, 7, 19, 88, 5]]
    torch.testing.assert_close(prefix_matching_scores(compiled, sequence), prefix_matching_scores(plain, sequence))
