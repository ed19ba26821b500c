"""The `pruning` block of the harness's results: what was pruned, and what the numbers were computed with."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import lm_eval.evaluator
import torch
import transformers

from lm_eval_prune.decoders import flops_per_token, num_pruned_parameters, num_removed_parameters, removed_from
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.version import __version__

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["install_pruning_block", "pruning_block"]

PROBE = "The quick brown fox"
"""Encoded as every prompt is, to record whether a beginning-of-sequence token was prepended."""


def pruning_block(lm: PrunedModel, num_parameters: int) -> dict[str, Any]:
    """The block for a loaded model of `num_parameters` parameters; JSON values only.

    What compaction has removed counts as pruned, from the original model.
    """
    removed = removed_from(lm.config)
    mask = replace(lm.mask | removed, provenance=lm.mask.provenance)
    masked = num_pruned_parameters(lm.config, mask)
    probe_ids = lm.tok_encode(PROBE)
    return {
        "mask": mask.to_dict(),
        "heads_pruned": mask.num_pruned_heads,
        "heads_total": mask.num_heads,
        "ffns_pruned": mask.num_pruned_ffns,
        "ffns_total": mask.num_hidden_layers,
        "compacted": not removed.is_dense,
        "num_parameters_removed": masked + num_removed_parameters(lm.config),
        "num_parameters_left": num_parameters - masked,
        "flops_per_token": flops_per_token(lm.config, PruningMask.dense(*mask.shape)),
        "flops_per_token_left": flops_per_token(lm.config, mask),
        "scorer": lm.scorer,
        "dtype": str(next(lm.model.parameters()).dtype).removeprefix("torch."),
        "attn_implementation": lm.model.config._attn_implementation,
        "bos_prepended": bool(probe_ids) and probe_ids[0] == lm.tokenizer.bos_token_id,
        "probe": {"text": PROBE, "token_ids": probe_ids},
        "versions": {
            "lm_eval": version("lm_eval"),
            "lm_eval_prune": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def install_pruning_block() -> None:
    """Have the harness's results carry `pruning` at the top level.

    A model can add to `results["config"]` only (`get_model_info`); `simple_evaluate` calls `add_env_info(results)`
    right after that, and there the block moves up. Should a harness not call it, the block stays under `config`.
    """
    original = lm_eval.evaluator.add_env_info
    if hasattr(original, "lm_eval_prune"):
        return

    def add_env_info(storage: dict[str, Any]) -> None:
        original(storage)
        config = storage.get("config")
        if isinstance(config, dict) and "pruning" in config:
            storage["pruning"] = config.pop("pruning")

    add_env_info.lm_eval_prune = True  # type: ignore[attr-defined]
    lm_eval.evaluator.add_env_info = add_env_info
