"""Prefix matching and copying against the definitions in float64, and on heads made by hand to do just that."""

from __future__ import annotations

import logging

import pytest
import reference_importance as reference
import torch
from fixtures_importance import tiny_model

from lm_eval_prune import induction
from lm_eval_prune.errors import ArgumentError, ExampleError
from lm_eval_prune.induction import copying_scores, prefix_matching_scores
from lm_eval_prune.random_opt import small_tokenizer
from lm_eval_prune.sequences import fitting_lengths, random_sequences, ranked_tokens

SEQUENCES = [[40, 7, 19, 88, 5], [11, 12, 13, 14, 15, 16, 17, 30], [9]]


@pytest.fixture(scope="module", params=[False, True], ids=["pre-norm", "post-norm"])
def model(request):
    return tiny_model(post_norm=request.param)


@pytest.mark.parametrize("repeats", [2, 4])
def test_prefix_matching_equals_the_definition(model, repeats, monkeypatch):
    monkeypatch.setattr(induction, "ROWS", 7)  # several blocks
    scores = prefix_matching_scores(model, SEQUENCES, repeats=repeats)
    assert scores.shape == (3, 3, 4)
    assert scores.dtype == torch.float32
    weights = reference.Weights(model)
    for sequence, found in zip(SEQUENCES, scores, strict=True):
        expected = reference.prefix_matching(weights, sequence, bos=2, repeats=repeats)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("definition", ["olsson2022", "bansal2023"])
def test_copying_equals_the_definition(model, definition, monkeypatch):
    monkeypatch.setattr(induction, "ROWS", 3)
    scores = copying_scores(model, SEQUENCES, definition=definition)
    weights = reference.Weights(model)
    for sequence, found in zip(SEQUENCES, scores, strict=True):
        expected = reference.copying(weights, sequence, bos=2, definition=definition)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_the_two_definitions_of_copying_differ(model):
    assert not torch.allclose(
        copying_scores(model, SEQUENCES), copying_scores(model, SEQUENCES, definition="bansal2023")
    )


def test_bos_can_be_chosen(model):
    expected = reference.prefix_matching(reference.Weights(model), SEQUENCES[0], bos=70)
    found = prefix_matching_scores(model, SEQUENCES[:1], bos_token_id=70)
    torch.testing.assert_close(found[0].double(), expected, rtol=0, atol=1e-5)


def handmade(sequences):
    """Two layers of two heads: head 0.0 attends to the token before and copies it; head 1.1 is an induction head.

    The residual stream holds a token's identity, its position, and (written by head 0.0) the token before it.
    """
    tokens, positions, sharp = 24, 60, 60.0
    width = tokens + positions
    model = tiny_model(
        layers=2,
        heads=2,
        vocab_size=tokens,
        hidden_size=2 * width,
        word_embed_proj_dim=2 * width,
        ffn_dim=4,
        max_position_embeddings=positions,
    )
    identity, before = slice(0, tokens), slice(width, width + tokens)
    place = slice(tokens, width)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "layer_norm.weight" in name else 0.0)
        inner = model.model.decoder
        inner.embed_tokens.weight[:, identity] = torch.eye(tokens)
        inner.embed_positions.weight[2:, place] = torch.eye(positions)
        first, second = (layer.self_attn for layer in inner.layers)
        # Head 0.0 (rows 0 .. width): position p asks for p - 1; the identity found there is written beside its own.
        first.q_proj.weight[torch.arange(positions - 1), tokens + torch.arange(1, positions)] = sharp
        first.k_proj.weight[torch.arange(positions), tokens + torch.arange(positions)] = sharp
        first.v_proj.weight[torch.arange(tokens), torch.arange(tokens)] = 1.0
        first.out_proj.weight[before, :tokens] = torch.eye(tokens)
        first.out_proj.weight[identity, :tokens] = 0.1 * torch.eye(tokens)
        # Head 1.1 (rows width .. 2 * width): a token asks for positions whose "token before" is itself.
        second.q_proj.weight[width : width + tokens, identity] = sharp * torch.eye(tokens)
        second.k_proj.weight[width : width + tokens, before] = sharp * torch.eye(tokens)
        second.v_proj.weight[width : width + tokens, identity] = torch.eye(tokens)
        second.out_proj.weight[identity, width : width + tokens] = torch.eye(tokens)
    assert all(4 * len(sequence) + 1 <= positions for sequence in sequences)
    return model


def test_a_perfect_induction_head_scores_one():
    sequences = [[5, 9, 3, 17, 11, 8], [20, 4, 6, 13, 7, 10, 15, 22, 12, 19]]
    model = handmade(sequences)
    scores = prefix_matching_scores(model, sequences)
    assert scores[:, 1, 1].tolist() == pytest.approx([1, 1], abs=0.01)
    # Head 0.0 attends to the token before: no follower of an earlier occurrence, but for nearly none.
    assert (scores[:, 0, 0] < 0.05).all()
    # Heads without weights attend evenly: a share of followers over all positions so far.
    assert (scores[:, 1, 0] < 0.3).all()


