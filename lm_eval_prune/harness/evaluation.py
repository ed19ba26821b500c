"""`evaluate`: what a program gets of tasks under masks, as one table. The numbers are those of the commands."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tqdm import tqdm

from lm_eval_prune.errors import ArgumentError, ScoreError
from lm_eval_prune.file_names import numbered, safe_name, slug
from lm_eval_prune.files import json_line, require_writable, write_bytes, write_json
from lm_eval_prune.harness.cells import CellResult, TaskRun
from lm_eval_prune.harness.handed_over import ModelLike, harness_model
from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.harness.quiet import quiet_harness
from lm_eval_prune.harness.results import identity_block
from lm_eval_prune.harness.tasks import Seeds, members_of, task_metadata
from lm_eval_prune.limits import checked_limit
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.metric_names import metric_columns
from lm_eval_prune.selection import read_mask_file

if TYPE_CHECKING:
    import pandas as pd

MaskLike: TypeAlias = PruningMask | str | os.PathLike[str] | None
"""A mask, a mask file, or the model as it is."""

__all__ = ["MaskLike", "evaluate", "listed_shots", "listed_tasks"]

COLUMNS = (
    "mask", "task", "num_fewshot", "num_documents", "heads_pruned", "ffns_pruned", "num_parameters_left",
)  # fmt: skip
"""Of every table, before the metrics."""
BAR = "{l_bar}{bar}| {n:.0f}/{total} cells [{elapsed}<{remaining}]"
"""Shares of a cell move it."""


def evaluate(
    model_or_lm: ModelLike,
    masks: MaskLike | Sequence[MaskLike] | Mapping[str, MaskLike],
    tasks: str | Sequence[str],
    *,
    num_fewshot: int | Sequence[int | None] | None = None,
    limit: float | None = None,
    tokenizer: Any = None,
    model_args: str | Mapping[str, Any] | None = None,
    batch_size: int | str | None = None,
    device: str | None = None,
    seed: int = 1234,
    fewshot_seed: int = 1234,
    bootstrap_iters: int = 100_000,
    masks_at_once: int = 4,
    include_path: str | os.PathLike[str] | None = None,
    include_defaults: bool = True,
    metadata: Mapping[str, Any] | None = None,
    output_path: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """One row for each mask, task and number of shots: the numbers of `lm_eval --model pruned-hf`, all in one go.

    `model_or_lm` is a hub id, a checkpoint's folder, a transformers model or a harness model, which is left as it was;
    `tokenizer`, `model_args`, `batch_size` (8, if not said) and `device` are those of `harness_model`.
    `masks` is a mask, a sequence of masks, or name -> mask; a mask is a `PruningMask`, a mask file, or None, which is
    the model as it is. `tasks` are tasks, groups or tags of the harness; of groups the table has the tasks.
    `num_fewshot` is one or several; None is the task's own. `limit` is a number of documents, or a share below 1.
    `seed` is NumPy's and torch's. `masks_at_once` masks share the work below the first difference between them, and
    take memory for each. Without `include_defaults` tasks are looked for in `include_path` alone, which is quick.

    Columns: `mask` (its name), `task`, `num_fewshot`, `num_documents`, `heads_pruned`, `ffns_pruned`,
    `num_parameters_left`, and each metric with its standard error, such as `acc` and `acc_stderr`: nan where a task
    lacks it or it failed. With `output_path` the harness's results files are written there too, with every document's
    outcome: `compare` and `leaderboard` read them. Of several launched processes all but the first get no rows.
    Raises PruneError; ScoreError where a log-likelihood is not a number.
    """
    import pandas as pd

    shots, names = listed_shots(num_fewshot), listed_tasks(tasks)
    limit = checked_limit(limit)
    if masks_at_once < 1:
        raise ArgumentError(f"masks_at_once={masks_at_once}: expected at least 1")
    if output_path is not None:
        require_writable(Path(output_path))
    lm = harness_model(model_or_lm, tokenizer=tokenizer, model_args=model_args, batch_size=batch_size, device=device)
    named = _named(masks, lm)
    folders = dict(zip(named, numbered(map(slug, named)), strict=True))
    known: dict[str, Any] = {
        "include_path": None if include_path is None else os.fspath(include_path),
        "include_defaults": include_defaults,
        "metadata": task_metadata(model_args or {}, metadata),
    }
    settings: dict[str, Any] = {
        "limit": limit,
        "seeds": Seeds(numpy=seed, torch=seed, fewshot=fewshot_seed),
        "bootstrap_iters": bootstrap_iters,
    }
    with quiet_harness():
        members = [member for name in names for member in members_of(name, **known)]
    rows = []
    total, silent = len(members) * len(shots) * len(named), not progress or lm.rank > 0
    with tqdm(total=total, desc="Cells", unit="cell", disable=silent, bar_format=BAR) as bar:
        for member, number in itertools.product(members, shots):
            run = TaskRun(lm, member, num_fewshot=number, **settings, **known)
            for name, found in _results(run, named, masks_at_once, bar):
                rows.append(_row(name, found))
                if output_path is not None:
                    _write(found, Path(output_path, folders[name]), lm)
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)])))


def listed_tasks(tasks: str | Sequence[str]) -> list[str]:
    """Names of tasks, each once. Raises ArgumentError where there is none."""
    parts = tasks.split(",") if isinstance(tasks, str) else tasks
    if names := list(dict.fromkeys(str(part).strip() for part in parts if str(part).strip())):
        return names
    raise ArgumentError('no tasks; expected at least one, such as tasks="piqa"')


def listed_shots(num_fewshot: int | Sequence[int | None] | None) -> list[int | None]:
    """Numbers of shots, each once; None is the task's own. Raises ArgumentError."""
    given = [num_fewshot] if isinstance(num_fewshot, int | None) else list(num_fewshot)
    for number in given:
        if number is not None and (type(number) is not int or number < 0):
            raise ArgumentError(f"num_fewshot={json_line(number)}: expected a whole number from 0 on")
    if not given:
        raise ArgumentError("num_fewshot: expected at least one number of shots, or None for the task's own")
    return list(dict.fromkeys(given))


