"""`scorer=packed` against the harness's own `hf` model: the same answers, cache entries and refusals."""

import functools
import logging
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from scoring_cases import HEADS, LAYERS, SHAPES, noisy_opt, pruning_masks, request_sets, tiny_model

from lm_eval_prune import PruneError, PruningMask, masked
from lm_eval_prune.harness import packed
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.random_opt import small_tokenizer
from lm_eval_prune.scoring import flex, forward

MAX_LENGTH = 240
MIXED = 5e-3
"""How far answers in bfloat16 may be from those of hf; with a residual stream in bfloat16 they are further."""


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.WARNING)  # hf warns of every request that it cuts
    yield
    logging.disable(logging.NOTSET)


def hf(model, **arguments):
    return HFLM(pretrained=model, tokenizer=_tokenizer(), **{"max_length": MAX_LENGTH, "batch_size": 4, **arguments})


def ours(model, **arguments):
    return PrunedOPT(
        pretrained=model,
        tokenizer=_tokenizer(),
        **{"max_length": MAX_LENGTH, "batch_size": 4, "scorer": "packed", **arguments},
    )


@functools.cache
def _tokenizer():
    return small_tokenizer(vocab_size=300)


def keyed(requests):
    return [((f"context {index}", f"continuation {index}"), *request) for index, request in enumerate(requests)]


def assert_same(found, expected):
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    # 2.5e-7 is two steps of float32: what two orders of the same float32 sum differ by once it is beyond 400.
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4, rel=2.5e-7)


def split_at_two_places(requests):
    """hf's logits cache serves such requests from the wrong positions: see test_where_hf_errs."""
    lengths = {}
    for context, continuation in requests:
        lengths.setdefault(tuple(context + continuation[:-1]), set()).add(len(continuation))
    return any(len(found) > 1 for found in lengths.values())


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(requests=request_sets(), mask=pruning_masks(), batch=st.sampled_from([1, 3, 16]))
def test_every_answer_is_hf_s(shape, requests, mask, batch):
    assume(not split_at_two_places(requests))
    model = tiny_model(shape)
    with masked(model, mask):
        expected = hf(model, batch_size=batch)._loglikelihood_tokens(keyed(requests), disable_tqdm=True)
    lm = ours(model, mask=mask, batch_size=batch)
    assert packed.why_padded(lm) is None
    found = lm._loglikelihood_tokens(keyed(requests), disable_tqdm=True)
    assert_same(found, expected)
    assert all(type(value) is float and type(greedy) is bool for value, greedy in found)


def test_flex_attention_answers_as_hf(monkeypatch):
    monkeypatch.setattr(flex.flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    attended = mock.Mock(wraps=flex.attend_by_blocks)
    monkeypatch.setattr(flex, "attend_by_blocks", attended)
    requests = keyed(
        [(([*range(3, 33)] * 5)[:length], [5, *range(9, 9 + more)]) for length in (1, 30, 150) for more in (0, 3)]
    )
    mask = PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads={0: (1, 2), 2: (0,)})
    with masked(tiny_model(), mask):
        expected = hf(tiny_model())._loglikelihood_tokens(requests, disable_tqdm=True)
    assert_same(
        ours(tiny_model(), mask=mask, scorer="flex")._loglikelihood_tokens(requests, disable_tqdm=True), expected
    )
    assert attended.called


def test_where_hf_errs_on_one_text_split_at_two_places_we_do_not():
    requests = keyed([([5, 6], [7, 8]), ([5, 6, 7], [9])])
    padded = ours(tiny_model(), scorer="padded", logits_cache=False)._loglikelihood_tokens(requests, disable_tqdm=True)
    assert_same(ours(tiny_model())._loglikelihood_tokens(requests, disable_tqdm=True), padded)


def test_texts_and_rolling_texts_and_empty_contexts():
    model = wide_model()
    pairs = [("", "abc"), ("a b", " c"), ("a b ", "c d"), ("x" * 300, "y"), ("a b", " c")]
    instances = [instance("loglikelihood", pair) for pair in pairs]
    assert_same(ours(model).loglikelihood(instances), hf(model).loglikelihood(instances))
    rolling = [instance("loglikelihood_rolling", (text,)) for text in ("short", "long " * 150, "")]
    for batch_size in (1, 3):
        found = ours(model, batch_size=batch_size).loglikelihood_rolling(rolling)
        assert found == pytest.approx(hf(model).loglikelihood_rolling(rolling), rel=0, abs=1e-3)


