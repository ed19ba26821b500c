"""The harness's results JSON -> runs: values, what was pruned, costs and settings, as the file says them.

Names in it may be anything; what people read of them is made printable here (`text.py`).
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval_prune.report.identities import identified
from lm_eval_prune.report.runs import Cost, Dataset, Run, Value
from lm_eval_prune.sweep.folder import DENSE, Variant, digest, file_name
from lm_eval_prune.text import printable

__all__ = [
    "cost_of",
    "mask_text",
    "metric_name",
    "runs_of_results",
    "task_fields",
    "versions_of",
]

NO_METRICS = {"name", "alias", "sample_len", "sample_count", "samples"}
"""Keys beside the metrics in a task's results."""


def runs_of_results(results: Mapping[str, Any], path: Path) -> list[Run]:
    """The runs in a results JSON of the harness, one a task (groups are averages of tasks, and left out).

    A file with a `pruning` block says what was pruned; one without is a dense model's. Samples that the harness wrote
    beside the file are found by its date.
    """
    config = results.get("config") or {}
    pruning = results.get("pruning") or config.get("pruning") or {}
    variant = variant_of_pruning(pruning)
    seen = _provenance(pruning).get("oracle_on") if variant != DENSE else None
    groups = set(results.get("groups") or {})
    tasks = [task for task in results["results"] if task not in groups]
    common: dict[str, Any] = {
        "source": path,
        "path": path,
        **identified(results, config, pruning),
        "fewshot_seed": config.get("fewshot_seed"),
        "limit": config.get("limit"),
        "dtype": _dtype(pruning, config),
        "scorer": pruning.get("scorer"),
        "lm_eval": results.get("lm_eval_version") or pruning.get("versions", {}).get("lm_eval"),
        "date": _number(results.get("date")) or 0.0,
        "cost": cost_of(pruning, config),
        "mask": mask_text(pruning),
        "settings": config,
        "versions": versions_of(results, pruning),
    }
    return [
        Run(
            **common,
            **task_fields(results, task),
            variant=variant._replace(oracle=isinstance(seen, list) and task in seen),
            samples=_samples_beside(path, task),
        )
        for task in tasks
        if values_of(results, task)
    ]