def _named(masks: MaskLike | Sequence[MaskLike] | Mapping[str, MaskLike], lm: PrunedModel) -> dict[str, PruningMask]:
    """Name -> mask, in order; masks without a name are called after their file, or by what they prune."""
    if isinstance(masks, Mapping):
        found = {str(name): _loaded(mask, lm) for name, mask in masks.items()}
        # The leaderboard calls a mask by its ranking.
        return {name: replace(mask, provenance={**mask.provenance, "ranking": name}) for name, mask in found.items()}
    several: list[Any] = list(masks) if isinstance(masks, list | tuple) else [masks]
    loaded = [_loaded(mask, lm) for mask in several]
    names: dict[str, PruningMask] = {}
    for given, mask in zip(several, loaded, strict=True):
        name = Path(given).stem if isinstance(given, str | os.PathLike) else _described(mask)
        number = sum(known == name or known.startswith(f"{name} (") for known in names)
        names[f"{name} ({number + 1})" if number else name] = mask
    return names


def _loaded(mask: MaskLike, lm: PrunedModel) -> PruningMask:
    if mask is None:
        return lm.mask
    if isinstance(mask, str | os.PathLike):
        mask = read_mask_file(mask, lm.mask.shape)
    if not isinstance(mask, PruningMask):
        raise ArgumentError(f"masks: a {type(mask).__name__}; expected a PruningMask, a mask file, or None")
    return mask


def _described(mask: PruningMask) -> str:
    if mask.is_dense:
        return "dense"
    parts = [(mask.num_pruned_heads, mask.num_heads, "heads"), (mask.num_pruned_ffns, mask.num_hidden_layers, "FFNs")]
    return " + ".join(f"{pruned} of {total} {what}" for pruned, total, what in parts if pruned)


def _results(
    run: TaskRun, named: Mapping[str, PruningMask], masks_at_once: int, bar: tqdm[Any]
) -> Iterator[tuple[str, CellResult]]:
    """(name, result) of each mask; nothing in all but the first of several launched processes. Raises ScoreError."""
    names, masks = list(named), list(named.values())
    for first in range(0, len(masks), masks_at_once):
        part = slice(first, first + masks_at_once)
        for name, found in zip(names[part], run.results(masks[part], bar.update), strict=True):
            if isinstance(found, ScoreError):
                raise ScoreError(f"{name}: {found}")
            if found is not None:
                yield name, found


def _row(name: str, found: CellResult) -> dict[str, Any]:
    (task,) = found.results["results"]
    block = found.results["pruning"]
    row = {
        "mask": name,
        "task": task,
        "num_fewshot": found.results["n-shot"][task],
        "num_documents": found.results["n-samples"][task]["effective"],
        **{key: block[key] for key in ("heads_pruned", "ffns_pruned", "num_parameters_left")},
    }
    return row | metric_columns(row, found.results["results"][task])


def _write(found: CellResult, folder: Path, lm: PrunedModel) -> None:
    """A results file of the harness's form and name in `folder`, and the outcomes beside it."""
    (task,) = found.results["results"]
    date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%S.%f")
    config = {**found.results["config"], "identity": identity_block(lm, found.results["config"].get("model_sha") or "")}
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in found.samples)
    write_bytes(folder / f"samples_{safe_name(task)}_{date}.jsonl", lines.encode(errors="backslashreplace"))
    write_json(folder / f"results_{date}.json", {**found.results, "config": config})
