import json

import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from lm_eval_prune import PruningMask, __version__
from lm_eval_prune.errors import ArgumentError, FileFormatError, MaskShapeError, PruneError, UnsupportedModelError
from lm_eval_prune.harness.model import PrunedOPT
from tests.helpers import TEXTS, build, requests
from tests.reference_opt import reference_logits


def reference_answer(lm, context, continuation, mask):
    """(log-likelihood, greedy) of a continuation in float64, from the definition."""
    context_ids, ids = lm._encode_pair(context, continuation) if context else ([2], lm.tok_encode(continuation)[1:])
    logits = reference_logits(lm.model, np.array(context_ids + ids), mask.pruned_heads, mask.pruned_ffns)
    rows = logits[len(context_ids) - 1 : -1]
    log_probabilities = rows - rows.max(-1, keepdims=True)
    log_probabilities -= np.log(np.exp(log_probabilities).sum(-1, keepdims=True))
    return log_probabilities[np.arange(len(ids)), ids].sum(), bool((rows.argmax(-1) == ids).all())


def test_dense_answers_equal_hf_to_the_last_bit(checkpoint):
    hf, ours = build(HFLM, checkpoint), build(PrunedOPT, checkpoint, scorer="padded")
    asked = requests("loglikelihood", TEXTS)
    assert ours.loglikelihood(asked) == hf.loglikelihood(asked)
    rolling = requests("loglikelihood_rolling", [(text * 30,) for text, _ in TEXTS if text])
    assert ours.loglikelihood_rolling(rolling) == hf.loglikelihood_rolling(rolling)
    generation = requests("generate_until", [(text, {"until": ["\n"], "max_gen_toks": 6}) for text, _ in TEXTS if text])
    assert ours.generate_until(generation) == hf.generate_until(generation)


@pytest.mark.parametrize("shape", ["pre", "post"])
def test_masked_log_likelihoods_equal_the_float64_reference(checkpoints, mask, shape):
    lm = build(PrunedOPT, checkpoints[shape], mask=mask)
    for (context, continuation), answer in zip(TEXTS, lm.loglikelihood(requests("loglikelihood", TEXTS)), strict=True):
        expected, greedy = reference_answer(lm, context, continuation, mask)
        assert answer[0] == pytest.approx(expected, abs=1e-4)
        assert answer[1] == greedy


def test_rolling_and_generation_are_masked(checkpoint, mask):
    dense, pruned = build(PrunedOPT, checkpoint), build(PrunedOPT, checkpoint, mask=mask)
    rolling = requests("loglikelihood_rolling", [("stone bridge over the river",)])
    assert dense.loglikelihood_rolling(rolling) != pruned.loglikelihood_rolling(rolling)
    asked = requests("generate_until", [("The garden", {"until": ["\n"], "max_gen_toks": 4})])
    found = pruned.generate_until(asked)[0]
    ids = pruned.tok_encode("The garden")
    for _ in range(4):
        logits = reference_logits(pruned.model, np.array(ids), mask.pruned_heads, mask.pruned_ffns)
        ids.append(int(logits[-1].argmax()))
    assert pruned.tokenizer.decode(ids[len(pruned.tok_encode("The garden")) :], skip_special_tokens=True) == found


def test_a_model_handed_over_comes_back_as_it_was(checkpoint, mask):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = torch.tensor([[2, 9, 11, 40]])
    before = model(ids).logits
    lm = PrunedOPT(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(checkpoint), mask=mask, batch_size=2)
    pruned = lm.loglikelihood(requests("loglikelihood", TEXTS))
    assert pruned == build(PrunedOPT, checkpoint, mask=mask, batch_size=2).loglikelihood(
        requests("loglikelihood", TEXTS)
    )
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("kwargs", [{"batch_size": "auto"}, {"dtype": "bfloat16"}, {"max_length": 8}])
def test_arguments_of_hf_work_as_with_hf(checkpoint, kwargs):
    arguments = {"pretrained": str(checkpoint), "device": "cpu", "dtype": "float32", "batch_size": 2, **kwargs}
    asked = requests("loglikelihood", [("stone " * 4, "bridge"), ("river", " garden")])
    hf = HFLM(**arguments, max_batch_size=4).loglikelihood(asked)
    assert PrunedOPT(**arguments, max_batch_size=4, scorer="padded").loglikelihood(asked) == hf


