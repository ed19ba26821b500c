"""The tests have a home folder and caches of their own, and a run that touches the user's fails."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import huggingface_hub.constants
import lm_eval.caching.cache
import pytest
import transformers.utils.hub

from tests import isolation

IN_EFFECT = """
import os, pathlib, datasets.config, huggingface_hub.constants, lm_eval.caching.cache
print(datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE, lm_eval.caching.cache.PATH,
      pathlib.Path.home(), datasets.config.HF_MODULES_CACHE, sep="\\n")
"""


def own():
    return Path(os.environ[isolation.OWN])


def test_every_cache_in_effect_is_the_tests_own():
    places = [
        datasets.config.HF_DATASETS_CACHE,
        datasets.config.DOWNLOADED_DATASETS_PATH,
        datasets.config.HF_MODULES_CACHE,
        huggingface_hub.constants.HF_HUB_CACHE,
        huggingface_hub.constants.HF_XET_CACHE,
        transformers.utils.hub.HF_MODULES_CACHE,
        lm_eval.caching.cache.PATH,
        Path.home(),
    ]
    assert own().is_dir()
    for place in places:
        assert Path(place).is_relative_to(own()), place


def test_so_are_those_of_the_processes_that_tests_start(tmp_path):
    done = subprocess.run([sys.executable, "-c", IN_EFFECT], cwd=tmp_path, capture_output=True, text=True, check=True)
    places = done.stdout.split()
    assert len(places) == 5
    for place in places:
        assert Path(place).is_relative_to(own()), place


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("HF_HOME", "cache"),
        ("HF_DATASETS_CACHE", "cache"),
        ("XDG_CACHE_HOME", "cache/huggingface"),
        ("HOME", "cache/.cache/huggingface"),
        ("LM_HARNESS_CACHE_PATH", "cache"),
    ],
)
def test_what_a_test_writes_into_a_users_cache_is_seen(variable, place, tmp_path, monkeypatch):
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    folder = tmp_path / place / "datasets" / "arc_challenge"
    folder.mkdir(parents=True)
    (folder / "old.arrow").write_bytes(b"theirs")
    watch = isolation.Watch(isolation.caches())
    assert watch.changed() == []
    (folder / "old.arrow").write_bytes(b"made-up rows")
    (folder / "new.lock").touch()
    assert watch.changed() == [str(folder / "new.lock"), str(folder / "old.arrow")]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_that_touches_the_users_caches_fails(workers, tmp_path):
    """With a conftest that settles as ours does, and a test that finds its way to the user's cache all the same."""
    here = Path(__file__).parent
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "isolation.py").write_text((here / "isolation.py").read_text())
    conftest = (here / "conftest.py").read_text()
    head, hooks = (
        conftest.split("import pytest\n")[0],
        conftest.split("def pytest_sessionfinish")[1].split("@pytest")[0],
    )
    (tmp_path / "tests" / "conftest.py").write_text(f"{head}import pytest\n\n\ndef pytest_sessionfinish{hooks}")
    cache = tmp_path / "home" / ".cache" / "huggingface" / "datasets"
    cache.mkdir(parents=True)
    (tmp_path / "tests" / "test_it.py").write_text(
        "import os, pathlib\ndef test_it():\n"
        f"    assert pathlib.Path.home() != pathlib.Path({str(tmp_path / 'home')!r})\n"
        f"    if 'WRITES' in os.environ: open({str(cache / 'rows.arrow')!r}, 'w').close()\n"
    )
    found = {}
    for writes in ({}, {"WRITES": "1"}):
        kept = {
            key: value for key, value in os.environ.items() if key not in (isolation.OWN, "HF_HOME", "XDG_CACHE_HOME")
        }
        environment = {**kept, "HOME": str(tmp_path / "home"), **writes}
        command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "tests"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert "1 passed" in done.stdout, done.stdout + done.stderr
        found[bool(writes)] = done.returncode, "caches changed" in done.stdout and "rows.arrow" in done.stdout
    assert found == {False: (0, False), True: (1, True)}
