"""The start-up hook, seen from fresh interpreters: what a stock `lm_eval` finds, and what it costs."""

import importlib
import os
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
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


class _Manager:
    def __init__(self, *given):
        self.given = given


@pytest.mark.parametrize("name", ["load_plugins", "entry_points"])
def test_a_harness_that_discovers_tasks_is_left_alone_and_still_told_of_the_models(name):
    manager, original = ModuleType("manager"), _Manager.__init__
    manager.TaskManager = _Manager
    setattr(manager, name, lambda *_: [])
    registration.add_tasks(manager)
    assert _Manager.__init__ is original
    told = []
    registry = ModuleType("registry")
    parts = {"__contains__": lambda *_: False, "register": lambda _, *names, **__: told.extend(names)}
    registry.model_registry = type("Registry", (), parts)()
    registration.register_model(registry)
    assert sorted(told) == ["pruned-hf", "pruned-opt"]


def test_a_harness_that_discovers_models_alone_is_still_told_of_the_tasks():
    class Manager(_Manager):
        def __init__(self, *given):
            super().__init__(*given)

    manager, original = ModuleType("manager"), Manager.__init__
    manager.TaskManager = Manager
    registration.add_tasks(manager)
    assert Manager.__init__ is not original
    assert Manager(None, "mine").given[1] == [registration.tasks_folder(), "mine"]


def test_both_kinds_of_entry_points_are_declared_and_lead_somewhere():
    found = {group: entry_points(group=group) for group in ("lm_eval.models", "lm_eval.tasks")}
    models = {each.name: each.load().__name__ for each in found["lm_eval.models"] if "lm_eval_prune" in each.value}
    assert models == {"pruned-hf": "PrunedModel", "pruned-opt": "PrunedOPT"}
    (tasks,) = (each for each in found["lm_eval.tasks"] if "lm_eval_prune" in each.value)
    (folder,) = importlib.import_module(tasks.value).__path__
    assert registration.tasks_folder().samefile(folder)


def test_the_task_manager_keeps_its_own_arguments(tmp_path):
    from lm_eval.tasks import TaskManager

    registration.register()
    (tmp_path / "mine.yaml").write_text("task: mine\ndataset_path: x\noutput_type: multiple_choice\n")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    assert manager.all_tasks == ["mine"]
    assert manager.include_path == str(tmp_path)
    manager = TaskManager(None, str(tmp_path), False, {"size": 3})  # all of them by their places
    assert (manager.all_tasks, manager.metadata) == (["mine"], {"size": 3})


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


# -- whatever way the harness is looked for or imported -----------------------------------------------------------

FAKE = {
    "__init__.py": "",
    "api/__init__.py": "",
    "api/registry.py": """
        class Registry(dict):
            def register(self, name, target):
                assert name not in self, name
                self[name] = target
        model_registry = Registry()
    """,
    "models/__init__.py": """
        from lm_eval.api.registry import model_registry
        if "hf" not in model_registry: model_registry.register("hf", "x")
    """,
    "tasks/__init__.py": "",
    "tasks/manager.py": """
        class TaskManager:
            def __init__(self, verbosity=None, include_path=None, include_defaults=True, metadata=None):
                self.paths = include_path or []
    """,
    "evaluator.py": "import lm_eval.api.registry, lm_eval.tasks.manager, wave\n",
}
"""A harness of the real one's modules that imports in no time."""
CHECK = """
import lm_eval.api.registry as r, lm_eval.models, lm_eval.tasks.manager as m, colorsys
print(sorted(r.model_registry) == ['hf', 'pruned-hf', 'pruned-opt'], len(m.TaskManager().paths) == 1)
"""
WAYS = {
    "plainly": "import lm_eval.api.registry",
    "looked for first": """
        import importlib.util as u
        for name in ("lm_eval", "lm_eval.api.registry", "lm_eval.tasks.manager"): assert u.find_spec(name) is not None
    """,
    "looked for by pkgutil": """
        import pkgutil, lm_eval
        [finder.find_spec(name) for finder, name, _ in pkgutil.walk_packages(lm_eval.__path__, "lm_eval.")]
    """,
    "reloaded": """
        import importlib, lm_eval.api.registry as r, lm_eval.models, lm_eval.tasks.manager as m
        importlib.reload(m); importlib.reload(r); importlib.reload(lm_eval.models)
    """,
    "both imported anew": """
        import sys, lm_eval.evaluator
        for name in [name for name in sys.modules if name.startswith("lm_eval")]: del sys.modules[name]
    """,
    "the harness imported anew": """
        import sys, lm_eval.evaluator
        for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]: del sys.modules[name]
    """,
    "a submodule first": "import lm_eval.evaluator",
    "tasks first": "from lm_eval.tasks.manager import TaskManager",
    "as a module run": "import runpy; runpy.run_module('lm_eval.api.registry')",
    "as the main module": "import runpy; runpy.run_module('lm_eval.tasks.manager', run_name='__main__')",
    "past all finders": """
        import importlib.util as u, sys, lm_eval.api
        spec = u.spec_from_file_location("lm_eval.api.registry", lm_eval.api.__path__[0] + "/registry.py")
        module = u.module_from_spec(spec); sys.modules[spec.name] = module; spec.loader.exec_module(module)
        lm_eval.api.registry = module
    """,
    "by a finder before ours": """
        import importlib.machinery, sys
        class First:
            def find_spec(name, path=None, target=None):
                return importlib.machinery.PathFinder.find_spec(name, path) if name[:7] == "lm_eval" else None
        sys.meta_path.insert(0, First)
        import lm_eval.evaluator
    """,
    "with ours taken away on the way": """
        import sys, lm_eval
        sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "_AfterImport"]
    """,
    "with all of ours taken away, and our package imported": """
        import sys
        ours = ("LmEvalPruneStartup", "_AfterImport")
        sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", type(f).__name__) not in ours]
        import lm_eval.evaluator
        import lm_eval_prune
    """,
    "with a finder that raises": """
        import sys
        class Bad:
            def find_spec(self, *arguments): raise ImportError("theirs")
        sys.meta_path.append(Bad())
        import lm_eval.evaluator
    """,
    "with an old finder": """
        import sys
        class Old:
            def find_module(self, name, path=None): return None
            def find_spec(self, name, path=None, target=None): return None
        sys.meta_path.insert(0, Old())
        sys.meta_path.append(Old())
    """,
    "lazily": """
        import importlib.util as u, sys
        spec = u.find_spec("lm_eval.tasks.manager")
        spec.loader = u.LazyLoader(spec.loader)
        module = u.module_from_spec(spec); sys.modules[spec.name] = module; spec.loader.exec_module(module)
        module.TaskManager
    """,
    "in threads": """
        import sys, threading
        sys.setswitchinterval(1e-6); gate = threading.Barrier(6)
        def go(name):
            gate.wait(); __import__(name)
        names = ["lm_eval.api.registry", "lm_eval.models", "lm_eval.evaluator"] * 2
        threads = [threading.Thread(target=go, args=(name,)) for name in names]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
    """,
}


