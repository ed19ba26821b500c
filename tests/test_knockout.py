"""Laws of knockout: many masks at once are separate evaluations, bit for bit; scores are differences of metrics."""

from __future__ import annotations

import pytest
import reference_importance as reference
import torch
from fixtures_importance import examples, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_prune.ablation import masked
from lm_eval_prune.errors import ExampleError, MaskShapeError
from lm_eval_prune.importance.knockout import LossObjective, component_knockout, ffn_importance, score_under_masks
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.masks import PruningMask

SHAPE = {"num_hidden_layers": 3, "num_attention_heads": 4}


@pytest.fixture(scope="module", params=[("sdpa", False), ("sdpa", True), ("eager", False), ("eager", True)], ids=str)
def model(request):
    attention, post_norm = request.param
    model = tiny_model(post_norm=post_norm)
    model.set_attn_implementation(attention)
    return model


def separately(model, requests, mask, batch_size):
    """One masked evaluation through the model's own forward, on the batches that `score_under_masks` makes."""
    from lm_eval_prune.importance.examples import batches, checked, continuation_rows

    answers = [None] * len(requests)
    for batch in batches(checked(requests, 128, 96), batch_size):
        with torch.no_grad(), masked(model, mask):
            hidden = model.model.decoder(batch.input_ids, use_cache=False).last_hidden_state
            log_probabilities = model.lm_head(continuation_rows(hidden, batch)).log_softmax(-1)
        for place, example in enumerate(batch.examples):
            rows = log_probabilities[batch.owners == place]
            targets = torch.tensor(example.tokens[-example.num_continuation :])
            greedy = bool((rows.argmax(-1) == targets).all())
            answers[example.index] = (float(rows.gather(1, targets[:, None]).sum()), greedy)
    return answers


def singles():
    ffns = [PruningMask(**SHAPE, pruned_ffns=(layer,)) for layer in range(3)]
    heads = [PruningMask(**SHAPE, pruned_heads={layer: (head,)}) for layer in range(3) for head in range(4)]
    return [PruningMask.dense(3, 4), *ffns, *heads]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_equals_separate_masked_evaluations_exactly(model, batch_size):
    together = score_under_masks(model, examples(), singles(), batch_size)
    for mask, answers in zip(singles(), together, strict=True):
        assert answers == separately(model, examples(), mask, batch_size)
    assert len({tuple(answers) for answers in together}) == len(singles())  # and every mask changes something


masks = st.builds(
    lambda heads, ffns: PruningMask(**SHAPE, pruned_heads=heads, pruned_ffns=tuple(ffns)),
    st.dictionaries(st.integers(0, 2), st.sets(st.integers(0, 3)).map(tuple)),
    st.sets(st.integers(0, 2)),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(masks, min_size=1, max_size=4), st.booleans())
def test_any_masks_together_equal_them_apart(several, post_norm):
    model = tiny_model(post_norm=post_norm)
    together = score_under_masks(model, examples(4), several, 2)
    for mask, answers in zip(several, together, strict=True):
        assert answers == separately(model, examples(4), mask, 2)


def test_ffn_knockout_on_loss_equals_the_definition(model):
    weights = reference.Weights(model)

    def mean_loss(**changes):
        return sum(float(reference.loss(weights, *example, **changes)[0]) for example in examples()) / 9

    expected = torch.tensor([mean_loss(skip_ffn={layer}) - mean_loss() for layer in range(3)])
    torch.testing.assert_close(ffn_importance(model, examples(), batch_size=4), expected, rtol=1e-4, atol=1e-5)


def test_head_knockout_on_loss_equals_the_definition(model):
    weights = reference.Weights(model)
    scores = component_knockout(model, examples(3), "heads")
    assert scores.shape == (3, 4)
    for layer, head in ((0, 0), (1, 2), (2, 3)):

        def cut(at, heads, layer=layer, head=head):
            factor = torch.ones(32, dtype=heads.dtype)
            factor[head * 8 : (head + 1) * 8] = float(at != layer)
            return heads * factor

        losses = [
            sum(float(reference.loss(weights, *example, **changes)[0]) for example in examples(3)) / 3
            for changes in ({"edit": cut}, {})
        ]
        assert float(scores[layer, head]) == pytest.approx(losses[0] - losses[1], rel=1e-4, abs=1e-5)


