"""The training script: a few steps run, a stopped training goes on as if it had not, errors are one line."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_prune.demo import bundled_model_path
from lm_eval_prune.errors import ArgumentError, FileFormatError
from tests import processes
from training import generate_tasks, mixture, model_card
from training.recipe import Recipe, Stage, build_model
from training.train import STATE_FILE, save_checkpoint, train
from training.vocabulary import VOCABULARY

TINY = Recipe(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=16,
    max_position_embeddings=64,
    turn_step=3,
    stages=(
        Stage(first_step=0, shares={"recall": 1.0, "facts": 1.0}, lengths=(12,)),
        Stage(
            first_step=2,
            shares=dict.fromkeys(mixture.KINDS, 1.0),
            lengths=(16, 24),
            longest_every=3,
            longest_length=64,
            head_sparsity=1e-3,
        ),
    ),
)
STEPS = 5
ROOT = Path(__file__).parents[1]


def run_training(output_path, *options, module="train"):
    to = [] if output_path is None else ["--output_path", output_path]
    return processes.run("-m", f"training.{module}", *options, *to, cwd=ROOT)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.slow
def test_a_few_steps_write_a_checkpoint_that_loads(tmp_path):
    options = ("--steps", "2", "--batch_size", "2", "--no_evaluate", "--seed", "3")
    run = run_training(tmp_path, *options)
    assert run.returncode == 0, run.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == len(VOCABULARY)
    assert tokenizer("france capital").input_ids[0] == model.config.bos_token_id == 2
    assert "not measured" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "measurements.json").read_text())["settings"]["seed"] == 3
    again = run_training(tmp_path, *options)  # all steps are done: only writes the checkpoint anew
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("stops", [(1,), (2, 1), (4,)])
def test_a_stopped_training_ends_in_the_same_weights(tmp_path, stops):
    settings = {"steps": STEPS, "seed": 1, "batch_size": 4, "recipe": TINY}
    whole, progress = train(tmp_path / "whole", **settings)
    for limit in stops:
        train(tmp_path / "stopped", **settings, limit=limit)
    # What a kill in the middle of saving leaves behind.
    (tmp_path / "stopped" / STATE_FILE).with_suffix(".partial").write_bytes(b"half a file")
    resumed, resumed_progress = train(tmp_path / "stopped", **settings)
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.get_parameter(name)), name
    assert progress["losses"] == resumed_progress["losses"]
    assert progress["counts"] == resumed_progress["counts"]


def test_training_lowers_the_loss(tmp_path):
    stage = Stage(first_step=0, shares={"facts": 1.0}, lengths=(24,))
    recipe = dataclasses.replace(TINY, hidden_size=32, stages=(stage,), warmup_steps=5, learning_rate=5e-3)
    _, progress = train(tmp_path, steps=49, seed=1, batch_size=16, recipe=recipe)
    losses = progress["losses"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_seeds_make_different_models_and_leave_the_global_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = build_model(TINY, 1), build_model(TINY, 1), build_model(TINY, 2)
    assert torch.equal(torch.get_rng_state(), before)
    name = "model.decoder.layers.0.fc1.weight"
    assert torch.equal(one.get_parameter(name), same.get_parameter(name))
    assert not torch.equal(one.get_parameter(name), other.get_parameter(name))


def test_another_seed_does_not_go_on_with_a_stopped_training(tmp_path):
    train(tmp_path, steps=STEPS, seed=1, batch_size=2, limit=1, recipe=TINY)
    with pytest.raises(ArgumentError, match=r"another seed \(1, now 2\)"):
        train(tmp_path, steps=STEPS, seed=2, batch_size=2, recipe=TINY)


def test_a_damaged_state_is_named(tmp_path):
    (tmp_path / STATE_FILE).write_bytes(b"half a file")
    with pytest.raises(FileFormatError, match=STATE_FILE):
        train(tmp_path, steps=STEPS, seed=2, batch_size=2, recipe=TINY)


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        ("train", ["--device", "tricorder"], "--device tricorder"),
        ("train", ["--output_path", __file__], "file"),
        ("generate_tasks", ["--output_path", f"{__file__}/x"], "cannot be written"),
        ("model_card", ["."], "measurements.json"),
    ],
)
def test_errors_are_short_and_without_a_traceback(tmp_path, module, options, words):
    given = [] if module == "model_card" or "--output_path" in options else ["--output_path", str(tmp_path)]
    run = processes.run("-m", f"training.{module}", *options, *given, cwd=ROOT)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert words in last


def test_card_shows_what_was_measured(tmp_path):
    model, progress = train(tmp_path, steps=1, seed=1, batch_size=2, recipe=TINY)
    save_checkpoint(tmp_path, model, progress, device="cpu", evaluate=False)
    path = tmp_path / model_card.MEASUREMENTS_FILE
    measurements = json.loads(path.read_text())
    measurements["accuracy"] = {"0": {"recall": 0.25, "facts": 0.75}, "5": {"recall": 0.5, "facts": 1.0}}
    path.write_text(json.dumps(measurements))
    card = model_card.render(tmp_path)
    assert "| demo_recall | 0.250 | 0.250 | 0.500 |" in card
    assert "| **icl_demo** (mean) |  | 0.500 | 0.750 |" in card


def test_bundled_model_is_complete_and_small():
    folder = bundled_model_path()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000
    assert model.dtype == torch.float32
    assert not (folder / STATE_FILE).exists()
    assert model_card.render(folder) == (folder / model_card.CARD_FILE).read_text(encoding="utf-8")


def test_bundled_tokenizer_is_the_scripts():
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))] == list(VOCABULARY)
    assert tokenizer("kenya\nperu").input_ids == [2, *map(VOCABULARY.index, ("kenya", "\n", "peru"))]


def test_bundled_model_knows_facts_and_learns_in_context():
    """A glimpse of what the harness measures: greedy answers to a few documents, alone and behind five others."""
    model = AutoModelForCausalLM.from_pretrained(bundled_model_path()).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())

    def share_right(task, shots):
        data = generate_tasks.packaged_data_path()
        train_split, validation = (
            [json.loads(line) for line in (data / f"{task}.{split}.jsonl").read_text().splitlines()]
            for split in ("train", "validation")
        )
        right = 0
        for i, document in enumerate(validation[:48]):
            lines = [f"{d['text']} {d['choices'][d['answer']]}" for d in train_split[i * shots : (i + 1) * shots]]
            ids = tokenizer("\n".join([*lines, document["text"]]), return_tensors="pt").input_ids
            with torch.no_grad():
                scores = model(ids).logits[0, -1]
            choices = tokenizer.convert_tokens_to_ids(document["choices"])
            right += int(scores[choices].argmax()) == document["answer"]
        return right / 48

    assert share_right("facts", 0) >= 0.9
    assert share_right("recall", 0) <= 0.5
    assert share_right("recall", 5) >= 0.8
