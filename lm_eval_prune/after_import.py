"""Something of ours to run once another library's module has been imported, without importing that library ourselves.

A finder in front of `sys.meta_path` waits for the modules it watches, lets the other finders work, runs the function,
and steps aside. No failure leaves this module: a broken library breaks as it would without us.
"""

from __future__ import annotations

import sys

__all__ = ["watch"]


def watch(actions: dict[str, str]) -> None:
    """Call `actions[name]`, as "module:function", with module `name` once it is imported; at once where it has been.

    Twice is once.
    """
    if any(isinstance(finder, _AfterImport) and finder.actions == actions for finder in sys.meta_path):
        return
    finder = _AfterImport(actions)
    for name in [name for name in actions if name in sys.modules]:
        _run(finder.pending.pop(name), sys.modules[name])
    sys.meta_path.insert(0, finder)


class _AfterImport:
    """A meta-path finder that lets the other finders work and then runs one of our functions."""

    def __init__(self, actions: dict[str, str]) -> None:
        self.actions, self.pending = actions, dict(actions)

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
        _run(self.action, module)


def _run(action: str, module) -> None:  # type: ignore[no-untyped-def]
    home, _, function = action.partition(":")
    try:
        import importlib

        getattr(importlib.import_module(home), function)(module)
    except Exception:
        import logging

        logging.getLogger(__name__).debug("%s failed for %s", action, module.__name__, exc_info=True)
