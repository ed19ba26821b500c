"""A home folder and caches of the tests' own, and the proof that those of the user stay as they were.

`datasets` keys its cache by a data set's relative name: made-up rows of a test, cached where the user's rows are looked
for, would be evaluated for the real ones afterwards. So `conftest.py` calls `settle` before any library has read the
environment; subprocesses inherit it. `Watch` compares what lies in the user's caches before and after.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import site
import tempfile
from pathlib import Path

OWN = "LM_EVAL_PRUNE_TESTS_HOME"
"""The environment variable that says where the tests' own home folder is; set by the first process."""
REDIRECTED = (
    "HF_DATASETS_CACHE", "HF_DATASETS_DOWNLOADED_DATASETS_PATH", "HF_DATASETS_EXTRACTED_DATASETS_PATH",
    "HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE",
    "HF_ASSETS_CACHE", "HF_XET_CACHE", "TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE",
    "PYTORCH_PRETRAINED_BERT_CACHE", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR",
    "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "PYTHONPYCACHEPREFIX",
)  # fmt: skip
"""Variables that would lead past the home folder to a place of the user's; they are taken away."""


def settle() -> bool:
    """Give this process, and those that it starts, a home folder and caches of their own; True in the first process."""
    first = OWN not in os.environ
    if first:
        os.environ[OWN] = tempfile.mkdtemp(prefix="lm-eval-prune-tests-")
    own = Path(os.environ[OWN])
    # What is installed for the user alone is found through the home folder, and stays to be found.
    os.environ.setdefault("PYTHONUSERBASE", site.getuserbase())
    for name in REDIRECTED:
        os.environ.pop(name, None)
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(own)
    os.environ["XDG_CACHE_HOME"] = str(own / ".cache")
    os.environ["HF_HOME"] = str(own / ".cache" / "huggingface")
    # One cache of data sets for each of pytest-xdist's workers: each writes made-up rows of its own under one name.
    os.environ["HF_DATASETS_CACHE"] = str(own / "datasets" / os.environ.get("PYTEST_XDIST_WORKER", "main"))
    # The harness keeps prepared requests beside its own code unless it is told where.
    os.environ["LM_HARNESS_CACHE_PATH"] = str(own / "requests")
    return first


def remove_own_home() -> None:
    shutil.rmtree(os.environ.pop(OWN), ignore_errors=True)


def caches() -> list[Path]:
    """The places where, in the environment as it is now, our libraries keep what they have computed or fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    named = [os.environ[name] for name in (*REDIRECTED, "LM_HARNESS_CACHE_PATH") if os.environ.get(name)]
    harness = importlib.util.find_spec("lm_eval")
    beside = (
        [Path(place) / "caching" / ".cache" for place in (harness.submodule_search_locations or ())] if harness else []
    )
    places = [hub, cache / "torch", cache / "matplotlib", Path.home() / ".triton", *map(Path, named), *beside]
    return list(dict.fromkeys(places))


class Watch:
    """Which files lie in some places, with their sizes and times of change."""

    def __init__(self, places: list[Path]) -> None:
        self.places = places
        self.before = self._listing()

    def changed(self) -> list[str]:
        """The files that have come, gone or been written since, in order."""
        after = self._listing()
        return sorted(path for path in self.before.keys() | after.keys() if self.before.get(path) != after.get(path))

    def _listing(self) -> dict[str, tuple[int, int]]:
        found = {}
        for place in self.places:
            for folder, _, names in os.walk(place):
                found[folder] = (0, 0)
                for name in names:
                    path = os.path.join(folder, name)  # noqa: PTH118 - of tens of thousands of files
                    try:
                        seen = os.lstat(path)
                    except OSError:
                        continue
                    found[path] = (seen.st_size, seen.st_mtime_ns)
        return found
