"""The start-up hook, seen from fresh interpreters: what a stock `lm_eval` finds, and what it costs."""

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from lm_eval_prune.harness import autoload, registration

SEES_US = """
from lm_eval.api.registry import model_registry
from lm_eval.tasks import TaskManager
import lm_eval.models
print("pruned-opt" in model_registry, "hf" in model_registry, "icl14_5shot" in TaskManager({arguments}).all_groups)
"""


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_a_fresh_interpreter_finds_model_and_tasks_and_keeps_the_harness_own():
    assert python(SEES_US.format(arguments="")).stdout.split() == ["True", "True", "True"]


def test_the_hook_is_switched_off_by_the_environment():
    found = python(SEES_US.format(arguments="include_defaults=False"), LM_EVAL_PRUNE_AUTOLOAD="0")
    assert found.stdout.split() == ["False", "True", "False"]


@pytest.mark.slow
def test_get_model_alone_is_enough():
    code = (
        "from lm_eval.api.registry import get_model; print(get_model('pruned-opt').__name__, get_model('hf').__name__)"
    )
    assert python(code).stdout.split() == ["PrunedOPT", "HFLM"]


def test_starting_python_imports_nothing_of_ours_nor_of_theirs():
    code = "import sys; print({'lm_eval_prune', 'lm_eval', 'torch', 'click'} & {m.split('.')[0] for m in sys.modules})"
    assert python(code).stdout.strip() == "set()"


def test_importing_the_harness_registry_imports_no_torch():
    code = "import sys, lm_eval.api.registry; print('torch' in sys.modules)"
    assert python(code).stdout.strip() == "False"


def test_a_broken_harness_fails_as_it_would_without_us(tmp_path):
    package = tmp_path / "lm_eval" / "api"
    package.mkdir(parents=True)
    (tmp_path / "lm_eval" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text("model_registry = None\n")
    found = python("import lm_eval.api.registry; print('imported')", PYTHONPATH=str(tmp_path))
    assert found.stdout.strip() == "imported"
    assert found.stderr == ""
    (package / "registry.py").write_text("raise RuntimeError('theirs')\n")
    assert "RuntimeError: theirs" in python("import lm_eval.api.registry", PYTHONPATH=str(tmp_path)).stderr


def test_a_harness_that_discovers_entry_points_is_left_alone():
    registered = []
    registry = ModuleType("registry")
    registry.load_plugins = lambda *_: []
    registry.model_registry = SimpleNamespace(register=lambda *names, **_: registered.append(names))
    registration.register_model(registry)
    assert registered == []


def test_the_task_manager_keeps_its_own_arguments(tmp_path):
    from lm_eval.tasks import TaskManager

    registration.register()
    (tmp_path / "mine.yaml").write_text("task: mine\ndataset_path: x\noutput_type: multiple_choice\n")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    assert manager.all_tasks == ["mine"]
    assert manager.include_path == str(tmp_path)


def test_the_modules_watched_keep_their_own_loader():
    code = "import lm_eval.api.registry as r; print(type(r.__loader__).__name__, type(r.__spec__.loader).__name__)"
    assert python(code).stdout.split() == ["SourceFileLoader", "SourceFileLoader"]


def test_installing_twice_is_installing_once(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delenv("LM_EVAL_PRUNE_AUTOLOAD", raising=False)
    autoload.install()
    count = len(sys.meta_path)
    autoload.install()
    assert len(sys.meta_path) == count
