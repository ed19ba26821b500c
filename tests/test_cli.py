"""The command as a user meets it: help, one clear line for bad input, exit codes."""

import json
import pickle
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import T5Config

from lm_eval_prune import PruningMask, __version__
from lm_eval_prune.cli.main import COMMANDS, cli
from lm_eval_prune.harness import diagnosis
from tests import processes


def command(*arguments, cwd):
    return processes.run("-m", *arguments, cwd=cwd)


def test_help_names_every_command():
    shown = " ".join(CliRunner().invoke(cli, ["--help"]).output.split())
    for name, line in COMMANDS.items():
        assert name in shown
        assert line in shown
    assert CliRunner().invoke(cli, ["--version"]).output == f"lm-eval-prune, version {__version__}\n"


def test_an_unknown_command_exits_with_2():
    found = CliRunner().invoke(cli, ["prune"])
    assert found.exit_code == 2
    assert "No such command 'prune'" in found.output


def test_doctor_says_what_is_wrong_and_how_to_mend_it(monkeypatch):
    monkeypatch.setattr(diagnosis, "_seen_by_the_harness", lambda: {"model_error": "ValueError: unknown", "tasks": []})
    found = CliRunner().invoke(cli, ["doctor"])
    assert found.exit_code == 1
    assert "Problem: the harness does not find pruned-hf (ValueError: unknown); reinstall" in found.output


@pytest.mark.slow
def test_doctor_finds_nothing_wrong_here():
    found = CliRunner().invoke(cli, ["doctor"])
    assert found.exit_code == 0, found.output
    assert "found, through the start-up hook" in found.output
    assert "icl14_5shot" in found.output
    assert found.output.endswith("No problem found.\n")


@pytest.mark.slow
def test_stock_lm_eval_and_our_run_give_the_same_results(checkpoint, mask, benchmarks_folder, tmp_path):
    mask.save(tmp_path / "mask.json")
    options = ["--model_args", f"pretrained={checkpoint},mask={tmp_path / 'mask.json'}", "--tasks", "copa"]
    options += ["--num_fewshot", "1", "--limit", "4", "--device", "cpu", "--batch_size", "2", "--log_samples"]
    stock = command(
        "lm_eval", "--model", "pruned-opt", *options, "--output_path", tmp_path / "a", cwd=benchmarks_folder
    )
    ours = command("lm_eval_prune", "run", *options, "--output_path", tmp_path / "b", cwd=benchmarks_folder)
    assert stock.returncode == 0, stock.stderr
    assert ours.returncode == 0, ours.stderr
    found = [
        json.loads(next((tmp_path / name).rglob("results_*.json")).read_text(encoding="utf-8")) for name in ("a", "b")
    ]
    assert found[0]["results"] == found[1]["results"]
    assert found[0]["pruning"] == found[1]["pruning"]
    assert found[0]["pruning"]["heads_pruned"] == 6
    samples = [next((tmp_path / name).rglob("samples_*.jsonl")).read_text(encoding="utf-8") for name in ("a", "b")]
    assert samples[0] == samples[1]


