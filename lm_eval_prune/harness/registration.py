"""What the harness is told of us: the models' names, and the folder of our tasks. Imports nothing heavy.

`autoload.py` calls these functions when the harness is imported; a program that has switched the hook off may call
`register()`.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from lm_eval_prune.model_names import ANY_FAMILY, ORIGINAL_FAMILY

__all__ = ["MODELS", "add_tasks", "register", "register_model", "tasks_folder"]

MODELS = {
    ANY_FAMILY: "lm_eval_prune.harness.model:PrunedModel",
    ORIGINAL_FAMILY: "lm_eval_prune.harness.model:PrunedOPT",
}

_ONE_AT_A_TIME = threading.Lock()
"""Held while nothing is imported: threads may import the harness at once."""


def register() -> None:
    """Make our models and our tasks known to the harness in this process; twice is once."""
    import lm_eval.api.registry
    import lm_eval.tasks.manager

    register_model(lm_eval.api.registry)
    add_tasks(lm_eval.tasks.manager)


def register_model(registry: ModuleType) -> None:
    """Enter the lazy names in `lm_eval.api.registry`, unless that harness discovers entry points itself."""
    if hasattr(registry, "load_plugins"):
        return
    # The harness fills its registry with its own models only while it is empty, so that comes first.
    import lm_eval.models  # noqa: F401

    with _ONE_AT_A_TIME:
        for name, target in MODELS.items():
            if name not in registry.model_registry:
                registry.model_registry.register(name, target=target)


def add_tasks(manager: ModuleType) -> None:
    """Let `lm_eval.tasks.manager.TaskManager` index our folder between its own tasks and the user's include_path.

    Unless that harness discovers the entry points `lm_eval.tasks` itself, which this package declares.
    """
    if any(hasattr(manager, name) for name in ("load_plugins", "entry_points")):
        return
    with _ONE_AT_A_TIME:
        if not hasattr(manager.TaskManager.__init__, "lm_eval_prune"):
            manager.TaskManager.__init__ = _indexing_ours(manager.TaskManager.__init__)


def _indexing_ours(original: Any) -> Any:
    @functools.wraps(original)
    def init(
        self: Any,
        verbosity: Any = None,
        include_path: Any = None,
        include_defaults: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        paths = list(include_path) if isinstance(include_path, list | tuple) else [include_path] if include_path else []
        ours = [tasks_folder()] if include_defaults else []
        original(self, verbosity, [*ours, *paths] or None, include_defaults, *args, **kwargs)
        self.include_path = include_path

    init.lm_eval_prune = True  # type: ignore[attr-defined]
    return init


def tasks_folder() -> Path:
    """The folder of our task definitions, wherever the package is installed."""
    spec = importlib.util.find_spec("lm_eval_prune.tasks")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("lm_eval_prune.tasks is not installed")
    return Path(next(iter(spec.submodule_search_locations)))
