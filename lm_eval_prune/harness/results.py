"""What results say of their model: which one it is (the `identity` block), and what of it is gone (`pruning`)."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
import transformers
from lm_eval.models.huggingface import HFLM

from lm_eval_prune.decoders import removed_from
from lm_eval_prune.decoders.configuration import model_folder
from lm_eval_prune.decoders.skeleton import flops_per_token, num_pruned_parameters, num_removed_parameters
from lm_eval_prune.decoders.zeroed import zeroed_in
from lm_eval_prune.demo import BUNDLED_NAME, bundled_model_path
from lm_eval_prune.errors import PruneError
from lm_eval_prune.files import plain_json
from lm_eval_prune.harness.fingerprint import PROBE, object_digest, tokenizer_digest
from lm_eval_prune.identity import VERSION, files_fingerprint, files_of_arguments, hub_fingerprint
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.version import __version__

__all__ = ["identity_block", "name_of", "package_versions", "pruning_block", "with_identity"]


def pruning_block(lm: HFLM, num_parameters: int) -> dict[str, Any]:
    """The block for a loaded model of `num_parameters` parameters; JSON values only.

    What compaction has removed, or set to zero, counts as pruned, from the original model.
    """
    removed, zeroed = removed_from(lm.config), zeroed_in(lm.model)
    own = getattr(lm, "mask", removed)
    mask = replace(own | removed | zeroed, provenance=own.provenance or zeroed.provenance)
    masked = num_pruned_parameters(lm.config, mask)
    probe_ids = lm.tok_encode(PROBE)
    return {
        "mask": mask.to_dict(),
        **_means(lm),
        "heads_pruned": mask.num_pruned_heads,
        "heads_total": mask.num_heads,
        "ffns_pruned": mask.num_pruned_ffns,
        "ffns_total": mask.num_hidden_layers,
        "compacted": not removed.is_dense,
        "num_parameters_removed": masked + num_removed_parameters(lm.config),
        "num_parameters_left": num_parameters - masked,
        "flops_per_token": flops_per_token(lm.config, PruningMask.dense(*mask.shape)),
        "flops_per_token_left": flops_per_token(lm.config, mask),
        "scorer": getattr(lm, "scorer", "padded"),
        "dtype": str(next(lm.model.parameters()).dtype).removeprefix("torch."),
        "attn_implementation": lm.model.config._attn_implementation,
        "bos_prepended": _bos_prepended(lm, probe_ids),
        "probe": {"text": PROBE, "token_ids": probe_ids},
        "versions": package_versions(),
    }


def _means(lm: HFLM) -> dict[str, Any]:
    """Which means stand in the place of what is pruned, or did when the model was compacted."""
    means, folded = getattr(lm, "means", None), getattr(lm.config, "pruning_means", None)
    told = folded if means is None else {"sha256": means.digest, **means.settings}
    return {} if told is None else {"ablation": "mean", "means": told}


def package_versions() -> dict[str, str]:
    """Of what decides a number, by package."""
    return {
        "lm_eval": version("lm_eval"),
        "lm_eval_prune": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def name_of(lm: HFLM) -> str:
    """What files call a model: the hub id or folder that it was loaded from, or BUNDLED_NAME."""
    name = lm.pretrained if isinstance(lm.pretrained, str) else str(lm.config._name_or_path or type(lm.model).__name__)
    return BUNDLED_NAME if name == str(bundled_model_path()) else name


def with_identity(lm: HFLM, info: dict[str, Any]) -> dict[str, Any]:
    """The harness's `get_model_info`, with an `identity` block, and a `pruning` block where anything may be gone."""
    identity = identity_block(lm, info.get("model_sha") or "")
    known = {**info, "identity": identity}
    may_be_pruned = isinstance(getattr(lm, "mask", None) or getattr(lm.config, "removed", None), PruningMask)
    if not may_be_pruned and (not hasattr(lm.config, "zeroed_mask") or zeroed_in(lm.model).is_dense):
        return known
    block = pruning_block(lm, info["model_num_parameters"])
    return {**known, "model_num_parameters": block["num_parameters_left"], "pruning": block}


def identity_block(lm: HFLM, commit: str) -> dict[str, Any]:
    """Which model was asked, and how it takes a text: what `identity.py` tells runs apart by. JSON values only."""
    tokens = lm.tok_encode(PROBE)
    block: dict[str, Any] = {
        "version": VERSION,
        "model": name_of(lm),
        "backend": getattr(lm, "harness_name", "hf"),
        "weights": _weights(lm, commit),
        "dtype": str(next(lm.model.parameters()).dtype).removeprefix("torch."),
        "bos_prepended": _bos_prepended(lm, tokens),
        "probe": {"text": PROBE, "token_ids": tokens},
    }
    arguments = getattr(lm, "arguments", None)
    if arguments is not None:
        block["arguments"] = _said({**arguments, "load": lm.load, "scorer": lm.scorer, **_ablation(lm)})
    else:  # what a program's `HFLM(...)` was called with; where arguments are text, the harness has them
        block["loaded_with"] = _said({name: getattr(lm, place, None) for name, place in LOADED_WITH.items()})
    if files := files_of_arguments(arguments if arguments is not None else block["loaded_with"]):
        block["files"] = files
    return block


def _ablation(lm: HFLM) -> dict[str, str]:
    """What pruned heads and FFNs give, where that is not nothing; means by their hash, wherever their file lies."""
    means = getattr(lm, "means", None)
    return {} if means is None else {"ablation": "mean", "means": means.digest[:16]}


LOADED_WITH = {
    "revision": "revision", "peft": "peft", "delta": "delta", "truncation": "truncation", "max_length": "_max_length",
    "add_bos_token": "add_bos_token", "softmax_dtype": "softmax_dtype", "logits_cache": "logits_cache",
    "mixed_precision_dtype": "mixed_precision_dtype", "think_end_token": "think_end_token",
    "chat_template_args": "chat_template_args", "prefix_token_id": "custom_prefix_token_id",
}  # fmt: skip
"""Arguments of `hf`, and the attributes that hold them."""

_WEIGHTS: weakref.WeakKeyDictionary[HFLM, str] = weakref.WeakKeyDictionary()
"""Of models loaded from files: a sweep asks for each of its cells."""


def _weights(lm: HFLM, commit: str) -> str | None:
    """The fingerprint of the model's files; of a model that a program handed over, of what is in memory."""
    if not isinstance(lm.pretrained, str):
        return f"in memory {object_digest(lm.model, lm.tokenizer)}"
    if lm not in _WEIGHTS:
        arguments = getattr(lm, "arguments", {})
        try:
            folder = model_folder(lm.pretrained, arguments.get("revision") or getattr(lm, "revision", None))
            _WEIGHTS[lm] = files_fingerprint(folder, arguments.get("subfolder") or "")
        except (OSError, PruneError):
            return hub_fingerprint(lm.pretrained, commit) if commit else None
    return _WEIGHTS[lm]


def _said(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as JSON values; of a tokenizer that a program handed over, what it is."""
    told = {
        name: f"in memory {tokenizer_digest(value)[:16]}" if hasattr(value, "get_vocab") else value
        for name, value in arguments.items()
        if value is not None
    }
    return plain_json(told, str)


def _bos_prepended(lm: HFLM, tokens: Sequence[int]) -> bool:
    return bool(tokens) and tokens[0] == lm.tokenizer.bos_token_id
