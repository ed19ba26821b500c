"""What commands accept by a configuration alone is what `pruned-hf` accepts when it loads the checkpoint."""

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lm_eval_prune.cli.main import cli
from lm_eval_prune.decoders import tiny
from lm_eval_prune.decoders.configuration import read_configuration
from lm_eval_prune.errors import PruneError
from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.random_opt import small_tokenizer
from lm_eval_prune.sweep.setup import find_setup
from tests import families, small_sweep

LAYERS, HEADS = tiny.NUM_LAYERS, tiny.NUM_HEADS
NOT_CAUSAL, ENCODER = "it is not causal", "backend=causal in model_args loads its decoder alone"
REFUSED = {
    "bert": NOT_CAUSAL,
    "electra": NOT_CAUSAL,
    "roberta": NOT_CAUSAL,
    "bart": ENCODER,
    "marian": ENCODER,
    "mbart": ENCODER,
    "t5": "no causal language model",
    "mamba": "no attention found",
    "jamba": "layer 0 has no heads",
    "diffllama": "something mixes them",
    "beam": "more than attention and FFN",
}
"""As they come, which is not as `families` tries them: encoders as decoders."""
ACCEPTED = ("bert", "bloom", "gpt2", "llama", "mixtral", "phi3")
NOT_COMPACTED = {"bloom": "cannot be compacted", "mixtral": "compact the loaded model instead"}
"""Of those: `compact` says why."""


def saved(folder, model_type, **changes):
    """The folder of a small random model of the type, with the settings that are its default."""
    kind = CONFIG_MAPPING[model_type]
    config = tiny.shrunk(kind, {**kind().to_dict(), **changes})
    config.vocab_size = config.get_text_config().vocab_size
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    auto.from_config(config).save_pretrained(folder)
    small_tokenizer(vocab_size=300).save_pretrained(folder)
    return str(folder)


def told(function, *arguments, **named):
    """The error, of one line, or None."""
    said = None
    try:
        function(*arguments, **named)
    except PruneError as error:
        said = str(error)
    assert said is None or "\n" not in said
    return said


def by_commands(folder, tmp_path):
    """What each command that reads a model's configuration says of it."""
    mask = str(tmp_path / "mask.json")
    PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads={1: (2,)}).save(mask)
    model = ["--model_args", f"pretrained={folder}"]
    commands = {
        "plan": ["plan", folder],
        "mask": ["mask", "--random", "--prune_heads", "0.5", *model, "-o", str(tmp_path / "random.json")],
        "compact": ["compact", *model, "--mask", mask, "--output_path", str(tmp_path / "compact")],
    }
    said = {name: told(CliRunner().invoke, cli, words, catch_exceptions=False) for name, words in commands.items()}
    sweep = small_sweep.settings(tmp_path / "sweep", model_args=f"pretrained={folder}")
    return {**said, "sweep": told(find_setup, sweep, 1)}


def loaded(folder, **arguments):
    PrunedModel(pretrained=folder, device="cpu", dtype="float32", **arguments)


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_is_refused_when_it_is_loaded_is_refused_by_every_command(model_type, tmp_path):
    folder = saved(tmp_path / "model", model_type)
    said = told(loaded, folder)
    assert said.startswith(f"{folder}: ")
    assert REFUSED[model_type] in said
    assert by_commands(folder, tmp_path) == dict.fromkeys(("plan", "mask", "compact", "sweep"), said)
    assert told(read_configuration, folder) == said


@pytest.mark.parametrize("model_type", ACCEPTED)
def test_what_is_accepted_by_every_command_is_loaded(model_type, tmp_path):
    folder = saved(tmp_path / "model", model_type, **({"is_decoder": True} if model_type == "bert" else {}))
    assert told(loaded, folder) is None
    said = by_commands(folder, tmp_path)
    compaction = said.pop("compact")
    assert NOT_COMPACTED[model_type] in compaction if model_type in NOT_COMPACTED else compaction is None
    assert not any(said.values())


@pytest.mark.parametrize("model_type", ["bart", "marian", "mbart"])
def test_the_decoder_of_an_encoder_decoder_is_taken_where_it_is_asked_for(model_type, tmp_path):
    folder = saved(tmp_path / "model", model_type)
    assert told(loaded, folder, backend="causal") is None
    assert told(read_configuration, folder, backend="causal") is None
    sweep = small_sweep.settings(tmp_path / "sweep", model_args=f"pretrained={folder},backend=causal")
    assert told(find_setup, sweep, 1) is None
    assert told(loaded, folder, backend="seq2seq") == "backend=seq2seq: expected default or causal"


@pytest.mark.parametrize(
    "changes", [{"num_key_value_heads": 3}, {"hidden_act": "none"}, {"rope_parameters": {"rope_type": "none"}}]
)
def test_dimensions_that_make_no_model_are_refused_before_weights(changes, tmp_path):
    LlamaConfig(**{**families.GROUPED, **changes}).save_pretrained(tmp_path)
    said = told(read_configuration, str(tmp_path))
    assert "not supported" in said
    assert told(loaded, str(tmp_path)) == said
    assert told(CliRunner().invoke, cli, ["plan", str(tmp_path)], catch_exceptions=False) == said


def test_asking_leaves_the_global_random_state_alone(tmp_path):
    folder = saved(tmp_path, "phi3", hidden_act="relu")
    before = torch.random.get_rng_state()
    read_configuration(folder)
    assert torch.equal(torch.random.get_rng_state(), before)
