"""Which attention heads and feed-forward networks (FFNs) does in-context learning need?

A plugin of EleutherAI's lm-evaluation-harness: `lm_eval --model pruned-opt`. Public names load on first use, so that
importing the package costs nothing (the start-up hook imports it with lm_eval). The harness learns of our models and
tasks, and transformers' Auto classes of compacted models, when they are imported.
"""

from __future__ import annotations

from lm_eval_prune.after_import import watch
from lm_eval_prune.harness.autoload import install

TYPE_CHECKING = False  # typing's own costs more to import than everything that runs at interpreter start

if TYPE_CHECKING:
    from lm_eval_prune import analysis
    from lm_eval_prune.ablation import masked
    from lm_eval_prune.compaction.checkpoint import compact_checkpoint
    from lm_eval_prune.compaction.memory import compact
    from lm_eval_prune.demo import bundled_model_path
    from lm_eval_prune.errors import PruneError
    from lm_eval_prune.harness.evaluation import evaluate
    from lm_eval_prune.harness.model import PrunedModel, PrunedOPT
    from lm_eval_prune.harness.scored import importance_scores
    from lm_eval_prune.importance.aggregate import aggregate_scores
    from lm_eval_prune.importance.files import ImportanceScores
    from lm_eval_prune.importance.gradient import head_importance
    from lm_eval_prune.importance.knockout import ffn_importance
    from lm_eval_prune.importance.mean_outputs import mean_outputs
    from lm_eval_prune.induction import copying_scores, prefix_matching_scores
    from lm_eval_prune.masks import PruningMask
    from lm_eval_prune.means import Means
    from lm_eval_prune.ranked_masks import random_mask
    from lm_eval_prune.report.frames import compare
    from lm_eval_prune.report.leaderboard import leaderboard
    from lm_eval_prune.scoring.scorer import score
    from lm_eval_prune.sweep.config import SweepConfig
    from lm_eval_prune.sweep.results import Sweep
    from lm_eval_prune.sweep.run import run_sweep
    from lm_eval_prune.version import __version__

__all__ = [
    "ImportanceScores",
    "Means",
    "PruneError",
    "PrunedModel",
    "PrunedOPT",
    "PruningMask",
    "Sweep",
    "SweepConfig",
    "__version__",
    "aggregate_scores",
    "analysis",
    "bundled_model_path",
    "compact",
    "compact_checkpoint",
    "compare",
    "copying_scores",
    "evaluate",
    "ffn_importance",
    "head_importance",
    "importance_scores",
    "leaderboard",
    "masked",
    "mean_outputs",
    "prefix_matching_scores",
    "random_mask",
    "run_sweep",
    "score",
]

_HOMES = {
    "ImportanceScores": "lm_eval_prune.importance.files",
    "Means": "lm_eval_prune.means",
    "PruneError": "lm_eval_prune.errors",
    "PrunedModel": "lm_eval_prune.harness.model",
    "PrunedOPT": "lm_eval_prune.harness.model",
    "PruningMask": "lm_eval_prune.masks",
    "Sweep": "lm_eval_prune.sweep.results",
    "SweepConfig": "lm_eval_prune.sweep.config",
    "__version__": "lm_eval_prune.version",
    "aggregate_scores": "lm_eval_prune.importance.aggregate",
    "analysis": "lm_eval_prune.analysis",
    "bundled_model_path": "lm_eval_prune.demo",
    "compact": "lm_eval_prune.compaction.memory",
    "compact_checkpoint": "lm_eval_prune.compaction.checkpoint",
    "compare": "lm_eval_prune.report.frames",
    "copying_scores": "lm_eval_prune.induction",
    "evaluate": "lm_eval_prune.harness.evaluation",
    "ffn_importance": "lm_eval_prune.importance.knockout",
    "head_importance": "lm_eval_prune.importance.gradient",
    "importance_scores": "lm_eval_prune.harness.scored",
    "leaderboard": "lm_eval_prune.report.leaderboard",
    "masked": "lm_eval_prune.ablation",
    "mean_outputs": "lm_eval_prune.importance.mean_outputs",
    "prefix_matching_scores": "lm_eval_prune.induction",
    "random_mask": "lm_eval_prune.ranked_masks",
    "run_sweep": "lm_eval_prune.sweep.run",
    "score": "lm_eval_prune.scoring.scorer",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_HOMES[name])
    value = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


watch(
    {
        "transformers.models.auto.configuration_auto": "lm_eval_prune.decoders.registration:register_configuration",
        "peft.utils.constants": "lm_eval_prune.decoders.registration:register_adapters",
    }
)
install()
