"""What this environment is, and what a stock `lm_eval` started here sees of us: asked of a fresh interpreter."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any, NamedTuple

from lm_eval_prune.model_names import OURS

__all__ = ["Diagnosis", "diagnose"]

PACKAGES = ("lm-eval-prune", "lm_eval", "torch", "transformers", "accelerate", "datasets", "click")

_PROBE = """
import json
from lm_eval_prune.model_names import OURS
seen = {}
try:
    import lm_eval.api.registry as registry
    seen["discovers"] = hasattr(registry, "load_plugins")
    seen["models"] = [registry.get_model(name).__module__ for name in OURS]
except Exception as error:
    seen["model_error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
try:
    from lm_eval.tasks import TaskManager
    from lm_eval_prune.harness.registration import tasks_folder
    from lm_eval_prune.harness.task_index import quick
    with quick():
        index = TaskManager().task_index
    ours = [name for name, e in index.items() if e.yaml_path and e.yaml_path.is_relative_to(tasks_folder())]
    seen["tasks"] = sorted(ours)
except Exception as error:
    seen["tasks_error"] = f"{type(error).__name__}: {error}"
print("lm-eval-prune-probe " + json.dumps(seen))
"""


class Diagnosis(NamedTuple):
    facts: list[tuple[str, str]]
    """(name, value) lines to show."""
    problems: list[str]
    """What is wrong, each with what would mend it; empty when all is well."""


def diagnose() -> Diagnosis:
    """Look at versions, devices, the start-up hook, and at what the harness finds in a fresh interpreter."""
    facts = [("python", f"{platform.python_version()} ({sys.executable})"), ("system", platform.platform())]
    problems: list[str] = []
    for package in PACKAGES:
        try:
            facts.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            facts.append((package, "not installed"))
            problems.append(f"{package} is not installed: pip install lm-eval-prune")
    facts += [("devices", _devices()), ("start-up hook", _hook())]
    seen = _seen_by_the_harness()
    if "models" in seen:
        road = "the harness's entry points" if seen["discovers"] else "the start-up hook"
        facts.append((f"models {', '.join(OURS)}", f"found, through {road}"))
    else:
        facts.append((f"models {', '.join(OURS)}", "not found"))
        problems.append(f"the harness does not find pruned-hf ({seen.get('model_error', 'no answer')}); {_mend()}")
    tasks = seen.get("tasks", [])
    facts.append(("tasks", f"{len(tasks)} found: {', '.join(tasks)}" if tasks else "none found"))
    if not tasks:
        problems.append(f"the harness does not find our tasks ({seen.get('tasks_error', 'none listed')}); {_mend()}")
    return Diagnosis(facts, problems)


def _devices() -> str:
    try:
        import torch
    except ImportError:
        return "torch cannot be imported"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    mps = torch.backends.mps.is_available()
    return ", ".join(names) or ("mps" if mps else f"cpu only, {torch.get_num_threads()} threads")


def _hook() -> str:
    if os.environ.get("LM_EVAL_PRUNE_AUTOLOAD") == "0":
        return "installed, switched off by LM_EVAL_PRUNE_AUTOLOAD=0" if _hook_runs() else "not running"
    return "installed" if _hook_runs() else "not running"


def _hook_runs() -> bool:
    # As installed, not as left here by what has been imported since: a fresh interpreter is asked.
    code = "import sys; print(any(getattr(f, '__name__', '') == 'LmEvalPruneStartup' for f in sys.meta_path))"
    return _run(code).strip() == "True"


def _seen_by_the_harness() -> dict[str, Any]:
    for line in _run(_PROBE).splitlines():
        if line.startswith("lm-eval-prune-probe "):
            return json.loads(line.removeprefix("lm-eval-prune-probe "))
    return {}


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout


def _mend() -> str:
    if os.environ.get("LM_EVAL_PRUNE_AUTOLOAD") == "0":
        return "LM_EVAL_PRUNE_AUTOLOAD=0 switches the start-up hook off: unset it"
    return "reinstall with pip install --force-reinstall --no-deps lm-eval-prune, or use lm-eval-prune run"