class Counting:
    """An objective that counts greedy answers."""

    def __init__(self, requests):
        self.requests = requests

    def value(self, answers):
        return sum(greedy for _, greedy in answers)


def test_objective_is_computed_from_answers_and_subtracted_from_the_dense_one():
    model = tiny_model()
    with torch.no_grad():
        greedy = [(context, [int(model(torch.tensor([context])).logits[0, -1].argmax())]) for context, _ in examples()]
    scores = ffn_importance(model, Counting(greedy), batch_size=3)
    rows = score_under_masks(model, greedy, singles()[:4], 3)
    counts = [sum(flag for _, flag in row) for row in rows]
    assert counts[0] == 9  # dense: every request was made greedy
    assert scores.tolist() == [9 - count for count in counts[1:]]
    assert min(counts[1:]) < 9


def test_another_scorer_may_take_over():
    calls = []

    def scorer(model, requests, masks, batch_size):
        calls.append((len(requests), len(masks), batch_size))
        return [[(-2.0 * index, False)] * len(requests) for index, _ in enumerate(masks)]

    model = tiny_model()
    scores = ffn_importance(model, [([2], [5]), ([2], [5, 6, 7, 8])], batch_size=5, scorer=scorer)
    assert calls == [(2, 4, 5)]
    assert scores.tolist() == pytest.approx([1.25, 2.5, 3.75])  # (2 / 1 + 2 / 4) / 2


def test_answers_are_the_harness_answers():
    """Log-likelihoods and greedy flags of the harness's own `hf` model, also for requests that share their input.

    Its cache of logits is off: where continuations of different lengths share an input, it reads a wrong row (0.4.13).
    """
    from lm_eval.models.huggingface import HFLM

    from lm_eval_prune.random_opt import small_tokenizer

    model = tiny_model(vocab_size=300)
    lm = HFLM(pretrained=model, tokenizer=small_tokenizer(), batch_size=4, max_length=16, logits_cache=False)
    requests = [*examples(), ([2, 9, 9], [7]), ([2, 9, 9], [8]), ([2, 9], [9, 12]), (list(range(4, 40)), [50, 51])]
    with torch.no_grad():
        greedy = int(model(torch.tensor([[2, 9, 9]])).logits[0, -1].argmax())
    requests.append(([2, 9, 9], [greedy]))
    cut = [(list(context)[-(17 - len(continuation)) :], continuation) for context, continuation in requests]
    expected = lm._loglikelihood_tokens([(("", ""), *pair) for pair in requests], disable_tqdm=True)
    (answers,) = score_under_masks(model, cut, [PruningMask.dense(3, 4)], 4)
    assert [flag for _, flag in answers] == [flag for _, flag in expected]
    assert answers[-1][1]
    assert [value for value, _ in answers] == pytest.approx([value for value, _ in expected], rel=1e-5)


def test_a_mask_around_the_call_stays():
    model = tiny_model()
    outer = PruningMask(**SHAPE, pruned_heads={0: (1, 2)})
    inner = PruningMask(**SHAPE, pruned_ffns=(1,))
    with masked(model, outer):
        answers = score_under_masks(model, examples(), [inner, PruningMask.dense(3, 4)], 3)
    assert answers == score_under_masks(model, examples(), [inner | outer, outer], 3)


def test_shares_of_processes_add_up(monkeypatch):
    model = tiny_model()
    whole = score_under_masks(model, examples(), singles(), 1)
    partial = []
    monkeypatch.setattr(Processes, "sum", lambda self, values: partial.append(values) or values)
    for rank in range(2):
        score_under_masks(model, examples(), singles(), 1, processes=Processes(rank, 2))
    assert torch.equal(partial[0] + partial[1], torch.tensor(whole, dtype=torch.float64))


def test_model_comes_back_as_it_was():
    model = tiny_model().train()
    score_under_masks(model, examples(2), singles(), 2)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_loss_is_the_mean_over_examples_of_the_mean_over_tokens():
    objective = LossObjective([([2], [5]), ([2], [5, 6, 7, 8])])
    assert objective.value([(-1.0, False), (-8.0, False)]) == pytest.approx(-1.5)


def test_bad_input():
    with pytest.raises(MaskShapeError, match="mask is for 2 layers of 4 heads"):
        score_under_masks(tiny_model(), examples(), [PruningMask.dense(2, 4)], 2)
    with pytest.raises(ExampleError, match="no examples"):
        ffn_importance(tiny_model(), [])
