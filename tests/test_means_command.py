"""`lm-eval-prune means` and `ablation=mean`, as a user meets them: files, refusals, results."""

import json

import pytest
import torch
from click.testing import CliRunner

from lm_eval_prune import Means, PrunedModel, PruningMask, masked
from lm_eval_prune.cli.main import cli
from lm_eval_prune.demo import bundled_model_path
from lm_eval_prune.errors import ArgumentError, MaskShapeError, PruneError
from lm_eval_prune.harness.fingerprint import loaded_fingerprint
from lm_eval_prune.harness.results import identity_block, pruning_block

TASK = ["--tasks", "demo_facts", "--num_fewshot", "1", "--limit", "5"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("means")
    found = CliRunner().invoke(cli, ["means", *TASK, "--output_path", str(folder)], catch_exceptions=False)
    assert found.exit_code == 0
    path = folder / "demo_facts-1shot-means.safetensors"
    assert found.stdout.split() == [str(path)]
    return path


@pytest.fixture(scope="module")
def lm(written):
    mask = PruningMask(num_hidden_layers=6, num_attention_heads=6, pruned_heads={1: (0, 2)}, pruned_ffns=(3,))
    return PrunedModel(mask=mask, means=written, device="cpu")


def test_a_finished_file_is_left_alone_and_one_of_another_question_is_refused(written):
    before = written.stat().st_mtime_ns
    again = CliRunner().invoke(cli, ["means", *TASK, "--output_path", str(written.parent)], catch_exceptions=False)
    assert again.stdout.strip() == f"{written} (there already)"
    assert written.stat().st_mtime_ns == before
    others = [(*TASK[:4], "--limit", "6"), (*TASK, "--seed", "7"), (*TASK, "--split", "validation")]
    for other in others:
        with pytest.raises(ArgumentError, match="--overwrite computes it again"):
            CliRunner().invoke(cli, ["means", *other, "-o", str(written.parent)], catch_exceptions=False)
    settings = Means.load(written).settings
    assert (settings["task"], settings["num_fewshot"], settings["num_examples"]) == ("demo_facts", 1, 5)
    assert settings["model"] == "lm-eval-prune/bundled"


def test_the_harness_model_computes_with_the_means(lm, written):
    means, ids = Means.load(written), torch.tensor([[5, 9, 11, 30, 8]])
    with masked(lm.model, lm.mask, means):
        expected = lm.model(ids).logits
    torch.testing.assert_close(lm._model_call(ids), expected)
    with masked(lm.model, lm.mask):
        assert not torch.allclose(lm.model(ids).logits, expected, atol=1e-3)


def test_results_say_which_means(lm, written):
    means = Means.load(written)
    block = pruning_block(lm, lm.model.num_parameters())
    assert block["ablation"] == "mean"
    assert block["means"]["sha256"] == means.digest
    assert (block["means"]["task"], block["means"]["num_fewshot"]) == ("demo_facts", 1)
    told = identity_block(lm, "")["arguments"]
    assert (told["ablation"], told["means"]) == ("mean", means.digest[:16])
    assert json.dumps(block)
    zero = PrunedModel(mask=lm.mask, device="cpu")
    assert "ablation" not in pruning_block(zero, 0)
    assert "means" not in identity_block(zero, "")["arguments"]


def test_cached_answers_of_other_means_are_others(lm, written):
    before, means = loaded_fingerprint(lm), lm.means
    try:
        found = {before}
        for other in (None, Means(heads=means.heads + 1, ffns=means.ffns), Means(heads=means.heads, ffns=-means.ffns)):
            lm.means = other
            found.add(loaded_fingerprint(lm))
        assert len(found) == 4
        lm.means = Means(heads=means.heads.clone(), ffns=means.ffns.clone(), settings={"task": "elsewhere"})
        assert loaded_fingerprint(lm) == before
    finally:
        lm.means = means


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ablation": "mean"}, "ablation=mean needs means=FILE"),
        ({"ablation": "median"}, "ablation=median: unknown; expected zero or mean"),
        ({"ablation": "zero", "means": "FILE"}, "ablation=zero and means=... exclude one another"),
    ],
)
def test_arguments_that_do_not_agree_are_refused(written, arguments, message):
    given = {name: str(written) if value == "FILE" else value for name, value in arguments.items()}
    with pytest.raises(ArgumentError, match=message):
        PrunedModel(device="cpu", **given)


def test_means_of_another_model_are_refused_before_weights_are_loaded(monkeypatch):
    monkeypatch.setattr(PrunedModel, "_create_model", lambda *args, **kwargs: pytest.fail("weights were loaded"))
    with pytest.raises(MaskShapeError, match="file of means"):
        PrunedModel(means=Means(heads=torch.zeros(2, 3, 4), ffns=torch.zeros(2, 12)), device="cpu")
    assert bundled_model_path().is_dir()


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--num_fewshot", "-1"], ["--tasks", "no_such_task"]])
def test_what_cannot_be_is_an_error_of_ours_and_leaves_nothing(arguments, tmp_path):
    found = CliRunner().invoke(cli, ["means", *TASK, *arguments, "--output_path", str(tmp_path / "new")])
    assert found.exit_code == 2 or isinstance(found.exception, PruneError)
    assert not (tmp_path / "new").exists()
