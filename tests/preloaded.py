"""What the server of `processes.py` does before it forks: imports, a look at the machine, the harness's own tasks."""

import contextlib
import functools
import importlib

from torch.utils import collect_env

from tests import stock_index

MODULES = (
    "pytest", "lm_eval._cli", "lm_eval.evaluator", "lm_eval.models.huggingface", "lm_eval.loggers", "evaluate",
    "sklearn.metrics", "pandas", "transformers.models.opt.modeling_opt", "lm_eval_prune.cli.main",
    "lm_eval_prune.harness.run", "lm_eval_prune.harness.model", "lm_eval_prune.sweep.run", "lm_eval_prune.cli.sweep",
    "lm_eval_prune.report.leaderboard", "lm_eval_prune.compaction.checkpoint",
)  # fmt: skip

for name in MODULES:
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(name)
collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)
collect_env.get_pretty_env_info()
stock_index.install()
stock_index.known()
