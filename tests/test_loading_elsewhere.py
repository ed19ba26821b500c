"""A compact checkpoint in programs that do not import this package: it loads, or a line says what to install."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from lm_eval_prune import compact, compact_checkpoint
from lm_eval_prune.decoders.compacted import compacted_config

LOADS = """
import sys
import transformers
{before}
for loader, trusted in {loads}:
    print(type(getattr(transformers, loader).from_pretrained(sys.argv[1], trust_remote_code=trusted)).__name__)
"""
TRUSTED = [("AutoModelForCausalLM", True)]
AWAY = """
class NotInstalled:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "lm_eval_prune":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled)
"""


def program(folder, tmp_path, *options, loads, before="", **environment):
    """A fresh interpreter that loads the folder; nobody answers its questions."""
    return subprocess.run(
        [sys.executable, *options, "-c", LOADS.format(loads=loads, before=before), str(folder)],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def small(checkpoint, mask, tmp_path):
    compact_checkpoint(checkpoint, mask, tmp_path / "small")
    return tmp_path / "small"


@pytest.mark.slow
def test_where_the_package_is_installed_nothing_need_be_imported_nor_trusted(small, tmp_path):
    loads = [("AutoModelForCausalLM", None), *TRUSTED, ("AutoModel", False), ("AutoTokenizer", None)]
    found = program(small, tmp_path, loads=loads)
    expected = ["PrunedOPTForCausalLM", "PrunedOPTForCausalLM", "PrunedOPTModel", "TokenizersBackend"]
    assert found.stdout.split() == expected, found.stderr
    assert not list((tmp_path / "modules").rglob("modeling_pruned_opt.py"))  # the installed classes, not the file's


@pytest.mark.slow
def test_without_the_start_up_hook_the_file_in_the_folder_is_enough(small, tmp_path):
    paths = os.pathsep.join([sysconfig.get_paths()["purelib"], str(Path(__file__).parents[1])])
    found = program(small, tmp_path, "-S", loads=TRUSTED, PYTHONPATH=paths)
    assert found.stdout.split() == ["PrunedOPTForCausalLM"], found.stderr


@pytest.mark.slow
def test_without_the_package_a_line_says_what_to_install(small, tmp_path):
    found = program(small, tmp_path, "-S", loads=TRUSTED, before=AWAY, PYTHONPATH=sysconfig.get_paths()["purelib"])
    assert found.returncode == 1
    assert "pip install lm_eval_prune" in found.stderr


def test_whoever_saves_it_writes_the_file(tiny_opt, mask, tmp_path):
    smaller = compact(tiny_opt, mask)
    smaller.save_pretrained(tmp_path)
    places = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    for cls, place in places.items():
        module, _, name = place.partition(".")
        namespace = {}
        exec((tmp_path / f"{module}.py").read_text(), namespace)
        assert name in namespace, cls
    assert type(smaller).__name__ == places["AutoModelForCausalLM"].partition(".")[2]


def test_trusting_it_once_makes_no_copy_of_our_modules(tiny_opt, mask, tmp_path):
    smaller = compact(tiny_opt, mask)
    type(smaller).register_for_auto_class("AutoModelForCausalLM")  # transformers does, with trust_remote_code=True
    type(smaller.config).register_for_auto_class()
    smaller.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("*.py")] == ["modeling_pruned_opt.py"]


@pytest.mark.parametrize("place", ["evil/repo--mod.Class", "mod.Class", ["a.B", None]])
def test_code_that_the_original_asks_to_be_run_is_not_carried_along(tiny_opt, mask, place):
    tiny_opt.config.auto_map = {"AutoConfig": place, "AutoModelForCausalLM": place}
    assert not hasattr(compacted_config(tiny_opt.config, mask), "auto_map")