@pytest.fixture(scope="module")
def fake_harness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fake")
    for name, text in FAKE.items():
        path = folder / "lm_eval" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_the_model_and_the_tasks_are_there(way, fake_harness):
    found = python(textwrap.dedent(WAYS[way]) + CHECK, PYTHONPATH=str(fake_harness))
    assert found.stdout.split() == ["True", "True"], found.stderr
    assert found.stderr == ""


@pytest.mark.slow
def test_processes_that_are_spawned_have_them_too(fake_harness, tmp_path):
    (tmp_path / "main.py").write_text(
        "import multiprocessing as mp\n"
        f"def look(_):\n    exec({CHECK.replace('print(', 'found = (')!r}, globals()); return found\n"
        "if __name__ == '__main__':\n"
        "    for kind in ('spawn', 'forkserver'):\n"
        "        with mp.get_context(kind).Pool(1) as pool: print(*pool.map(look, [0])[0])\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py")],
        env={**os.environ, "PYTHONPATH": str(fake_harness)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["True"] * 4, done.stderr


def test_looking_the_harness_up_in_threads_never_raises(fake_harness):
    code = """
        import importlib.util, sys, threading
        sys.setswitchinterval(1e-6); keep = sys.meta_path[:]; errors = []
        for _ in range(40):
            for m in [m for m in sys.modules if m.startswith("lm_eval_prune")]: del sys.modules[m]
            sys.meta_path[:] = keep; gate = threading.Barrier(4)
            def ask(name):
                gate.wait()
                try: assert importlib.util.find_spec(name) is not None
                except BaseException as error: errors.append(error)
            names = ["lm_eval", "lm_eval.api.registry", "lm_eval", "lm_eval.tasks.manager"]
            threads = [threading.Thread(target=ask, args=(name,)) for name in names]
            [t.start() for t in threads]; [t.join() for t in threads]
        print(errors)
    """
    found = python(textwrap.dedent(code), PYTHONPATH=str(fake_harness))
    assert found.stdout.strip() == "[]", found.stderr


def test_a_spec_that_is_looked_up_answers_as_their_own(fake_harness):
    code = """
        import importlib.util, importlib.resources, inspect, pkgutil, copy
        spec = importlib.util.find_spec("lm_eval.tasks.manager")
        loader = copy.copy(spec.loader)
        print(loader.get_filename(spec.name) == spec.origin, "class TaskManager" in loader.get_source(spec.name),
              loader.get_code(spec.name) is not None, loader.is_package(spec.name), hasattr(loader, "nothing"))
        import lm_eval.tasks.manager as m
        print(type(m.__loader__).__name__, "TaskManager" in inspect.getsource(m))
    """
    found = python(textwrap.dedent(code), PYTHONPATH=str(fake_harness))
    assert found.stdout.split() == ["True", "True", "True", "False", "False", "SourceFileLoader", "True"], found.stderr