def test_a_perfect_copying_head_scores_one():
    sequences = [[5, 9, 3, 17, 11, 8], [20, 4, 6, 13, 7, 10, 15, 22, 12, 19]]
    model = handmade(sequences)
    with torch.no_grad():
        model.model.decoder.layers[0].self_attn.v_proj.weight.mul_(100)
    scores = copying_scores(model, sequences)
    assert scores[:, 0, 0].tolist() == pytest.approx([1, 1], abs=0.01)
    assert (scores[:, 0, 1] == 0).all()  # a head that writes nothing raises nothing


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "no sequences"),
        ([[5, 6], [5, 5]], "sequence 1: expected one or more tokens, each of them once"),
        ([[]], "sequence 0: expected one or more tokens"),
        ([list(range(4, 36))], "sequence 0: 32 tokens, 4 times behind a BOS, are 129 positions; the model has 128"),
        ([[96]], "sequence 0: token ids must be 0 to 95"),
    ],
)
def test_bad_sequences(sequences, message):
    with pytest.raises(ExampleError, match=message):
        prefix_matching_scores(tiny_model(), sequences)


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="definition 'mine': unknown; expected one of olsson2022, bansal2023"):
        copying_scores(tiny_model(), SEQUENCES, definition="mine")
    with pytest.raises(ArgumentError, match="repeats=1"):
        prefix_matching_scores(tiny_model(), SEQUENCES, repeats=1)
    with pytest.raises(ArgumentError, match="names no BOS"):
        copying_scores(tiny_model(bos_token_id=None), SEQUENCES)


def test_only_one_layer_of_attention_is_held(monkeypatch):
    """Each layer's queries and keys are let go before the next layer's are there."""
    import weakref

    made = []
    original = induction._Rows.__init__

    def watched(self, *args):
        assert all(reference() is None for reference in made)
        made.append(weakref.ref(self))
        original(self, *args)

    monkeypatch.setattr(induction._Rows, "__init__", watched)
    prefix_matching_scores(tiny_model(), SEQUENCES)
    assert len(made) == 9


def test_sequences_are_distinct_seeded_and_without_the_extremes():
    ranked = list(range(1000, 2000))
    sequences = random_sequences(ranked, [25, 27, 29], seed=7)
    assert [len(sequence) for sequence in sequences] == [25, 27, 29]
    assert all(len(set(sequence)) == len(sequence) for sequence in sequences)
    drawn = {token for seed in range(40) for token in random_sequences(ranked, [200], seed)[0]}
    assert (min(drawn), max(drawn)) == (1040, 1959)
    assert sequences == random_sequences(ranked, [25, 27, 29], seed=7)
    assert sequences != random_sequences(ranked, [25, 27, 29], seed=8)
    assert sequences[1] == random_sequences(ranked, [25, 27], seed=7)[1]
    with pytest.raises(ExampleError, match="60 distinct tokens wanted, but the tokenizer leaves 46"):
        random_sequences(range(50), [60], seed=0)


def test_ranks_follow_the_merges():
    tokenizer = small_tokenizer(["abab abab abab cd cd"] * 3, vocab_size=280)
    ranked = ranked_tokens(tokenizer, 280)
    assert tokenizer.convert_ids_to_tokens(ranked[0]) == "ab"
    assert set(ranked) == set(range(260, len(tokenizer)))  # the 4 special tokens and the 256 bytes are no merges


def test_ranks_are_ids_without_merges():
    tokenizer = small_tokenizer()
    special = set(tokenizer.all_special_ids)
    assert {1, 2} <= special
    assert ranked_tokens(tokenizer, 100) == [token for token in range(100) if token not in special]


def test_lengths_stop_where_the_model_ends(caplog):
    ranked = list(range(1000))
    assert fitting_lengths(ranked, 2048, 4) == list(range(25, 225, 2))
    with caplog.at_level(logging.WARNING):
        assert fitting_lengths(ranked, 128, 4) == [25, 27, 29, 31]
        assert fitting_lengths(ranked, 128, 4, 10**20) == [25, 27, 29, 31]  # at once
    assert "4 of 100 sequences fit the model: lengths 25 to 31" in caplog.text
    assert fitting_lengths(ranked, 2048, 1, times=4) == list(range(100, 893, 8))  # Algorithm 2 of Bansal et al.
    assert len(fitting_lengths(ranked, 2048, 1, times=4)) == 100
    assert fitting_lengths(ranked, 128, 1, times=4) == [100, 108, 116, 124]
    with pytest.raises(ExampleError, match="the shortest sequence, 100 tokens 1 times behind a BOS, does not fit"):
        fitting_lengths(ranked, 64, 1, times=4)
    assert fitting_lengths(list(range(30)), 2048, 4) == [25, 27]
    with pytest.raises(ExampleError, match="the model has 64 positions"):
        fitting_lengths(ranked, 64, 4)
