"""What lands in site-packages: from a wheel, from an sdist, and from an editable install."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = [
    "lm_eval_prune/cli/main.py",
    "lm_eval_prune/tasks/icl14/icl14_5shot.yaml",
    "lm_eval_prune/tasks/icl14/_icl14_tasks",
    "lm_eval_prune/tasks/icl14/corrections.py",
    "lm_eval_prune/tasks/demo/data/recall.validation.jsonl",
    "lm_eval_prune/demo/model/model.safetensors",
    "lm_eval_prune/demo/model/tokenizer.json",
    "lm_eval_prune/report/page/assets/page.html",
    "lm_eval_prune/report/page/assets/scripts/page.js",
    "lm_eval_prune/report/page/assets/styles/table.css",
    "lm_eval_prune/sweep/configs/bundled.yaml",
    "lm_eval_prune/sweep/configs/opt-66b.yaml",
    "lm_eval_prune/py.typed",
    "lm_eval_prune_startup.pth",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the tests run outside a checkout"),
]


def run(*arguments, cwd=None, **environment):
    done = subprocess.run(
        [str(a) for a in arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(sources, folder):
    """An sdist in `folder`, and a wheel built from it, as an index would hold them; with a date that is asked for."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, sources, SOURCE_DATE_EPOCH="1700000000")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built(ROOT, tmp_path_factory.mktemp("dist"))


def test_sdist_and_wheel_hold_everything(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert set(NEEDED) <= set(names)
    assert {name.split("/")[0].split(".")[0].split("-")[0] for name in names} == {
        "lm_eval_prune",
        "lm_eval_prune_startup",
    }
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        sources = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"packaging/backend.py", "tasks/icl14/icl14_0shot.yaml", "tests/test_packaging.py", "LICENSE"} <= sources


def test_the_same_sources_make_the_same_files_elsewhere_and_later(wheel, tmp_path):
    left = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=left, copy_function=shutil.copy)  # with dates of today
    again = built(copy, tmp_path / "dist")
    hashes = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in (wheel.parent, again.parent)
    ]
    assert [name.rpartition(".")[2] for name in sorted(hashes[0])] == ["whl", "gz"]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_installed_found_and_uninstalled_without_a_trace(kind, wheel, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    python = next((tmp_path / "env").glob("*/python"))
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    # The heavy dependencies come from this environment by path alone, so that only the new environment's hook runs.
    here = Path(run(sys.executable, "-c", "import lm_eval; print(lm_eval.__path__[0])").strip()).parent
    (site / "dependencies.pth").write_text(f"{here}\n")
    before = {path.name for path in site.iterdir()}
    what = [wheel] if kind == "wheel" else ["--editable", ROOT]
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-build-isolation", *what)
    code = (
        "from lm_eval.api.registry import get_model\n"
        "from lm_eval_prune.harness.registration import tasks_folder\n"
        "print(get_model('pruned-opt').__name__, (tasks_folder() / 'icl14' / 'icl14_1shot.yaml').exists())\n"
        "import importlib.util as u; print(u.find_spec('cli'), u.find_spec('tasks'))"
    )
    found = run(python, "-c", code, cwd=tmp_path)  # elsewhere: a checkout in the current folder would come first
    assert found.split() == ["PrunedOPT", "True", "None", "None"]
    assert "run" in run(python, "-m", "lm_eval_prune", "--help", cwd=tmp_path)
    run(sys.executable, "-m", "pip", "--python", python, "uninstall", "--yes", "lm-eval-prune")
    assert {path.name for path in site.iterdir()} == before
