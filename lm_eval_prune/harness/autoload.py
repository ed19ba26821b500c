"""The start-up hook: the stock `lm_eval` finds `pruned-opt` and our tasks with no flag.

Released harnesses (0.4.13) discover neither models nor tasks of other packages. The wheel therefore installs a `.pth`
line (startup.py) that calls `install()` when lm_eval is first imported: a finder in front of `sys.meta_path`, acting
once the harness's registry and its task manager have been imported. Neither lm_eval nor torch is imported here, and no
failure leaves this module: a broken harness breaks as it would without us. `LM_EVAL_PRUNE_AUTOLOAD=0` switches it off.

To be deleted: the model half once the oldest supported harness discovers the entry point group `lm_eval.models` (the
main branch does, by `load_plugins`; the hook already stands back there), the task half once it discovers tasks too.
"""

from __future__ import annotations

import os
import sys

__all__ = ["install"]

_WATCHED = {"lm_eval.api.registry": "register_model", "lm_eval.tasks.manager": "add_tasks"}
"""Harness module -> the function of `registration.py` to call once it has been imported."""


class _AfterImport:
    """A meta-path finder that lets the other finders work and then runs one of our functions."""

    def __init__(self) -> None:
        self.pending = dict(_WATCHED)

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        action = self.pending.pop(name, None)  # popped first: the search below comes through here again
        if action is None:
            return None
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, action)  # type: ignore[assignment]
        return spec


class _Loader:
    """The module's own loader; after it has run the module, it steps aside."""

    def __init__(self, loader, action: str) -> None:  # type: ignore[no-untyped-def]
        self.loader, self.action = loader, action

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return self.loader.create_module(spec)

    def exec_module(self, module) -> None:  # type: ignore[no-untyped-def]
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        try:
            from lm_eval_prune.harness import registration

            getattr(registration, self.action)(module)
        except Exception:
            import logging

            logging.getLogger(__name__).debug("pruned-opt could not be registered", exc_info=True)


def install() -> None:
    """Watch for the harness's modules, once, unless switched off; where one is imported already, act at once."""
    if os.environ.get("LM_EVAL_PRUNE_AUTOLOAD") == "0":
        return
    if any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        return
    finder = _AfterImport()
    for name in [name for name in finder.pending if name in sys.modules]:
        from lm_eval_prune.harness import registration

        getattr(registration, finder.pending.pop(name))(sys.modules[name])
    sys.meta_path.insert(0, finder)
