"""Something of ours to run once another library's module has been imported, without importing that library ourselves.

A finder in front of `sys.meta_path` lets the other finders find the modules it watches, and has the function run when
one has been executed, each time: again after a reload. It keeps no record of its own and never steps aside, so that
threads, and who only looks a module up, take nothing from it. A module that came by another road, past the finder, is
caught up with when any other module is looked for. No failure leaves this module: a broken library breaks as it would
without us.
"""

from __future__ import annotations

import sys

__all__ = ["watch"]

DONE = "__lm_eval_prune_has_run__"
"""The attribute of a watched module that says so."""


def watch(actions: dict[str, str], looked_for: str = "") -> None:
    """Call `actions[name]`, as "module:function", with module `name` once it is imported; at once where it has been.

    Twice is once. `looked_for` is the module that is just being looked for, where that is why this is called.
    """
    finder = _AfterImport(dict(actions))
    there = [each for each in list(sys.meta_path) if type(each).__name__ == _AfterImport.__name__]
    if not any(getattr(each, "actions", None) == actions for each in there):
        sys.meta_path.insert(0, finder)
    finder.catch_up(looked_for)


class _AfterImport:
    """A meta-path finder that lets the other finders work, and one of our functions follow."""

    def __init__(self, actions: dict[str, str]) -> None:
        self.actions = actions

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        try:
            self.catch_up(name)
            if name not in self.actions:
                return None
            spec = _found_by_others(name, path, target)
            if spec is None or not hasattr(spec.loader, "exec_module"):
                return None
            spec.loader = _Loader(spec.loader, self.actions[name])
            return spec
        except Exception:  # another finder's, say, which the import system is about to ask itself
            return None

    def catch_up(self, looked_for: str) -> None:
        """Run the functions of modules that have been imported past this finder.

        Not while their library is being imported: a function may import a module of it, which would begin twice.
        """
        for name, action in self.actions.items():
            module = sys.modules.get(name)
            if type(module) is type(sys) and DONE not in module.__dict__ and not _is_at_work(name, looked_for):
                _run(action, module)


def _is_at_work(name: str, looked_for: str) -> bool:
    """Whether a module of the library of the module `name` is looked for, or being executed."""
    library = name.partition(".")[0]
    if looked_for.partition(".")[0] == library:
        return True
    if _is_executed(sys.modules.get(name)):  # told without a look at every module, thousands of times
        return True
    return any(_is_executed(module) for key, module in list(sys.modules.items()) if key.partition(".")[0] == library)


def _is_executed(module) -> bool:  # type: ignore[no-untyped-def]
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _found_by_others(name, path, target):  # type: ignore[no-untyped-def]
    """The spec that the import system would find without any finder of this kind."""
    for finder in list(sys.meta_path):
        if type(finder).__name__ == _AfterImport.__name__ or not hasattr(finder, "find_spec"):
            continue
        spec = finder.find_spec(name, path, target)
        if spec is not None:
            return spec
    return None


class _Loader:
    """The module's own loader in all it says and does, but that our function follows; then it steps aside."""

    def __init__(self, loader, action: str) -> None:  # type: ignore[no-untyped-def]
        self.loader, self.action = loader, action

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        if name == "loader":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.loader, name)

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        create = getattr(self.loader, "create_module", None)
        return create(spec) if create is not None else None

    def exec_module(self, module) -> None:  # type: ignore[no-untyped-def]
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        _run(self.action, module)


def _run(action: str, module) -> None:  # type: ignore[no-untyped-def]
    home, _, function = action.partition(":")
    try:
        module.__dict__[DONE] = True  # before: what runs imports modules, which are looked for through here
        import importlib

        getattr(importlib.import_module(home), function)(module)
    except Exception:  # whatever it is, the import goes on
        import logging

        logging.getLogger(__name__).debug("%s failed for %s", action, getattr(module, "__name__", ""), exc_info=True)
