"""`lm-eval-prune run` before anything is loaded: which model it takes, and what it refuses in one line."""

import argparse
import importlib.util
import subprocess

import lm_eval.evaluator
import pytest
from lm_eval._cli import HarnessCLI
from transformers import LlamaConfig

from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.harness.quiet import git_commit, git_without_errors
from lm_eval_prune.harness.run import run_harness


@pytest.fixture(autouse=True)
def _no_logging(monkeypatch):
    """The harness's handler would write to this test's captured stream ever after."""
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda *args, **kwargs: None)


@pytest.fixture
def executed(monkeypatch):
    """`executed(*arguments)` -> the options that the harness would be run with."""
    found = []
    monkeypatch.setattr(HarnessCLI, "execute", lambda self, options: found.append(options))

    def executed(*arguments):
        found.clear()
        run_harness([str(argument) for argument in arguments])
        (options,) = found
        assert isinstance(options, argparse.Namespace)
        return options

    return executed


@pytest.mark.parametrize(
    ("content", "words", "model"),
    [
        (None, ["--tasks", "piqa"], "pruned-opt"),
        ("tasks: [piqa]", [], "pruned-opt"),
        ("tasks: piqa\nmodel:\n", [], "pruned-opt"),
        ("tasks: [piqa]\nmodel_args: {mask: mask.json}", ["--limit", "2"], "pruned-opt"),
        ("tasks: [piqa]\nmodel: hf", [], None),  # the harness takes the file's
        ("tasks: [piqa]\nmodel: hf", ["--model", "pruned-opt"], "pruned-opt"),
        ("tasks: [piqa]", ["-M", "hf"], "hf"),
        (None, ["--tasks", "piqa", "--model=hf"], "hf"),
        (None, ["--tasks", "piqa", "--mod", "hf"], None),
    ],
)
@pytest.mark.parametrize("spelling", ["--config", "-C", "--config="])
def test_the_model_is_pruned_opt_unless_options_or_file_name_one(content, words, model, spelling, executed, tmp_path):
    if "--mod" in words:
        with pytest.raises(SystemExit):  # ambiguous, as to the harness: --model or --model_args
            executed(*words)
        return
    if content is not None:
        (tmp_path / "c.yaml").write_text(content)
        given = [f"{spelling}{tmp_path / 'c.yaml'}"] if spelling.endswith("=") else [spelling, tmp_path / "c.yaml"]
        words = [*given, *words]
    assert executed(*words).model == model


def test_another_family_is_pruned_hf(executed, checkpoint, tmp_path):
    LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8).save_pretrained(
        tmp_path
    )
    assert executed("--tasks", "piqa", "--model_args", f"pretrained={tmp_path}").model == "pruned-hf"
    assert executed("--tasks", "piqa", "--model_args", f"pretrained={checkpoint}").model == "pruned-opt"