def task_fields(results: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What a results JSON says of one task, as fields of a Run."""
    counts = (results.get("n-samples") or {}).get(task) or {}
    definition = (results.get("configs") or {}).get(task) or {}
    shots = (results.get("n-shot") or {}).get(task, definition.get("num_fewshot"))
    own = results["results"][task]
    return {
        "task": printable(task),
        "num_fewshot": int(shots or 0),
        "values": values_of(results, task),
        "task_version": printable(str((results.get("versions") or {}).get(task, "unknown"))),
        "task_config": None,
        "dataset": Dataset(
            path=str(definition.get("dataset_path") or ""),
            name=str(definition.get("dataset_name") or ""),
            split=str(definition.get("test_split") or definition.get("validation_split") or ""),
        ),
        "num_documents": counts.get("effective") or own.get("sample_len") or own.get("samples"),
    }


def values_of(results: Mapping[str, Any], task: str) -> dict[str, Value]:
    """Metric -> value. `acc,none` is `acc`; `exact_match,flexible-extract` keeps its filter in brackets."""
    own: Mapping[str, Any] = results["results"][task]
    better = (results.get("higher_is_better") or {}).get(task) or {}
    values = {}
    for key, value in own.items():
        name, _, filter_name = key.partition(",")
        number = _number(value)
        if key in NO_METRICS or name.endswith("_stderr") or number is None:
            continue
        error = _number(own.get(f"{name}_stderr,{filter_name}"))
        values[metric_name(name, filter_name)] = Value(number, error, better.get(name) is not False)
    return values


def metric_name(name: str, filter_name: str) -> str:
    return printable(name if filter_name in ("", "none") else f"{name} ({filter_name})")


def cost_of(pruning: Mapping[str, Any], config: Mapping[str, Any]) -> Cost:
    """Counts from a `pruning` block; without one, a dense model's from the harness's `config`."""
    if not pruning:
        total = _number(config.get("model_num_parameters"))
        count = int(total) if total and total > 0 else None
        return Cost(parameters=count, parameters_total=count)
    left, removed = pruning.get("num_parameters_left"), pruning.get("num_parameters_removed")
    return Cost(
        parameters=left,
        parameters_total=None if left is None or removed is None else left + removed,
        flops=pruning.get("flops_per_token_left"),
        flops_total=pruning.get("flops_per_token"),
        **{key: pruning.get(key) for key in ("heads_pruned", "heads_total", "ffns_pruned", "ffns_total")},
    )


def variant_of_pruning(pruning: Mapping[str, Any]) -> Variant:
    """The variant that a `pruning` block describes: named as its mask's provenance says, else by the mask itself.

    The provenance's `ranking` is a name; without it the importance files' names are.
    """
    heads, ffns = pruning.get("heads_pruned") or 0, pruning.get("ffns_pruned") or 0
    if not heads and not ffns:
        return DENSE
    provenance = _provenance(pruning)
    order, seed = provenance.get("order", "least"), provenance.get("seed")
    named = [_file_name(provenance.get(key)) for key in ("head_importance", "ffn_importance", "mask_file")]
    ranking = provenance.get("ranking")
    if not isinstance(ranking, str) or not ranking:
        ranking = "+".join(dict.fromkeys(name for name in named if name)) or "mask " + _mask_digest(pruning)
    if order == "random":
        ranking = "random"
    elif order == "most":
        ranking = f"most:{ranking}"
    return Variant(
        printable(ranking),
        _share(provenance.get("prune_heads"), heads, pruning.get("heads_total")),
        _share(provenance.get("prune_ffns"), ffns, pruning.get("ffns_total")),
        seed=seed if order == "random" and type(seed) is int else None,
    )


def _provenance(pruning: Mapping[str, Any]) -> Mapping[str, Any]:
    return (pruning.get("mask") or {}).get("provenance") or {}


def mask_text(pruning: Mapping[str, Any]) -> str:
    """The mask of a `pruning` block as text, such as `heads 0: 1, 3 | 2: 0-11; FFNs 5-7`."""
    mask = pruning.get("mask") or {}
    heads = " | ".join(f"{layer}: {_ranges(found)}" for layer, found in (mask.get("pruned_heads") or {}).items())
    ffns = _ranges(mask.get("pruned_ffns") or ())
    text = "; ".join([f"heads {heads}"] * bool(heads) + [f"FFNs {ffns}"] * bool(ffns))
    return sys.intern(printable(text))  # a large model's is long, and the same on many tasks


def _ranges(found: Any) -> str:
    """Numbers with neighbours joined, such as `0, 2-5`; what is no list of numbers as it is."""
    if not isinstance(found, list | tuple) or not all(type(number) is int for number in found):
        return str(found)
    ranges: list[list[int]] = []
    for number in sorted(found):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)


def versions_of(results: Mapping[str, Any], pruning: Mapping[str, Any]) -> dict[str, str]:
    """Package -> version."""
    found = {"lm_eval": results.get("lm_eval_version"), "transformers": results.get("transformers_version")}
    found |= pruning.get("versions") or {}
    return {printable(name): printable(str(version)) for name, version in found.items() if version}


def _mask_digest(pruning: Mapping[str, Any]) -> str:
    mask = pruning.get("mask") or {}
    return digest({key: mask.get(key) for key in ("pruned_heads", "pruned_ffns")})[:8]


def _file_name(value: Any) -> str | None:
    """The name of an importance file in a mask's provenance, which is a path or an object with one."""
    if isinstance(value, Mapping):
        value = value.get("path") or value.get("file")
    return file_name(value) if isinstance(value, str) and value else None


def _share(wanted: Any, part: int, total: int | None) -> str:
    """The share that was asked for, or else the one that was pruned, as a short decimal."""
    if isinstance(wanted, str | int | float) and not isinstance(wanted, bool):
        with contextlib.suppress(ValueError):  # what somebody wrote into a mask by hand
            return f"{float(wanted):.12g}"
    return f"{part / total:.4g}" if total else str(part)


def _dtype(pruning: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    found = pruning.get("dtype") or config.get("model_dtype")
    return str(found).removeprefix("torch.") if found else None


def _samples_beside(path: Path, task: str) -> Path | None:
    """The harness writes `samples_<task>_<date>.jsonl` beside `results_<date>.json`."""
    date = path.stem.rpartition("_")[2]
    found = path.with_name(f"samples_{task}_{date}.jsonl")
    return found if found.is_file() else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
