"""`fetch-model`: the checkpoint that is written is the package's model, and nothing else is taken for it."""

import importlib.util
import json
import os

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lm_eval_prune import packaged_models
from lm_eval_prune.errors import ArgumentError, FileFormatError
from lm_eval_prune.packaged_models import PACKAGED_MODELS, fetch_model

SMOLLM2 = PACKAGED_MODELS["smollm2-135m"]
REQUIRED = "LM_EVAL_PRUNE_REQUIRE_PACKAGED_MODELS"
"""Set by .ci/run: there a missing package is a failure and no skip."""


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """SmolLM2-135M as the command writes it; skips where its package is not installed, unless REQUIRED is set."""
    if importlib.util.find_spec(SMOLLM2.module) is None:
        message = f"{SMOLLM2.requirement} is not installed; see tests/README.md"
        if os.environ.get(REQUIRED):
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("packaged") / "smollm2-135m"
    assert fetch_model("smollm2-135m", folder) == 134_515_008
    return folder


@pytest.mark.packaged_model
def test_the_folder_loads_as_an_ordinary_checkpoint(smollm2):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    config = json.loads((smollm2 / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["num_hidden_layers"], config["num_attention_heads"], config["num_key_value_heads"]) == (30, 9, 3)
    # Written whether or not the hub could be reached: else the same model has two fingerprints.
    assert json.loads((smollm2 / "tokenizer_config.json").read_text())["local_files_only"] is True
    text = "The capital of France is Paris. The capital of Germany is Berlin. The capital of Italy is"
    ids = tokenizer(text, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(out[0, -1]) == " Rome"
    assert (smollm2 / "model.safetensors").stat().st_mode == (smollm2 / "config.json").stat().st_mode


@pytest.mark.packaged_model
@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["padded", "packed"])
def test_it_answers_as_under_the_harnesss_own_hf(smollm2, scorer, task_manager):
    """8 documents at 0 and at 5 shots: every log-likelihood to 1e-4."""
    from lm_eval import simple_evaluate

    def answers(model, arguments, shots):
        results = simple_evaluate(
            model=model,
            model_args=f"pretrained={smollm2},dtype=float32{arguments}",
            tasks=["demo_facts", "demo_labels"],
            num_fewshot=shots,
            limit=4,
            device="cpu",
            batch_size=4,
            task_manager=task_manager,
            log_samples=True,
        )
        samples = [sample for task in sorted(results["samples"]) for sample in results["samples"][task]]
        return [float(answer[0]) for sample in samples for answer in sample["filtered_resps"]]

    for shots in (0, 5):
        expected = answers("hf", "", shots)
        assert len(expected) >= 16
        assert answers("pruned-hf", f",scorer={scorer}", shots) == pytest.approx(expected, abs=1e-4)


@pytest.mark.packaged_model
def test_weights_are_scale_times_integer_plus_minimum(smollm2):
    """Q4_1 from its definition: a block of 32 values is a float16 scale and minimum, and 32 integers of 4 bits."""
    import gguf
    from safetensors import safe_open

    reader = gguf.GGUFReader(packaged_models._installed(SMOLLM2))
    stored = {tensor.name: tensor for tensor in reader.tensors}
    checked = 0
    with safe_open(smollm2 / "model.safetensors", framework="np") as written:
        for layer in (0, 29):
            tensor = stored[f"blk.{layer}.ffn_gate.weight"]
            assert tensor.tensor_type.name == "Q4_1"
            blocks = np.asarray(tensor.data, dtype=np.uint8).reshape(-1, 20)
            scale, minimum = (blocks[:, k : k + 2].copy().view("<f2").astype(np.float64) for k in (0, 2))
            integers = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
            expected = (scale * integers + minimum).reshape(1536, 576)
            found = written.get_tensor(f"model.layers.{layer}.mlp.gate_proj.weight")
            # One rounding to float32.
            np.testing.assert_allclose(found, expected, rtol=2**-23, atol=0)
            checked += found.size
    assert checked == 2 * 1536 * 576


@pytest.mark.packaged_model
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("12345", ["1", "2", "3", "4", "5"]),
        ("add  1 cup", ["add", "  ", "1", " cup"]),
        (" and ¼", [" and", " ", "¼"]),
        ("it's 3pm", ["it", "'s", " ", "3", "pm"]),
    ],
)
def test_text_is_split_as_smollm2_splits_it(smollm2, text, pieces):
    """Expected pieces are llama.cpp's for the same file."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    ids = tokenizer(text).input_ids
    assert [tokenizer.decode(ids[: n + 1])[len(tokenizer.decode(ids[:n])) :] for n in range(len(ids))] == pieces
    assert tokenizer.decode(ids) == text


def test_another_file_of_that_name_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "site" / SMOLLM2.module
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package is never run')\n")
    (package / SMOLLM2.file).write_bytes(b"GGUF" + bytes(100))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(FileFormatError, match=f"SHA-256 is [0-9a-f]{{64}}; expected {SMOLLM2.sha256}"):
        fetch_model("smollm2-135m", tmp_path / "out")
    (package / SMOLLM2.file).unlink()
    with pytest.raises(ArgumentError, match=f"has no {SMOLLM2.file}"):
        fetch_model("smollm2-135m", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("missing", ["gguf", SMOLLM2.module])
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(missing, tmp_path, monkeypatch):
    there = importlib.util.find_spec("json")
    monkeypatch.setattr(packaged_models, "find_spec", lambda name: None if name == missing else there)
    with pytest.raises(ArgumentError, match=f"the package {missing} is not installed: pip install "):
        fetch_model("smollm2-135m", tmp_path / "out")


def test_unknown_names_and_folders_that_are_not_empty_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="no packaged model 'smollm3'; there are: smollm2-135m"):
        fetch_model("smollm3", tmp_path / "out")
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ArgumentError, match="not empty; give a new folder"):
        fetch_model("smollm2-135m", tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_weight_that_differs_in_one_bit_changes_the_hash():
    weights = {"b": torch.ones(3, 2), "a": torch.zeros(2)}
    known = packaged_models.weights_sha256(weights)
    assert packaged_models.weights_sha256(dict(reversed(weights.items()))) == known
    changed = {**weights, "b": torch.nextafter(weights["b"], torch.tensor(2.0))}
    reshaped = {**weights, "b": weights["b"].reshape(2, 3)}
    assert len({known, *(packaged_models.weights_sha256(each) for each in (changed, reshaped))}) == 3


def test_the_command_says_what_it_takes():
    from lm_eval_prune.cli.main import cli

    told = CliRunner().invoke(cli, ["fetch-model", "--help"]).output
    assert "Downloads nothing" in told
    assert SMOLLM2.requirement in told
