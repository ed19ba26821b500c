"""The start-up hook: the stock `lm_eval` finds our models and our tasks with no flag.

Released harnesses (0.4.13) discover neither models nor tasks of other packages. The wheel therefore installs a `.pth`
line (startup.py) that calls `install()` when lm_eval is first imported, to act once the harness's registry and its task
manager have been imported. Neither lm_eval nor torch is imported here. `LM_EVAL_PRUNE_AUTOLOAD=0` switches it off.

Results say which model they are of, also those of the harness's own `hf` model: `recording.py`.

To be deleted: the model half once the oldest supported harness discovers the entry point group `lm_eval.models`, the
task half once it discovers `lm_eval.tasks`; this package declares both. Each stands back by itself where that is so.
"""

from __future__ import annotations

import os

from lm_eval_prune.after_import import watch

__all__ = ["install"]

_WATCHED = {
    "lm_eval.api.registry": "lm_eval_prune.harness.registration:register_model",
    "lm_eval.tasks.manager": "lm_eval_prune.harness.registration:add_tasks",
    "lm_eval.models.huggingface": "lm_eval_prune.harness.recording:record_hf",
    "lm_eval.evaluator": "lm_eval_prune.harness.recording:record_evaluator",
}


def install(looked_for: str = "") -> None:
    """Watch for the harness's modules, once, unless switched off; where one is imported already, act at once.

    `looked_for` is the module that is just being looked for.
    """
    if os.environ.get("LM_EVAL_PRUNE_AUTOLOAD") != "0":
        watch(_WATCHED, looked_for)
