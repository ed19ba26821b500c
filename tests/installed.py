"""Environments with our wheel in them, made in seconds: what it depends on is found where the tests run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SCRIPT = """#!{python}
import sys
from importlib.metadata import entry_points
(found,) = entry_points(group="console_scripts", name="{name}")
sys.exit(found.load()())
"""


def run(*arguments, **settings):
    """What a command prints. Fails where it fails."""
    settings = {"capture_output": True, "text": True, "timeout": 900, "check": False, **settings}
    done = subprocess.run([str(argument) for argument in arguments], **settings)
    assert done.returncode == 0, f"{arguments}:\n{done.stdout}{done.stderr}"
    return done.stdout


def built_wheel(folder):
    """Our wheel, built from the checkout, as `pip wheel .` does."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, ROOT)
    return next(Path(folder).glob("*.whl"))


def environment(folder, wheel):
    """A new virtual environment with nothing in it but the wheel; returns its interpreter."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = Path(folder, "bin", "python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    return python


def site_packages(python):
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())


def with_all_dependencies(python, *scripts):
    """Everything that is installed where the tests run comes behind the environment's own, with these commands of it.

    By path alone: what `.pth` files there do, such as our own in an editable installation, does not happen.
    """
    here = Path(metadata.distribution("lm_eval").locate_file(""))
    (site_packages(python) / "dependencies.pth").write_text(f"{here}\n")
    for name in scripts:
        script = python.parent / name
        script.write_text(SCRIPT.format(python=python, name=name))
        script.chmod(0o755)


def with_only(python, names):
    """These distributions, and what they need, are linked into the environment; nothing else can be imported there."""
    site = site_packages(python)
    for distribution in _closure(names):
        for top in {Path(file).parts[0] for file in distribution.files or () if ".." not in Path(file).parts}:
            target = Path(distribution.locate_file(top))
            if target.exists() and top != "__pycache__" and not (site / top).exists():
                (site / top).symlink_to(target)


def _closure(names):
    found, todo = {}, list(names)
    while todo:
        name = todo.pop()
        if re.sub(r"[-_.]+", "-", name).lower() in found:
            continue
        distribution = metadata.distribution(name)
        found[re.sub(r"[-_.]+", "-", name).lower()] = distribution
        needed = map(Requirement, distribution.requires or ())
        todo += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found.values()


def variables(python, **more):
    """The environment variables of a person who has activated it, and has no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LM_EVAL_PRUNE"))}
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **offline, "PATH": path, "VIRTUAL_ENV": str(python.parents[1]), **more}
