"""The model card of a compacted checkpoint: what was removed, what is left, and how it does on tasks."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from lm_eval_prune.demo import BUNDLED_NAME
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import read_json
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.strict_json import validated
from lm_eval_prune.text import markdown_text

if TYPE_CHECKING:
    from lm_eval_prune.decoders.compacted_config import CompactedConfig
    from lm_eval_prune.decoders.stock import StockLayout

__all__ = ["model_card"]

HUB_ID = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
BEYOND_DECIMALS = 1e9
"""Larger numbers are written with an exponent."""
USE_AS_ORIGINAL = """## Use

As the original: `AutoModelForCausalLM.from_pretrained("path/to/this/folder")`, `lm_eval --model hf`, vLLM, converters.
Nothing need be installed beside them."""
USE_WITH_PACKAGE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer  # and: pip install lm-eval-prune

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

`lm_eval --model hf --model_args pretrained=path/to/this/folder` and `lm_eval --model pruned-hf ...` evaluate it."""


def model_card(
    config: CompactedConfig,
    num_before: int,
    num_left: int,
    results: Sequence[str | os.PathLike[str]] = (),
    *,
    zeroed: bool = False,
    stock: StockLayout | None = None,
) -> str:
    """The card in Markdown; names from files are text in it. `zeroed`: of a checkpoint with zeros, not a smaller one;
    `stock`: of a smaller one of the stock class.

    `results` are results files of the harness; of another mask they are refused. Raises FileFormatError, ArgumentError.
    """
    mask = config.removed
    name = config.original_model or "a model"
    shown, family = markdown_text(name), config.stock.model_type
    front = ["library_name: transformers", "pipeline_tag: text-generation", f"tags: [lm-eval-prune, pruning, {family}]"]
    if HUB_ID.fullmatch(name) and name != BUNDLED_NAME:
        front.append(f"base_model: {name}")
    sections = [
        "---\n" + "\n".join(front) + "\n---",
        f"# {shown}, {'with zeros' if zeroed else 'pruned'}",
        f"{shown} {_what(mask, zeroed, stock)} The outputs are those of the original model with the pruned components "
        + ("masked." if config.pruning_means is None else "at their mean outputs (mean ablation), as biases."),
        _parameters(mask, num_before, num_left, "in use" if zeroed else "after"),
        USE_AS_ORIGINAL if zeroed or stock else USE_WITH_PACKAGE,
        *([_evaluation(mask, results)] if results else []),
        _removed(config, mask, zeroed, stock),
    ]
    return "\n\n".join(sections) + "\n"


def _what(mask: PruningMask, zeroed: bool, stock: StockLayout | None) -> str:
    components = (
        f"{mask.num_pruned_heads} of its {mask.num_heads} attention heads and {mask.num_pruned_ffns} of its "
        f"{mask.num_hidden_layers} feed-forward networks (FFNs)"
    )
    if zeroed:
        return (
            f"with {components} set to zero: a plain checkpoint, of the original's size and speed, for programs "
            "that know no smaller layers."
        )
    if stock is not None:
        zeros = stock.zeros
        left = f"{zeros.num_pruned_heads} heads and {zeros.num_pruned_ffns} FFNs of these are there as zeros"
        return (
            f"without {components}: a plain checkpoint of the original's own class, of {len(stock.kept_layers)} layers "
            f"of {zeros.num_attention_heads} heads. {'All of it is gone' if zeros.is_dense else left}."
        )
    return f"without {components}. What was pruned is not in the weights."


def _parameters(mask: PruningMask, num_before: int, num_left: int, left_column: str) -> str:
    counts = {
        "parameters": (num_before, num_left),
        "attention heads": (mask.num_heads, mask.num_heads - mask.num_pruned_heads),
        "FFNs": (mask.num_hidden_layers, mask.num_hidden_layers - mask.num_pruned_ffns),
    }
    rows = [f"| {kind} | {before:,} | {left:,} | {left / before:.1%} |" for kind, (before, left) in counts.items()]
    return "\n".join([f"| | before | {left_column} | left |", "|---|---:|---:|---:|", *rows])


class _Results(BaseModel):
    """What the card takes from a results file of the harness."""

    model_config = ConfigDict(strict=True)

    results: dict[str, dict[str, Any]]
    shots: dict[str, Any] = Field({}, alias="n-shot")
    pruning: dict[str, Any] | None = None


def _evaluation(mask: PruningMask, results: Sequence[str | os.PathLike[str]]) -> str:
    lines = ["## Evaluation", "", "| task | shots | metric | value | standard error |", "|---|---:|---|---:|---:|"]
    for path in results:
        found = read_json(path, allow_nan=True, allow_halves=True)
        content = validated(_Results, found, f"{path}: no results of the harness")
        if content.pruning is not None:  # a compact model evaluated by the harness's own `hf` has no block
            _require_same_mask(content.pruning, mask, path)
        for task, row in content.results.items():
            lines += _rows(task, row, content.shots.get(task))
    return "\n".join(lines)


def _require_same_mask(block: Mapping[str, Any], mask: PruningMask, path: str | os.PathLike[str]) -> None:
    content = block.get("mask")
    if PruningMask.from_dict(content if isinstance(content, Mapping) else {}, f"{path}: pruning: mask") != mask:
        raise ArgumentError(f"{path}: results of another mask; give results of the mask that is compacted")


def _rows(task: str, row: Mapping[str, Any], shots: object) -> list[str]:
    lines = []
    for key, value in row.items():
        metric, _, chosen = key.partition(",")
        number = _decimal(value)
        if not number or metric.endswith("_stderr") or not chosen:
            continue
        cells = [task, "" if shots is None else shots, metric, number, _decimal(row.get(f"{metric}_stderr,{chosen}"))]
        lines.append("| " + " | ".join(map(markdown_text, cells)) + " |")
    return lines


def _decimal(value: object) -> str:
    """Four decimals of a number that is one; else nothing."""
    with suppress(OverflowError):
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return f"{value:.4f}" if abs(value) < BEYOND_DECIMALS else f"{value:.6g}"
    return ""


def _removed(config: CompactedConfig, mask: PruningMask, zeroed: bool, stock: StockLayout | None) -> str:
    content = mask.to_dict()
    # Neither the end of this block nor HTML comes out of a text in it.
    texts = {key: json.dumps(value).replace("<", "\\u003c").replace("`", "\\u0060") for key, value in content.items()}
    rows = ",\n".join(f"  {json.dumps(key)}: {text}" for key, text in texts.items())
    same = (
        "`zeroed_mask`" if zeroed else "`pruning_mask`; a further mask for this model is written in these numbers too"
    )
    if stock is not None:
        same = "`pruned_from`"
    return "\n".join(
        [
            f"## What was {'set to zero' if zeroed else 'removed'}",
            "",
            f"Layers and heads are counted from 0 as in the original model. The same is in `config.json`, as {same}.",
            "",
            "```json\n{\n" + rows + "\n}\n```",
            "",
            f"Heads left in each layer: {', '.join(map(str, config.layer_head_num or []))}.",
        ]
    )