@pytest.fixture(scope="module")
def bad(tmp_path_factory, checkpoint):
    """name -> (--model_args, the line they must give). More are in test_harness_model.py, without a process each."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "pickle.json").write_bytes(pickle.dumps({"a": 1}))
    T5Config().save_pretrained(folder / "t5")
    model = f"pretrained={checkpoint}"
    return {
        "absent mask": (f"{model},mask={folder}/absent.json", f"{folder}/absent.json: no such file"),
        "pickle": (f"{model},mask={folder}/pickle.json", "a pickle, which runs what is in it and is never loaded"),
        "no decoder": (f"pretrained={folder}/t5", "model type 't5' is not supported"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pickle", "no decoder"])
def test_bad_input_to_our_run_is_one_line_and_exit_code_2(bad, name, benchmarks_folder, tmp_path):
    arguments, line = bad[name]
    options = ["--model_args", arguments, "--tasks", "copa", "--device", "cpu", "--output_path", tmp_path / "out"]
    done = command("lm_eval_prune", "run", *options, cwd=benchmarks_folder)
    assert done.returncode == 2
    assert done.stderr.rstrip().splitlines()[-1].startswith("Error: ")
    assert line in done.stderr.rstrip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_bad_input_to_the_stock_command_ends_in_the_same_line(bad, benchmarks_folder, tmp_path):
    arguments, line = bad["absent mask"]
    options = ["--model_args", arguments, "--tasks", "copa", "--device", "cpu", "--output_path", tmp_path / "out"]
    done = command("lm_eval", "--model", "pruned-opt", *options, cwd=benchmarks_folder)
    assert done.returncode not in (0, 2)
    assert line in done.stderr.rstrip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_data_set_that_is_missing_is_one_line(checkpoint, tmp_path):
    arguments = ["--model_args", f"pretrained={checkpoint}", "--tasks", "piqa", "--limit", "1", "--device", "cpu"]
    done = command("lm_eval_prune", "run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.rstrip().splitlines()[-1].startswith("Error: a task's data set cannot be loaded: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_unknown_task_is_one_line(checkpoint, tmp_path):
    done = command(
        "lm_eval_prune", "run", "--model_args", f"pretrained={checkpoint}", "--tasks", "helloswag", cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.rstrip().splitlines()[-1] == "Error: Tasks not found: helloswag"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_one_cache_path_for_dense_and_two_masks(checkpoint, benchmarks_folder, tmp_path):
    """The documented trap: with the harness alone the later runs would be served the first one's answers."""
    masks = {"dense": None, "a": PruningMask.dense(3, 4).prune_layer(0), "b": PruningMask.dense(3, 4).prune_layer(1)}
    found = {}
    for number, (name, mask) in enumerate([*masks.items(), ("dense", None)]):
        arguments = f"pretrained={checkpoint}"
        if mask is not None:
            mask.save(tmp_path / f"{name}.json")
            arguments += f",mask={tmp_path / f'{name}.json'}"
        options = ["--model_args", arguments, "--tasks", "copa", "--device", "cpu", "--batch_size", "4"]
        options += ["--output_path", tmp_path / str(number), "--log_samples", "--cache_requests", "true"]
        options += ["--use_cache", tmp_path / "cache" / "answers"]
        done = command("lm_eval_prune", "run", *options, cwd=benchmarks_folder)
        assert done.returncode == 0, done.stderr
        samples = next((tmp_path / str(number)).rglob("samples_*.jsonl")).read_text(encoding="utf-8")
        answers = [json.loads(line)["resps"] for line in samples.splitlines()]
        assert found.setdefault(name, answers) == answers
    assert len({str(answers) for answers in found.values()}) == 3
    assert len(list(Path(tmp_path / "cache").glob("*.db"))) == 1


@pytest.mark.slow
def test_the_script_for_random_models_writes_a_model_that_loads(tmp_path):
    (tmp_path / "text.txt").write_text("the river and the garden and the river\n" * 50)
    options = ["--size", "opt-125m", "--dtype", "float16", "--tokenizer_texts", tmp_path / "text.txt"]
    done = command("lm_eval_prune.random_opt", *options, "--output_path", tmp_path / "model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = (
        AutoConfig.from_pretrained(tmp_path / "model"),
        AutoTokenizer.from_pretrained(tmp_path / "model"),
    )
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (12, 12, 768)
    assert tokenizer.encode("the river")[0] == config.bos_token_id
    assert len(tokenizer.encode("the river")) < len("the river")
    assert tokenizer.decode(tokenizer.encode("Ünïcode 🙂"), skip_special_tokens=True) == "Ünïcode 🙂"
    again = command("lm_eval_prune.random_opt", *options, "--output_path", tmp_path / "model", cwd=tmp_path)
    assert again.returncode == 2
    assert "not empty; give a new folder" in again.stderr
