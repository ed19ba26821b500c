"""The harness's results JSON -> runs: values, what was pruned, costs and settings, as the file says them.

`schema.py` checks a file first. Names in it may be anything; what people read of them is made printable here
(`text.py`). A metric, a task or a file that cannot be is left out and named, the rest is shown.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.file_names import safe_name
from lm_eval_prune.files import digest
from lm_eval_prune.metric_names import metric_name
from lm_eval_prune.report.checks import listed
from lm_eval_prune.report.identities import identified
from lm_eval_prune.report.metrics import Metric, known_direction
from lm_eval_prune.report.runs import Chance, Cost, Dataset, Problem, Run, Value
from lm_eval_prune.report.schema import (
    TASK_NAMES,
    ChanceLevel,
    Config,
    Mask,
    PruningBlock,
    ResultsFile,
    TaskResult,
    fault_of,
)
from lm_eval_prune.text import printable
from lm_eval_prune.units import unit_field
from lm_eval_prune.variants import DENSE, Variant, file_name

__all__ = [
    "cost_of",
    "is_results",
    "mask_text",
    "results_file",
    "runs_of_results",
    "task_fields",
    "versions_of",
]

LONGEST_CLASS = 24
"""Characters of a majority class's name."""
NO_METRICS = {"name", "alias", "sample_len", "sample_count", "samples"}
"""Keys beside the metrics in a task's results."""
NO_NUMBERS = (None, "", " ", "N/A")
"""What the harness writes where a metric has no value, as groups have."""


