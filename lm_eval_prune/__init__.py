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
    from lm_eval_prune.ablation import masked
    from lm_eval_prune.compaction.checkpoint import compact_checkpoint
    from lm_eval_prune.compaction.memory import compact
    from lm_eval_prune.errors import PruneError
    from lm_eval_prune.importance.gradient import head_importance
    from lm_eval_prune.importance.knockout import ffn_importance
    from lm_eval_prune.induction import copying_scores, prefix_matching_scores
    from lm_eval_prune.masks import PruningMask
    from lm_eval_prune.version import __version__

__all__ = [
    "PruneError",
    "PruningMask",
    "__version__",
    "compact",
    "compact_checkpoint",
    "copying_scores",
    "ffn_importance",
    "head_importance",
    "masked",
    "prefix_matching_scores",
]

_HOMES = {
    "__version__": "lm_eval_prune.version",
    "PruneError": "lm_eval_prune.errors",
    "PruningMask": "lm_eval_prune.masks",
    "compact": "lm_eval_prune.compaction.memory",
    "compact_checkpoint": "lm_eval_prune.compaction.checkpoint",
    "copying_scores": "lm_eval_prune.induction",
    "ffn_importance": "lm_eval_prune.importance.knockout",
    "head_importance": "lm_eval_prune.importance.gradient",
    "masked": "lm_eval_prune.ablation",
    "prefix_matching_scores": "lm_eval_prune.induction",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
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
