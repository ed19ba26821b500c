"""The harness's own task files, indexed once a process: they are 14,000, and no test changes them."""

import functools
import pickle
from pathlib import Path

import lm_eval.tasks
from lm_eval.tasks._index import TaskIndex

from lm_eval_prune.harness.task_index import quick

STOCK = Path(lm_eval.tasks.__file__).parent


def install():
    """From now on `TaskManager` takes them from memory, each time as new objects; other folders are indexed as ever."""
    TaskIndex.build = staticmethod(functools.partial(_build, TaskIndex.build))


def _build(original, paths, **settings):
    paths = list(paths)
    if paths[:1] != [STOCK] or settings:
        return original(paths, **settings)
    return pickle.loads(known()) | original(paths[1:])


@functools.cache
def known():
    with quick():
        return pickle.dumps(_BUILD([STOCK]))


_BUILD = TaskIndex.build