def is_results(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is results of the harness: of 0.4, or of 0.3, which wrote no `configs`."""
    parts = [isinstance(content.get(name), dict) for name in ("results", "configs", "versions", "config")]
    return parts[0] and (parts[1] or all(parts[2:]))


def results_file(content: Mapping[str, Any], path: Path) -> ResultsFile:
    """The file's content, checked. Raises FileFormatError."""
    try:
        return ResultsFile.model_validate(content)
    except ValidationError as error:
        raise FileFormatError(f"{path}: {fault_of(error)}") from None


def runs_of_results(content: Mapping[str, Any], path: Path) -> tuple[list[Run], list[Problem]]:
    """The runs in a results JSON of the harness, one a task (groups are averages of tasks, and left out).

    A file with a `pruning` block says what was pruned; one without is a dense model's. Samples that the harness wrote
    beside the file are found by its date. What cannot be is a problem. Raises FileFormatError for the whole file.
    """
    file = results_file(content, path)
    config, pruning = file.config or Config(), file.pruning or PruningBlock()
    settings = content.get("config") or {}
    variant = variant_of_pruning(pruning)
    seen = _provenance(pruning).get("oracle_on") if variant != DENSE else None
    common: dict[str, Any] = {
        "source": path,
        "path": path,
        **identified(content, settings, content.get("pruning") or settings.get("pruning") or {}),
        "fewshot_seed": config.fewshot_seed,
        "limit": config.limit,
        "dtype": _dtype(pruning, config),
        "scorer": printable(pruning.scorer) if pruning.scorer else None,
        "lm_eval": _lm_eval(file, pruning),
        "date": file.date or 0.0,
        "cost": cost_of(file),
        "mask": mask_text(pruning.mask),
        "settings": settings,
        "versions": versions_of(file),
    }
    runs, faults = [], []
    for task in file.results:
        if task in (file.groups or {}):
            continue
        try:
            fields, left_out = task_fields(file, task)
        except FileFormatError as error:
            faults.append(str(error))
            continue
        faults += left_out
        if fields["values"]:
            oracle = variant._replace(oracle=isinstance(seen, list) and task in seen)
            runs.append(Run(**common, **fields, variant=oracle, samples=_samples_beside(path, task)))
    return runs, [Problem("results that cannot be", f"{path}: left out: {listed(faults)}")] if faults else []


def task_fields(file: ResultsFile, task: str) -> tuple[dict[str, Any], list[str]]:
    """(what a results JSON says of one task, as fields of a Run; the metrics that are left out, and why).

    Raises FileFormatError where what it says cannot be.
    """
    try:
        found = TaskResult.model_validate(file.task(task))
    except (ValidationError, KeyError) as error:
        fault = fault_of(error, TASK_NAMES) if isinstance(error, ValidationError) else "no results"
        raise FileFormatError(f"{printable(task)}: {fault}") from None
    values, faults = values_of(found)
    if values and file.configs and task not in file.configs and task not in (file.shots or {}):
        raise FileFormatError(f"{printable(task)}: neither configs nor n-shot has a task of this name")
    definition = found.definition
    fields = {
        "task": printable(task),
        "num_fewshot": found.num_fewshot,
        "values": values,
        "task_version": printable(str("unknown" if found.version is None else found.version)),
        "task_config": None,
        "unit_field": unit_field(task, definition and definition.metadata),
        "dataset": Dataset(
            path=(definition and definition.dataset_path) or "",
            name=(definition and definition.dataset_name) or "",
            split=(definition and (definition.test_split or definition.validation_split)) or "",
        ),
        "num_documents": found.num_documents,
        "chance": _chance(((file.pruning and file.pruning.chance) or {}).get(task, {})),
    }
    return fields, [f"{printable(task)}: {fault}" for fault in faults]


def _chance(levels: Mapping[str, ChanceLevel]) -> dict[str, Chance]:
    return {name: Chance(said.level, _chance_by(said)) for name, said in levels.items()}


def _chance_by(said: ChanceLevel) -> str:
    if said.by == "majority class":
        return f"majority class: {printable(said.majority or '?')[:LONGEST_CLASS]}"
    fewest, most = said.choices or (0, 0)
    return f"{fewest} choices" if fewest == most else f"{fewest} to {most} choices"


def values_of(found: TaskResult) -> tuple[dict[str, Value], list[str]]:
    """(metric -> value, the metrics that are left out and why).

    `acc,none` is `acc`; `exact_match,flexible-extract` keeps its filter in brackets. Harness 0.3 has no filters.
    """
    values, faults = {}, []
    for key, number in found.metrics.items():
        name, comma, filter_name = key.partition(",")
        if key in NO_METRICS or name.endswith("_stderr") or (not comma and isinstance(number, str)):
            continue
        if isinstance(number, str | None) and number in NO_NUMBERS:
            continue
        error = found.metrics.get(f"{name}_stderr{comma}{filter_name}")
        if error in NO_NUMBERS or (isinstance(error, float) and math.isnan(error)):
            error = None
        shown = metric_name(name, filter_name)
        try:
            metric = Metric(name=name, value=number, stderr=error)
        except ValidationError as fault:
            faults.append(f"{shown}: {fault_of(fault)}")
            continue
        better = found.direction(name)
        better = known_direction(name) if better is None else better
        values[shown] = Value(metric.value, metric.stderr, better is not False, better is not None)
    return values, faults


def cost_of(file: ResultsFile) -> Cost:
    """Counts from a `pruning` block; without one, a dense model's from the harness's `config`."""
    block = file.pruning
    if block is None:
        count = (file.config and file.config.model_num_parameters) or 0
        return Cost(parameters=count, parameters_total=count) if count > 0 else Cost()
    left, removed = block.num_parameters_left, block.num_parameters_removed
    return Cost(
        parameters=left,
        parameters_total=None if left is None or removed is None else left + removed,
        flops=block.flops_per_token_left,
        flops_total=block.flops_per_token,
        heads_pruned=block.heads_pruned,
        heads_total=block.heads_total,
        ffns_pruned=block.ffns_pruned,
        ffns_total=block.ffns_total,
    )


def variant_of_pruning(block: PruningBlock) -> Variant:
    """The variant that a `pruning` block describes: named as its mask's provenance says, else by the mask itself.

    The provenance's `ranking` is a name; without it the importance files' names are.
    """
    heads, ffns = block.heads_pruned or 0, block.ffns_pruned or 0
    if not heads and not ffns:
        return DENSE
    provenance = _provenance(block)
    order, seed = provenance.get("order", "least"), provenance.get("seed")
    named = [_file_name(provenance.get(key)) for key in ("head_importance", "ffn_importance", "mask_file")]
    ranking = provenance.get("ranking")
    if not isinstance(ranking, str) or not ranking:
        ranking = "+".join(dict.fromkeys(name for name in named if name)) or "mask " + _mask_digest(block.mask)
    if order == "random":
        ranking = "random"
    elif order == "most":
        ranking = f"most:{ranking}"
        if without := _file_name(provenance.get("without_importance")):
            ranking += f" without {without}"
    return Variant(
        printable(ranking),
        _share(provenance.get("prune_heads"), heads, block.heads_total),
        _share(provenance.get("prune_ffns"), ffns, block.ffns_total),
        seed=seed if order == "random" and type(seed) is int else None,
    )


def _provenance(block: PruningBlock) -> Mapping[str, Any]:
    return (block.mask and block.mask.provenance) or {}


def mask_text(mask: Mask | None) -> str:
    """A mask as text, such as `heads 0: 1, 3 | 2: 0-11; FFNs 5-7`."""
    if mask is None:
        return ""
    heads = " | ".join(f"{layer}: {_ranges(found)}" for layer, found in (mask.pruned_heads or {}).items())
    ffns = _ranges(mask.pruned_ffns or [])
    text = "; ".join([f"heads {heads}"] * bool(heads) + [f"FFNs {ffns}"] * bool(ffns))
    return sys.intern(printable(text))  # a large model's is long, and the same on many tasks


def _ranges(found: list[int]) -> str:
    """Numbers with neighbours joined, such as `0, 2-5`."""
    ranges: list[list[int]] = []
    for number in sorted(found):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)


