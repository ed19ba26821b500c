"""What our commands import before anything else takes seconds: one library after the other, under a bar that counts."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lm_eval_prune.progress import Bar, take_over_bars_of_weights

LIBRARIES = {
    "torch": "torch",
    "datasets": "datasets",
    "transformers": "transformers.modeling_utils",
    "lm_eval": "lm_eval.models.huggingface",
}
"""Library -> that of its modules which takes the time, in the order in which they take one another along."""

PARTS = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}]"
"""No guess at the time that is left: one part says nothing of another."""


@contextmanager
def loading(*libraries: str, say: Callable[[str], None] = lambda line: None, shown: bool = True) -> Iterator[None]:
    """Import these LIBRARIES (all, if none is named), then what the body imports, as the last part of the bar.

    Without a terminal there is no bar, and `say` gets one line.
    """
    names = libraries or tuple(LIBRARIES)
    first = f"Loading {names[0]}: "
    bar = Bar(total=len(names) + 1, desc=first, bar_format=PARTS, leave=False, disable=not shown)
    with _without_collection(), bar:
        if bar.disable and shown:
            say(f"Loading {', '.join(names)}")
        for name in names:
            bar.set_description(f"Loading {name}")
            importlib.import_module(LIBRARIES[name])
            if name == "transformers":
                take_over_bars_of_weights()
            bar.update()
        bar.set_description("Loading lm_eval_prune")
        yield
        bar.update()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Inside, garbage is not looked for among the 400,000 objects that imports make, nor is it later: they all stay.

    It takes a quarter of the time that the imports take.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
