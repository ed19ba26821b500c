"""The harness's response cache, made safe: one cache file holds each pruned model's answers apart.

`--use_cache` keys an answer by the request's text alone, so a second mask with the same cache file would be served the
first one's answers. Each `pruned-opt` therefore reads and writes a table of its own inside the file, named by a hash
of everything that decides an answer. Answers are stored as JSON, so that reading a file runs no code from it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import align_module_device

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["model_fingerprint", "separate_answers"]


def separate_answers(cache_hook: Any, lm: PrunedModel) -> None:
    """Point the cache behind `cache_hook` (and the `CachingLM` that shares it) at this model's own table."""
    database = cache_hook.dbdict
    if database is None:
        return
    database.tablename = f"pruned_opt_{model_fingerprint(lm)[:32]}"
    database.encode, database.decode = json.dumps, _decoded
    database.conn.execute(f'CREATE TABLE IF NOT EXISTS "{database.tablename}" (key TEXT PRIMARY KEY, value BLOB)')
    database.conn.commit()


def model_fingerprint(lm: PrunedModel) -> str:
    """SHA-256 over what decides an answer: weights, mask, dtype, scorer, attention implementation, tokens, lengths."""
    mask = lm.mask.to_dict()
    del mask["provenance"]
    tokenizer = lm.tokenizer
    settings = {
        "mask": mask,
        "scorer": lm.scorer,
        "attention": lm.model.config._attn_implementation,
        "max_length": lm.max_length,
        "truncation": lm.truncation,
        "dtypes": [str(lm.softmax_dtype), str(lm.mixed_precision_dtype)],
        "prefix_token_id": lm.prefix_token_id,
        "add_bos_token": lm.add_bos_token,
        "tokenizer": getattr(getattr(tokenizer, "backend_tokenizer", None), "to_str", lambda: tokenizer.get_vocab())(),
        "think_end_token": lm.think_end_token,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    _add_weights(digest, lm.model)
    return digest.hexdigest()


def _add_weights(digest: Any, model: torch.nn.Module) -> None:
    """Names, shapes, dtypes and bytes of all weights, also of those that accelerate has offloaded."""
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        if not own:
            continue
        with align_module_device(module):
            for name in sorted(own):
                tensor = getattr(module, name).detach()
                digest.update(f"{path}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())


def _decoded(value: Any) -> Any:
    answer = json.loads(value)
    return tuple(answer) if isinstance(answer, list) else answer
