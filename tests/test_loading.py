"""What a terminal shows before anything heavy is imported: a bar that counts the libraries, by name."""

import gc
import re
import sys

import pytest
from test_progress import on_a_terminal

from lm_eval_prune.cli.loading import LIBRARIES, loading

STOPS_AT_TORCH = """
import sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("<torch is imported now>", flush=True)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
sys.argv = ["lm-eval-prune", *{arguments}]
from lm_eval_prune.cli.main import main
main()
"""
COMMANDS = {
    "demo": [],
    "sweep": ["-t", "icl_demo", "-f", "0"],
    "importance": ["-t", "icl_demo"],
    "induction": [],
    "run": ["--tasks", "icl_demo"],
    "compact": ["--mask", "mask.json"],
    "plan": ["125m"],
    "families": [],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bar_stands_before_the_first_heavy_import(name, tmp_path):
    """The order of events, not seconds: the import of torch is the first thing that takes any."""
    arguments = [name, *COMMANDS[name]]
    if name not in ("run", "plan", "families"):
        arguments += ["--output_path", str(tmp_path / "out")]
    shown = on_a_terminal(STOPS_AT_TORCH.format(arguments=arguments))
    before, _, after = shown.partition("<torch is imported now>")
    assert re.search(r"[\r\n]Loading torch: +0%\|.*\| 0/\d \[00:00\]", before), shown
    assert "stopped; " in after
    assert not (tmp_path / "out").exists()


def test_the_bar_names_each_library_and_counts_it():
    """With libraries of no weight in the place of ours."""
    script = (
        "from lm_eval_prune.cli import loading as ours\n"
        "ours.LIBRARIES = {'one': 'wave', 'two': 'colorsys', 'three': 'sched'}\n"
        "import sys; assert 'sched' not in sys.modules\n"
        "with ours.loading():\n    print('then', [ours.LIBRARIES[n] in sys.modules for n in ours.LIBRARIES])\n"
    )
    shown = on_a_terminal(script)
    stages = re.findall(r"[\r\n]Loading (\w+): +(\d+)%\|.*?\| (\d)/4", shown)
    found = list(dict.fromkeys(stages))
    for stage in [("one", "0", "0"), ("two", "25", "1"), ("three", "50", "2"), ("lm_eval_prune", "75", "3")]:
        assert stage in found
    assert found == sorted(found, key=lambda stage: int(stage[1]))
    assert "then [True, True, True]" in shown


def test_elsewhere_it_is_one_line_for_those_who_want_it(capsys):
    said = []
    with loading(say=said.append):
        pass
    with loading("torch"):
        pass
    with loading(say=said.append, shown=False):
        pass
    assert said == ["Loading torch, datasets, transformers, lm_eval"]
    assert capsys.readouterr() == ("", "")
    assert all(module in sys.modules for module in LIBRARIES.values())


@pytest.mark.parametrize("was_on", [True, False])
def test_garbage_is_collected_afterwards_if_it_was_before(was_on):
    """While libraries are imported it is not: next to nothing of them is garbage."""
    before = gc.isenabled()
    try:
        (gc.enable if was_on else gc.disable)()
        with loading("torch"):
            assert not gc.isenabled()
        assert gc.isenabled() == was_on
        with pytest.raises(KeyboardInterrupt), loading("torch"):
            raise KeyboardInterrupt
        assert gc.isenabled() == was_on
    finally:
        (gc.enable if before else gc.disable)()


LOADS = """
from lm_eval_prune.harness.model import PrunedModel
PrunedModel(device="cpu")
print("<as a command of ours>", flush=True)
from huggingface_hub.utils import are_progress_bars_disabled
from lm_eval_prune.cli.loading import loading
with loading("torch", "transformers"): pass
import logging, sys
logging.basicConfig(stream=sys.stderr, format="logged: %(message)s", level=logging.INFO)
logging.getLogger("lm_eval").setLevel(logging.INFO)
print("<loads>", flush=True)
PrunedModel(device="cpu")
print("<bars of downloads:", not are_progress_bars_disabled(), flush=True)
"""


@pytest.mark.slow
def test_commands_say_that_the_model_is_loaded_and_transformers_does_not(monkeypatch):
    """Its own bar stayed as a line among ours; where the library is used, and under the harness, it is as it was."""
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    before, _, ours = on_a_terminal(LOADS).partition("<as a command of ours>")
    assert "Loading weights" in before
    assert "Loading the model" not in before
    assert "Loading the model [00:00]" in ours.partition("<loads>")[2]
    assert "Loading weights" not in ours
    logged = [line for line in ours.splitlines() if "logged: " in line and "Using device 'cpu'" in line]
    assert logged
    assert all(line.startswith(("logged: ", "\x1b")) for line in logged), "a line of its own"
    assert "<bars of downloads: True" in ours


@pytest.fixture
def outside_any_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def test_git_says_nothing_where_there_is_no_repository(outside_any_repository, capfd):
    """Its "fatal:" stood in the middle of the bars."""
    import lm_eval.evaluator

    from lm_eval_prune.harness.quiet import git_commit, git_without_errors

    assert git_commit() is None
    with git_without_errors():
        assert lm_eval.evaluator.get_git_commit_hash() is None
    assert capfd.readouterr() == ("", "")
    assert lm_eval.evaluator.get_git_commit_hash() is None
    assert "fatal" in capfd.readouterr().err, "the harness itself has become silent: ours can go"


def test_the_commit_is_the_harnesss_own_in_a_repository(outside_any_repository):
    import subprocess

    from lm_eval.loggers.utils import get_git_commit_hash

    from lm_eval_prune.harness.quiet import git_commit

    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert git_commit() == get_git_commit_hash() is not None
