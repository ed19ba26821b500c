"""The model card of a compacted checkpoint: what was removed, what is left, and how it does on tasks."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_prune.demo import BUNDLED_NAME
from lm_eval_prune.errors import ArgumentError, FileFormatError
from lm_eval_prune.files import json_line, read_json
from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    from lm_eval_prune.decoders.pruned_opt_config import PrunedOPTConfig

__all__ = ["model_card"]

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(
    config: PrunedOPTConfig, num_before: int, num_left: int, results: Sequence[str | os.PathLike[str]] = ()
) -> str:
    """The card in Markdown. `results` are results files of the harness; of another mask they are refused.

    Raises FileFormatError, ArgumentError.
    """
    mask = config.removed
    name = config.original_model or "an OPT"
    front = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [lm-eval-prune, pruning, opt]"]
    if HUB_ID.fullmatch(name) and name != BUNDLED_NAME:
        front.append(f"base_model: {name}")
    sections = [
        "---\n" + "\n".join(front) + "\n---",
        f"# {name}, pruned",
        f"{name} without {mask.num_pruned_heads} of its {mask.num_heads} attention heads and {mask.num_pruned_ffns} "
        f"of its {mask.num_hidden_layers} feed-forward networks (FFNs). What was pruned is not in the weights; the "
        "outputs are those of the original model with the pruned components masked.",
        _parameters(mask, num_before, num_left),
        _usage(),
        *([_evaluation(mask, results)] if results else []),
        _removed(config, mask),
    ]
    return "\n\n".join(sections) + "\n"


def _parameters(mask: PruningMask, num_before: int, num_left: int) -> str:
    counts = {
        "parameters": (num_before, num_left),
        "attention heads": (mask.num_heads, mask.num_heads - mask.num_pruned_heads),
        "FFNs": (mask.num_hidden_layers, mask.num_hidden_layers - mask.num_pruned_ffns),
    }
    rows = [f"| {kind} | {before:,} | {left:,} | {left / before:.1%} |" for kind, (before, left) in counts.items()]
    return "\n".join(["| | before | after | left |", "|---|---:|---:|---:|", *rows])


def _usage() -> str:
    return """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer  # and: pip install lm-eval-prune

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

`lm_eval --model hf --model_args pretrained=path/to/this/folder` and `lm_eval --model pruned-opt ...` evaluate it."""


def _evaluation(mask: PruningMask, results: Sequence[str | os.PathLike[str]]) -> str:
    lines = ["## Evaluation", "", "| task | shots | metric | value | standard error |", "|---|---:|---|---:|---:|"]
    for path in results:
        content = read_json(path)
        rows, shots = content.get("results"), content.get("n-shot", {})
        if not isinstance(rows, Mapping) or not isinstance(shots, Mapping):
            raise FileFormatError(f'{path}: no results of the harness: "results" is missing')
        _require_same_mask(content.get("pruning"), mask, path)
        for task, row in rows.items():
            if not isinstance(row, Mapping):
                raise FileFormatError(f"{path}: no results of the harness: {task} is {json_line(row)}")
            lines += _rows(task, row, shots.get(task))
    return "\n".join(lines)


def _require_same_mask(block: Any, mask: PruningMask, path: str | os.PathLike[str]) -> None:
    if not isinstance(block, Mapping):  # a compact model evaluated by the harness's own `hf` has no block
        return
    content = block.get("mask")
    if PruningMask.from_dict(content if isinstance(content, Mapping) else {}, f"{path}: pruning: mask") != mask:
        raise ArgumentError(f"{path}: results of another mask; give results of the mask that is compacted")


def _rows(task: str, row: Mapping[str, Any], shots: object) -> list[str]:
    lines = []
    for key, value in row.items():
        metric, _, chosen = key.partition(",")
        if not isinstance(value, int | float) or isinstance(value, bool) or metric.endswith("_stderr") or not chosen:
            continue
        error = row.get(f"{metric}_stderr,{chosen}")
        spread = f"{error:.4f}" if isinstance(error, int | float) else ""
        lines.append(f"| {task} | {'' if shots is None else shots} | {metric} | {value:.4f} | {spread} |")
    return lines


def _removed(config: PrunedOPTConfig, mask: PruningMask) -> str:
    content = mask.to_dict()
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    return "\n".join(
        [
            "## What was removed",
            "",
            "Layers and heads are counted from 0 as in the original model. The same is in `config.json`, as "
            "`pruning_mask`; a further mask for this model is written in these numbers too.",
            "",
            "```json\n{\n" + rows + "\n}\n```",
            "",
            f"Heads left in each layer: {', '.join(map(str, config.layer_head_num or []))}.",
        ]
    )
