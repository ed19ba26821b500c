"""Sweeps under mean ablation: each cell is what the model gives with its task's own means."""

import json

import pytest
import torch

from lm_eval_prune import Means, PrunedModel, PruningMask, evaluate, head_importance, run_sweep
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.importance.gradient import ffn_gradient_importance
from lm_eval_prune.sweep.estimate import estimate_sweep
from tests import families, small_sweep

CHANGES = {
    "ablation": "mean",
    "prune_ffns": ["0", "0.5"],
    "ranking": ["own"],
    "ffn_method": "gradient",
    "num_fewshot": [2],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("means") / "sweep"
    sweep = run_sweep(small_sweep.settings(folder, **CHANGES), progress=False)
    assert not sweep.failed
    return folder


def cells_of(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))]


def test_every_cell_is_the_model_under_its_mask_with_its_tasks_own_means(finished):
    cells = cells_of(finished)
    assert len(cells) == 2 * (1 + 3)
    for content in cells:
        (task,) = content["results"]
        means = Means.load(finished / "importance" / f"{task}-2shot-means.safetensors")
        block, mask = content["pruning"], PruningMask.from_dict(content["pruning"]["mask"], "mask")
        assert (block["ablation"], block["means"]["sha256"]) == ("mean", means.digest)
        assert content["cell"]["identity"]["model"]["ablation"] == "mean"
        assert content["cell"]["identity"].get("means") == (None if mask.is_dense else means.digest)
        lm = PrunedModel(mask=mask, means=means, device="cpu", dtype="float32")
        frame = evaluate(lm, None, [task], num_fewshot=2, limit=6, include_path=small_sweep.GRID["include_path"])
        assert content["results"][task]["acc,none"] == frame["acc"].iloc[0]


def test_means_are_of_the_documents_that_importance_is_of(finished):
    for path in (finished / "importance").glob("*-means.safetensors"):
        told = Means.load(path).settings
        scores = ImportanceScores.load(finished / "importance" / f"{told['task']}-2shot-heads-gradient.json").settings
        for name in ("doc_ids", "split", "prompts_sha256", "num_examples"):
            assert told[name] == scores[name]


def test_a_finished_sweep_computes_nothing_again_and_a_folder_has_one_ablation(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.parent.name != "claims"}
    run_sweep(small_sweep.settings(finished, **CHANGES), progress=False)
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.suffix in (".gz", ".safetensors")}
    assert all(before[path] == time for path, time in after.items())
    with pytest.raises(ArgumentError, match="ablation"):
        run_sweep(small_sweep.settings(finished, **{**CHANGES, "ablation": "zero"}), progress=False)
    for given in ("ablation=mean", "means=x.safetensors"):
        with pytest.raises(ArgumentError, match="give ablation=mean as a setting"):
            run_sweep(small_sweep.settings(finished, **CHANGES, model_args=given), progress=False)


def test_a_dry_run_counts_its_cells(finished):
    found = estimate_sweep(small_sweep.settings(finished, **CHANGES))
    assert sum(part.missing for part in found.cells) == 0
    assert sum(part.total for part in found.cells) == 8


@pytest.mark.parametrize("variant", ["opt", "gemma2, windows and caps", "gpt2"])
def test_gradient_importance_takes_the_mean_off_each_output(variant):
    """Against autograd in float64 at the maps' own inputs and outputs."""
    model = families.made(variant)
    decoder = decoder_of(model)
    layers, heads, width = decoder.num_hidden_layers, decoder.num_attention_heads, decoder.head_dim
    generator = torch.Generator().manual_seed(1)
    means = Means(
        heads=torch.randn(layers, heads, width, generator=generator),
        ffns=torch.randn(layers, model.config.hidden_size, generator=generator),
    )
    context, continuation = families.tokens(9), families.tokens(3, 1)
    ids = torch.tensor([[*context, *continuation]])
    exact, seen = families.made(variant).double(), {}
    places = decoder_of(exact)

    def kept(key, values):
        values.retain_grad()
        seen[key] = values

    for layer in range(layers):
        places.head_outputs[layer].register_forward_pre_hook(
            lambda module, args, layer=layer: kept(("head", layer), args[0])
        )
        places.ffn_outputs[layer].register_forward_hook(
            lambda module, args, output, layer=layer: kept(("ffn", layer), output)
        )
    logits = exact(ids[:, :-1]).logits[0, -3:]
    torch.nn.functional.cross_entropy(logits, ids[0, -3:]).backward()
    for layer in range(layers):
        divisor = 3 if layer == layers - 1 else ids.shape[1] - 1
        values, gradient = seen["head", layer].detach(), seen["head", layer].grad
        product = gradient * (values - means.heads[layer].flatten().double())
        expected = product.view(-1, heads, width).sum(-1).abs().sum(0) / divisor
        found = head_importance(model, [(context, continuation)], means=means)[layer].double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
        values, gradient = seen["ffn", layer].detach(), seen["ffn", layer].grad
        expected = (gradient * (values - means.ffns[layer].double())).sum(-1).abs().sum() / divisor
        found = ffn_gradient_importance(model, [(context, continuation)], means=means)[layer].double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