def test_a_later_option_is_above_the_file(executed, tmp_path):
    (tmp_path / "c.yaml").write_text("tasks: []\nnum_fewshot: -1\ndevice: cuda:99")
    options = executed("--config", tmp_path / "c.yaml", "--tasks", "piqa", "-f", "0", "--device", "cpu")
    assert options.num_fewshot == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "no tasks: give --tasks, such as --tasks icl14_1shot"),
        (["--model_args", "pretrained=x"], "no tasks: give --tasks"),
        (["--tasks", "piqa", "--model_args", "pretrained=absent"], "pretrained=absent: no model configuration found"),
        (["--tasks", ""], "no tasks: give --tasks"),
        (["--tasks", ",", " "], "no tasks: give --tasks"),
        (["--config", "none.yaml"], "Config file not found: "),
        (["--config", "list.yaml"], "YAML root must be a mapping"),
        (["--config", "broken.yaml"], "Invalid YAML in broken.yaml"),
        (["--config", "empty.yaml"], "YAML root must be a mapping"),
        (["--config", "no-tasks.yaml"], "no tasks: give --tasks"),
        (["--tasks", "piqa", "--wandb_args", "project=x"], "--wandb_args needs the package wandb: pip install wandb"),
        (["--tasks", "piqa", "--trackio_args", "project=x"], "--trackio_args needs the package trackio: pip install"),
        (["--tasks", "piqa", "--include_path", "absent"], "include_path=absent: no such folder"),
        (["--tasks", "piqa", "--include_path", "list.yaml"], "include_path=list.yaml: no such folder"),
        (["--tasks", "piqa", "--device", "cuda:977"], "device=cuda:977: "),
        (["--tasks", "piqa", "--device", "nonsense"], "device=nonsense: unknown; expected cpu, cuda, cuda:0 or mps"),
        (["--tasks", "piqa", "--num_fewshot", "-1"], "num_fewshot=-1: expected a whole number from 0 on"),
        (["--tasks", "piqa", "--limit", "-3"], "limit=-3.0: expected a whole number of documents"),
        (["--tasks", "piqa", "--limit", "0"], "limit=0.0: expected a whole number of documents"),
        (["--tasks", "piqa", "--limit", "1e300"], "limit=1e+300: expected a whole number of documents"),
        (["--tasks", "piqa", "--limit", "2.5"], "limit=2.5: expected a whole number of documents"),
        (["--tasks", "piqa", "--limit", "nan"], "limit=nan: expected a whole number of documents"),
        (["--tasks", "piqa", "--model_args", "{'a': 1}"], "Invalid JSON: {'a': 1}"),
        (["--tasks", "piqa", "--output_path", "list.yaml/x"], "list.yaml/x: cannot be written"),
    ],
)
def test_what_cannot_be_run_is_one_line(words, line, executed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in ("wandb", "trackio") else real(name, *rest)
    )
    contents = {"list": "- a", "broken": "a: [", "empty": "", "no-tasks": "limit: 2"}
    for name, content in contents.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    with pytest.raises(PruneError) as error:
        executed(*words)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--log_samples"], "Specify --output_path if providing --log_samples"),
        (["--hf_hub_log_args", "nothing=x"], "unexpected keyword argument 'nothing'"),
        (["--fewshot_as_multiturn"], "`apply_chat_template` must be set"),
        (["--seed", "1", "--samples", '{"demo_facts": [0]}', "--limit", "2"], "then --limit must be None"),
        (["--tasks", "helloswag"], "Tasks not found: helloswag"),
    ],
)
def test_what_the_harness_refuses_is_one_line(words, line, monkeypatch, tmp_path):
    """Up to where it loads a model, which it does in none of these."""
    import lm_eval.tasks

    monkeypatch.setattr(lm_eval.tasks.TaskManager, "__init__", _few(lm_eval.tasks.TaskManager.__init__))
    with pytest.raises(ArgumentError) as error:
        run_harness(["--tasks", "demo_facts", *words])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def _few(original):
    """Without the harness's thousands of task files, which take seconds to read."""

    def init(self, *args, include_path=None, **kwargs):
        from lm_eval_prune.harness.registration import tasks_folder

        kwargs.pop("include_defaults", None)
        original(self, include_path=[str(tasks_folder())], include_defaults=False, **kwargs)

    return init


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("No module named 'vllm'", name="vllm"), True),
        (ImportError("trackio is not installed. Install it with `pip install trackio`"), True),
        (ImportError("cannot import name 'x' from 'nltk.y'", name="nltk.y"), True),
        (ImportError("cannot import name 'x' from 'lm_eval_prune.y'", name="lm_eval_prune.y"), False),
        (ModuleNotFoundError("No module named 'lm_eval.y'", name="lm_eval.y"), False),
    ],
)
def test_a_missing_package_is_one_line_and_a_broken_one_of_ours_a_traceback(error, told, monkeypatch):
    def execute(self, options):
        raise error

    monkeypatch.setattr(HarnessCLI, "execute", execute)
    with pytest.raises(ArgumentError if told else type(error)) as raised:
        run_harness(["--tasks", "piqa"])
    assert isinstance(raised.value, ArgumentError) == told
    assert str(error) in str(raised.value)


@pytest.mark.parametrize("place", ["no repository", "a repository", "no git"])
def test_git_is_asked_in_silence_and_says_what_the_harness_would_hear(place, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (
        (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "x"]) if place != "no repository" else ()
    ):
        subprocess.run(["git", *words], check=True)
    if place == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    capfd.readouterr()
    before = lm_eval.evaluator.get_git_commit_hash
    expected = before()
    capfd.readouterr()
    with git_without_errors():
        assert lm_eval.evaluator.get_git_commit_hash() == git_commit() == expected
    assert lm_eval.evaluator.get_git_commit_hash is before
    assert (expected is None) == (place == "no repository")
    assert capfd.readouterr() == ("", "")