def test_mixed_precision_and_softmax_dtype_are_those_of_hf():
    model = wide_model()
    instances = [instance("loglikelihood", pair) for pair in (("a b", " c"), ("hello", " world"))]
    for arguments in ({"mixed_precision_dtype": "bfloat16", "softmax_dtype": "float32"}, {"softmax_dtype": "float64"}):
        expected = hf(model, **arguments).loglikelihood(instances)
        found = ours(model, **arguments).loglikelihood(instances)
        tolerance = MIXED if "mixed_precision_dtype" in arguments else 1e-5
        assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=tolerance, rel=0)
    plain = ours(model).loglikelihood(instances)
    mixed = ours(model, mixed_precision_dtype="bfloat16").loglikelihood(instances)
    assert plain != mixed


def test_each_answer_goes_to_the_cache_as_its_pack_is_done(monkeypatch):
    lm, stored = ours(tiny_model(), batch_size=1), {}
    lm.cache_hook = SimpleNamespace(add_partial=lambda kind, key, answer: stored.update({(kind, key): answer}))
    requests = [*keyed([([3 + index, *range(5, 50)], [6, 7]) for index in range(40)]), (None, [9, 10], [11])]

    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return forward.answer_pack(*arguments)

    monkeypatch.setattr("lm_eval_prune.scoring.scorer.answer_pack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lm._loglikelihood_tokens(requests, disable_tqdm=True)
    assert 0 < len(stored) < 40
    monkeypatch.undo()
    answers = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    assert len(stored) == 40  # the one without a key is a window of a longer text: not stored
    assert [stored["loglikelihood", key] for key, *_ in requests[:40]] == answers[:40]


def test_auto_batch_size_needs_no_trial_forward(monkeypatch):
    lm = ours(tiny_model(), batch_size="auto")
    monkeypatch.setattr(lm, "_detect_batch_size", lambda *_: pytest.fail("a trial forward"))
    requests = keyed([([3, 4], [5]), ([3, 4], [6])])
    assert_same(lm._loglikelihood_tokens(requests), hf(tiny_model())._loglikelihood_tokens(requests))


def test_impossible_requests_fail_as_they_do_in_hf():
    requests = [(None, [3], [4] * (MAX_LENGTH + 1))]
    with pytest.raises(AssertionError):
        hf(tiny_model())._loglikelihood_tokens(requests)
    with pytest.raises(PruneError, match="the model reads at most 240"):
        ours(tiny_model())._loglikelihood_tokens(requests)


def test_what_packing_cannot_express_goes_the_padded_way():
    requests = keyed([([3, 4, 5], [6, 7])])
    outer = PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads={0: (1,)}, pruned_ffns=(1,))
    model = tiny_model()
    lm = ours(model)
    with masked(model, outer):
        assert "has forward hooks" in packed.why_padded(lm)
        assert_same(lm._loglikelihood_tokens(requests), hf(model)._loglikelihood_tokens(requests))
        hooked = lm._loglikelihood_tokens(requests)
    assert hooked != lm._loglikelihood_tokens(requests)

    class Shifted(PrunedOPT):
        def _model_call(self, *args, **kwargs):
            return super()._model_call(*args, **kwargs).roll(1, -1)

    shifted = Shifted(pretrained=model, tokenizer=_tokenizer(), max_length=MAX_LENGTH)
    assert "Shifted computes" in packed.why_padded(shifted)
    assert shifted._loglikelihood_tokens(requests) != lm._loglikelihood_tokens(requests)
    assert packed.why_padded(ours(model, mixed_precision_dtype="float16")) is None
    assert "mixed precision" in packed.why_padded(ours(noisy_opt().to(torch.bfloat16), mixed_precision_dtype="float16"))


def test_weights_that_accelerate_spreads_or_offloads():
    requests = keyed([([3, 4, 5], [6, 7]), ([3, 4, 5], [8])])
    mask = PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads={1: (0, 2)}, pruned_ffns=(2,))
    expected = ours(tiny_model(), mask=mask)._loglikelihood_tokens(requests)
    for model in (dispatch_model(noisy_opt(), {"": "cpu"}, force_hooks=True), cpu_offload(noisy_opt(), "cpu")):
        spread = ours(model, mask=mask)
        assert packed.why_padded(spread) is None
        assert_same(spread._loglikelihood_tokens(requests), expected)


def wide_model():
    """A model whose vocabulary holds all tokens of the tokenizer."""
    return noisy_opt(vocab_size=300)


def instance(kind, arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)