def versions_of(file: ResultsFile) -> dict[str, str]:
    """Package -> version."""
    found = {"lm_eval": file.lm_eval_version, "transformers": file.transformers_version}
    found |= (file.pruning and file.pruning.versions) or {}
    return {printable(name): printable(version) for name, version in found.items() if version}


def _lm_eval(file: ResultsFile, pruning: PruningBlock) -> str | None:
    version = file.lm_eval_version or (pruning.versions or {}).get("lm_eval")
    return printable(version) if version else None


def _mask_digest(mask: Mask | None) -> str:
    mask = mask or Mask()
    return digest({"pruned_heads": mask.pruned_heads, "pruned_ffns": mask.pruned_ffns})[:8]


def _file_name(value: Any) -> str | None:
    """The name of an importance file in a mask's provenance, which is a path or an object with one."""
    if isinstance(value, Mapping):
        value = value.get("path") or value.get("file")
    return file_name(value) if isinstance(value, str) and value else None


def _share(wanted: Any, part: int, total: int | None) -> str:
    """The share that was asked for, or else the one that was pruned, as a short decimal."""
    if isinstance(wanted, str | int | float) and not isinstance(wanted, bool):
        with contextlib.suppress(ValueError, OverflowError):  # what somebody wrote into a mask by hand
            if 0 <= float(wanted) <= 1:
                return f"{float(wanted):.12g}"
    return f"{part / total:.4g}" if total else str(part)


def _dtype(pruning: PruningBlock, config: Config) -> str | None:
    found = pruning.dtype or config.model_dtype
    return printable(found.removeprefix("torch.")) if found else None


def _samples_beside(path: Path, task: str) -> Path | None:
    """The harness writes `samples_<task>_<date>.jsonl` beside `results_<date>.json`; ours are safe names of tasks."""
    date = path.stem.rpartition("_")[2]
    for name in (task, safe_name(task)):
        with contextlib.suppress(ValueError, OSError):  # a task's name need not be a file's
            found = path.with_name(f"samples_{name}_{date}.jsonl")
            if found.is_file():
                return found
    return None