@pytest.mark.parametrize(("scorer", "tolerance"), [("padded", 0), ("packed", 1e-4)])
def test_results_and_samples_are_those_of_hf(checkpoint, in_benchmarks, task_manager, scorer, tolerance):
    arguments = {"pretrained": str(checkpoint), "dtype": "float32"}
    runs = [
        lm_eval.simple_evaluate(
            model=name,
            model_args={**arguments, **extra},
            tasks=["piqa", "arc_easy", "winogrande"],
            num_fewshot=1,
            batch_size=4,
            device="cpu",
            limit=6,
            bootstrap_iters=0,
            task_manager=task_manager,
        )
        for name, extra in (("hf", {}), ("pruned-opt", {"scorer": scorer}))
    ]
    assert runs[0]["results"] == runs[1]["results"]
    assert "pruning" not in runs[0]
    theirs, ours = ([sample for task in run["samples"].values() for sample in task] for run in runs)
    assert len(ours) == 18
    for mine, expected in zip(ours, theirs, strict=True):
        for key in ("resps", "filtered_resps"):
            answers, right = (np.array(sample.pop(key), dtype=float).ravel() for sample in (mine, expected))
            np.testing.assert_allclose(answers, right, rtol=0, atol=tolerance)
        assert json.dumps(mine, default=str) == json.dumps(expected, default=str)


def test_the_pruning_block_says_what_was_run(checkpoint, mask, in_benchmarks, task_manager, tmp_path):
    mask.save(tmp_path / "mask.json")
    results = lm_eval.simple_evaluate(
        model="pruned-opt",
        model_args=f"pretrained={checkpoint},mask={tmp_path / 'mask.json'},dtype=bfloat16",
        tasks=["copa"],
        batch_size=4,
        device="cpu",
        limit=2,
        task_manager=task_manager,
    )
    block = results["pruning"]
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    # By hand: a head has 4 x 8 x 32 weights and 3 x 8 biases; an FFN 2 x 32 x 48 weights, 80 biases and its norm;
    # with the last head of layer 2 goes the norm before it.
    removed = 6 * (4 * 8 * 32 + 3 * 8) + 64 + (2 * 32 * 48 + 80 + 64)
    assert (block["heads_pruned"], block["heads_total"]) == (6, 12)
    assert (block["ffns_pruned"], block["ffns_total"]) == (1, 3)
    assert block["num_parameters_removed"] == removed
    assert block["num_parameters_left"] == model.num_parameters() - removed
    assert block["flops_per_token"] - block["flops_per_token_left"] == 2 * (6 * 4 * 8 * 32 + 2 * 32 * 48)
    assert results["config"]["model_num_parameters"] == block["num_parameters_left"]
    assert block["mask"]["pruned_heads"] == {"0": [1, 3], "2": [0, 1, 2, 3]}
    assert block["mask"]["provenance"]["mask_file"]["path"] == str(tmp_path / "mask.json")
    assert block["dtype"] == "bfloat16"
    assert block["attn_implementation"] == "sdpa"
    assert block["bos_prepended"] is True
    assert block["probe"]["token_ids"][0] == 2
    assert block["versions"] == {
        "lm_eval": lm_eval.__version__,
        "lm_eval_prune": __version__,
        "torch": torch.__version__,
        "transformers": __import__("transformers").__version__,
    }
    json.dumps(block, allow_nan=False)


def test_without_arguments_it_is_the_bundled_model_on_the_device_there_is():
    lm = PrunedOPT()
    assert lm.config.num_hidden_layers * lm.config.num_attention_heads == lm.mask.num_heads == 36
    assert lm.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


# -- bad input ------------------------------------------------------------------------------------------------------


def test_a_mask_of_another_shape_is_refused_before_weights_are_loaded(checkpoint, monkeypatch):
    monkeypatch.setattr(PrunedOPT, "_create_model", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(MaskShapeError, match=r"5 layers of 4 heads, but .* has 3 layers of 4 heads"):
        build(PrunedOPT, checkpoint, mask=PruningMask.dense(5, 4))


def test_a_model_that_is_no_opt_is_refused(tmp_path):
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="this one's type is 'gpt2'; use pruned-hf") as caught:
        build(PrunedOPT, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mask": "absent.json"}, FileFormatError, "absent.json: no such file"),
        ({"prune_heads": 0.7}, ArgumentError, "needs head_importance"),
        ({"scorer": "fastest"}, ArgumentError, "scorer=fastest: unknown"),
        ({"mask": PruningMask.dense(3, 4), "prune_ffns": 0.2}, ArgumentError, "exclude one another"),
    ],
)
def test_bad_arguments_are_one_clear_line(checkpoint, arguments, error, message):
    with pytest.raises(error, match=message):
        build(PrunedOPT, checkpoint, **arguments)


def test_a_missing_model_is_one_clear_line(tmp_path):
    with pytest.raises(PruneError, match="no model configuration found") as caught:
        build(PrunedOPT, tmp_path / "nothing")
    assert "\n" not in str(caught.value)
