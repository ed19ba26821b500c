"""Compact models under mean ablation: means as biases, with the outputs of the masked model, in every proven family."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lm_eval_prune import Means, PrunedModel, PruningMask, compact, compact_checkpoint, masked, score
from lm_eval_prune.compaction.loading import CompactingLoader
from lm_eval_prune.decoders.skeleton import num_removed_parameters
from lm_eval_prune.demo import bundled_model_path
from lm_eval_prune.errors import ArgumentError, MaskShapeError
from tests import families
from tests.test_families import mask_of
from tests.test_mean_ablation import EXAMPLES, masks_of, random_means

IDS = torch.tensor([families.tokens(20), families.tokens(20, 1)])


def logits(model, *ablated):
    with torch.no_grad():
        if not ablated:
            return model(IDS).logits
        with masked(model, *ablated):
            return model(IDS).logits


def test_the_compact_model_is_the_masked_one_in_memory_and_on_disk(tiny_model, tmp_path):
    means = random_means(tiny_model)
    for number, mask in enumerate(masks_of(tiny_model)[1:]):
        expected = logits(tiny_model, mask, means)
        smaller = compact(tiny_model, mask, means)
        torch.testing.assert_close(logits(smaller), expected, rtol=1e-4, atol=1e-4)
        assert smaller.config.pruning_means["sha256"] == means.digest
        left = tiny_model.num_parameters() - smaller.num_parameters()
        assert num_removed_parameters(smaller.config) == left
        smaller.save_pretrained(tmp_path / f"saved-{number}")
        torch.testing.assert_close(
            logits(AutoModelForCausalLM.from_pretrained(tmp_path / f"saved-{number}")), logits(smaller)
        )
    tiny_model.save_pretrained(tmp_path / "whole")
    done = compact_checkpoint(tmp_path / "whole", mask_of(tiny_model), tmp_path / "small", means=means)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    torch.testing.assert_close(logits(found), logits(tiny_model, mask_of(tiny_model), means), rtol=1e-4, atol=1e-4)
    assert done.num_parameters == found.num_parameters()
    loaded = CompactingLoader(mask_of(tiny_model), means).from_pretrained(str(tmp_path / "whole"), dtype=torch.float32)
    torch.testing.assert_close(logits(loaded.eval()), logits(found))
    assert loaded.config.pruning_means["sha256"] == means.digest


def test_what_a_compact_model_lacks_can_grow_with_further_means_or_zeros(tiny_model):
    shape, means = families.shape(tiny_model), random_means(tiny_model)
    first = PruningMask(**shape, pruned_heads={0: (1,)}, pruned_ffns=(2,))
    further = PruningMask(**shape, pruned_heads={0: (0,), 2: range(shape["num_attention_heads"])}, pruned_ffns=(0,))
    smaller = compact(tiny_model, first, means)
    for more in (None, means):
        expected = logits(smaller, further, more)
        assert not torch.allclose(expected, logits(smaller), atol=1e-3)
        again = compact(smaller, further, more)
        torch.testing.assert_close(logits(again), expected, rtol=1e-4, atol=1e-4)
    both = logits(tiny_model, first | further, means)
    torch.testing.assert_close(logits(compact(smaller, further, means)), both, rtol=1e-4, atol=1e-4)
    zeros = compact(compact(tiny_model, first), further, means)
    torch.testing.assert_close(logits(zeros), logits(compact(tiny_model, first), further, means), rtol=1e-4, atol=1e-4)


def test_packed_scoring_and_generation_of_a_compact_model_are_the_masked_ones(tiny_model):
    means, mask = random_means(tiny_model), mask_of(tiny_model)
    smaller = compact(tiny_model, mask, means)
    expected, found = (
        torch.tensor([[each[0] for each in row] for row in answers])
        for answers in (score(tiny_model, EXAMPLES, [mask], means=means), score(smaller, EXAMPLES))
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad(), masked(tiny_model, mask, means):
        text = tiny_model.generate(IDS[:1], max_new_tokens=6, do_sample=False)
    assert torch.equal(smaller.generate(IDS[:1], max_new_tokens=6, do_sample=False), text)


def test_the_harness_evaluates_it_and_says_which_means(tmp_path):
    means = Means(heads=torch.full((6, 6, 24), 0.3), ffns=torch.full((6, 144), -0.1), settings={"task": "piqa"})
    config = AutoConfig.from_pretrained(bundled_model_path())
    assert (config.hidden_size, config.num_attention_heads) == (means.ffns.shape[1], means.heads.shape[1])
    mask = PruningMask(num_hidden_layers=6, num_attention_heads=6, pruned_heads={1: (0, 2)}, pruned_ffns=(3,))
    compact_checkpoint(bundled_model_path(), mask, tmp_path / "small", means=means)
    from lm_eval_prune.harness.results import pruning_block

    lm = PrunedModel(str(tmp_path / "small"), device="cpu")
    block = pruning_block(lm, lm.model.num_parameters())
    assert (block["ablation"], block["means"]) == ("mean", {"sha256": means.digest, "task": "piqa"})
    assert json.loads((tmp_path / "small" / "config.json").read_text())["pruning_means"]["task"] == "piqa"
    assert "mean ablation" in (tmp_path / "small" / "README.md").read_text()
    whole = PrunedModel(mask=mask, means=means, device="cpu")
    ids = torch.tensor([[5, 9, 11, 30, 8]])
    torch.testing.assert_close(lm._model_call(ids), whole._model_call(ids), rtol=1e-4, atol=1e-4)
    loaded = PrunedModel(mask=mask, means=means, load="compact", device="cpu")  # the same while loading
    torch.testing.assert_close(loaded._model_call(ids), lm._model_call(ids))
    assert loaded.model.num_parameters() == lm.model.num_parameters() < whole.model.num_parameters()
    told = pruning_block(loaded, loaded.model.num_parameters())
    for name in ("ablation", "means", "num_parameters_left"):
        assert told[name] == block[name]
    requests = [((None, None), [5, 9, 11], [30, 8])]
    found, expected = (one._loglikelihood_tokens(requests, disable_tqdm=True) for one in (loaded, whole))
    assert found[0][0] == pytest.approx(expected[0][0], abs=1e-4)


def test_what_cannot_be_folded_is_one_line(tmp_path):
    model = families.made("llama")
    mask, means = mask_of(model), random_means(model)
    model.save_pretrained(tmp_path / "whole")
    other = Means(heads=means.heads[..., :2], ffns=means.ffns)
    with pytest.raises(ArgumentError, match="zeroed and means exclude one another"):
        compact_checkpoint(tmp_path / "whole", mask, tmp_path / "new", means=means, zeroed=True)
    for given in (
        lambda: compact_checkpoint(tmp_path / "whole", mask, tmp_path / "new", means=other),
        lambda: compact(model, mask, other),
    ):
        with pytest.raises(MaskShapeError, match="means are of"):
            given()
    compact_checkpoint(tmp_path / "whole", mask, tmp_path / "small", means=means)
    with pytest.raises(ArgumentError, match="zeroed and means exclude one another"):
        compact_checkpoint(tmp_path / "small", mask, tmp_path / "new", zeroed=True)
    assert not (tmp_path / "new").exists()
