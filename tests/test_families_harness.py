"""`pruned-hf` against the harness's own `hf`: the same answers, for every family, at no and at several shots."""

import json
import logging
from fractions import Fraction

import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM

from lm_eval_prune import PruningMask, masked
from lm_eval_prune.errors import ArgumentError, UnsupportedModelError
from lm_eval_prune.harness import packed
from lm_eval_prune.harness.model import PrunedModel, PrunedOPT
from lm_eval_prune.random_opt import small_tokenizer
from tests import families
from tests.helpers import requests

QUICK = ("gemma2, windows and caps", "gpt_neox", "llama")
ORDERED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in families.VARIANTS]


@pytest.mark.parametrize("variant", ORDERED)
def test_answers_on_documents_are_those_of_hf(variant, in_benchmarks, task_manager, monkeypatch):
    logging.disable(logging.WARNING)
    prefix, fields = families.VARIANTS[variant]
    monkeypatch.setitem(families.VARIANTS, variant, (prefix, {**fields, "vocab_size": 512}))
    model, tokenizer = families._made.__wrapped__(variant), small_tokenizer(vocab_size=512)
    heads = model.config.num_attention_heads
    mask = PruningMask(**families.shape(model), pruned_heads={0: (1,), 2: range(heads)}, pruned_ffns=(1,))
    settings = {"tokenizer": tokenizer, "batch_size": 4, "max_length": 300}

    def resps(lm, shots):
        found = lm_eval.simple_evaluate(
            lm, tasks=["copa", "arc_easy"], num_fewshot=shots, limit=3, bootstrap_iters=0, task_manager=task_manager
        )
        samples = [sample for task in found["samples"].values() for sample in task]
        return found["results"], np.array([float(one[0][0]) for sample in samples for one in sample["resps"]])

    ours = PrunedModel(pretrained=model, mask=mask, **settings)
    assert packed.why_padded(ours) is None
    for shots in (0, 5):
        found, answers = resps(ours, shots)
        with masked(model, mask):
            expected, right = resps(HFLM(pretrained=model, **settings), shots)
        assert found == expected
        np.testing.assert_allclose(answers, right, rtol=2.5e-7, atol=1e-4)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("variant", "groups", "share"),
    [("llama", 2, "0.5"), ("llama, 8 query heads a key", 1, "0.4"), ("qwen3", 2, "0.34")],
)
def test_groups_are_pruned_by_the_sums_of_their_heads_scores(variant, groups, share, tmp_path, monkeypatch):
    """`unit=kv_group` in model_args, packed and padded: the stock model in float64 without the values of the groups
    whose scores sum to least."""
    prefix, fields = families.VARIANTS[variant]
    monkeypatch.setitem(families.VARIANTS, variant, (prefix, {**fields, "vocab_size": 300}))
    model, tokenizer = families._made.__wrapped__(variant), small_tokenizer(vocab_size=300)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path)
    layers, heads = families.shape(model).values()
    scores = torch.rand(layers, heads, generator=torch.Generator().manual_seed(5)).round(decimals=3)
    content = {
        **{"format": "lm-eval-prune-importance", "version": 1, "component": "heads", "method": "gradient"},
        **families.shape(model),
        "scores": scores.tolist(),
    }
    (tmp_path / "scores.json").write_text(json.dumps(content))
    sums = scores.view(layers, groups, heads // groups).sum(-1).flatten()
    lowest = sums.argsort(stable=True)[: int(Fraction(share) * len(sums))].tolist()
    assert lowest
    exact = families._made.__wrapped__(variant).double()
    for layer, group in (divmod(place, groups) for place in lowest):
        values = exact.model.layers[layer].self_attn.v_proj
        rows = len(values.weight) // groups
        values.weight.data[group * rows : (group + 1) * rows] = 0
        if values.bias is not None:
            values.bias.data[group * rows : (group + 1) * rows] = 0
    pairs = [("the cat", " sat"), ("a dog sat", " on the mat"), ("the cat", " on a dog")]
    chosen = {"head_importance": str(tmp_path / "scores.json"), "prune_heads": share, "unit": "kv_group"}
    for scorer in ("packed", "padded"):
        settings = {"scorer": scorer, "dtype": "float32", "device": "cpu", "batch_size": 2}
        lm = PrunedModel(str(tmp_path), **chosen, **settings)
        found = lm.loglikelihood(requests("loglikelihood", pairs))
        for (context, continuation), (answer, _) in zip(pairs, found, strict=True):
            first, second = lm._encode_pair(context, continuation)
            with torch.no_grad():
                rows = exact(torch.tensor([[*first, *second][:-1]])).logits[0, -len(second) :].log_softmax(-1)
            assert answer == pytest.approx(float(rows[range(len(second)), second].sum()), abs=1e-4)


def test_pruned_opt_names_pruned_hf_for_other_families():
    model = families.made("llama")
    with pytest.raises(UnsupportedModelError, match="this one's type is 'llama'; use pruned-hf"):
        PrunedOPT(pretrained=model, tokenizer=small_tokenizer(vocab_size=300))
    lm = PrunedModel(pretrained=model, tokenizer=small_tokenizer(vocab_size=300))
    assert lm.harness_name == "pruned-hf"
    assert PrunedModel(pretrained=families.made("opt"), tokenizer=lm.tokenizer).harness_name == "pruned-opt"


def test_what_is_no_decoder_is_refused_by_the_harness_model_in_one_line():
    with pytest.raises(UnsupportedModelError, match="it has no heads to mask") as caught:
        PrunedModel(pretrained=families.of_type("mamba"), tokenizer=small_tokenizer(vocab_size=300))
    assert "\n" not in str(caught.value)


POSITIONED = {**{name: lambda name=name: families.made(name) for name in families.VARIANTS}, **{
    name: lambda name=name: families.of_type(name) for name in ("gpt_bigcode", "granite", "phi")
}}  # fmt: skip


@pytest.mark.parametrize("name", POSITIONED)
def test_a_length_beyond_learned_positions_is_refused_where_the_model_would_fail(name):
    model = POSITIONED[name]()
    longest = model.config.max_position_embeddings
    fails = not _takes(model, longest + 1)
    assert _takes(model, longest)
    settings = {"pretrained": model, "tokenizer": small_tokenizer(vocab_size=300)}
    if fails:
        with pytest.raises(ArgumentError, match=f"max_length={longest + 1}: .* learned {longest} positions"):
            PrunedModel(**settings, max_length=longest + 1)
        longest -= 1
    assert PrunedModel(**settings, max_length=longest + 1).max_length == longest + 1


def _takes(model, length):
    try:
        model(torch.zeros(1, length, dtype=torch.long))
    except IndexError:
        return False
    return True
