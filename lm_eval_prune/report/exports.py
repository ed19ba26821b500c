"""Evaluations in the forms of others: metadata for model cards of the Hugging Face hub, and Every Eval Ever's schema.

One file a variant; numbers are those of the results files, unrounded.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.file_names import numbered, slug
from lm_eval_prune.files import write_bytes
from lm_eval_prune.report.board import Board
from lm_eval_prune.report.grouping import NATIVE
from lm_eval_prune.report.instances import Questions, instance_lines, result_id
from lm_eval_prune.report.runs import Run, Value
from lm_eval_prune.version import __version__

__all__ = ["EXPORTS", "SCHEMA_VERSION", "require_exports", "write_exports"]

SCHEMA_VERSION = "0.3.0"
"""Of Every Eval Ever."""
BUILDERS = {"", "json", "csv", "parquet", "text", "arrow", "pandas", "xml", "webdataset"}
"""Dataset paths that are no dataset of the hub."""
UNIT_METRICS = {"acc", "acc_norm", "em", "exact_match", "f1"}
"""From 0 to 1."""


def require_exports(names: Sequence[str]) -> None:
    """Raise ArgumentError for an export that there is not."""
    if unknown := [name for name in names if name not in EXPORTS]:
        raise ArgumentError(f"export {unknown[0]!r}: unknown; expected some of {', '.join(EXPORTS)}")


def write_exports(board: Board, folder: Path, names: Sequence[str]) -> list[Path]:
    """Write each export of every variant below `folder`, in a folder of its name. Raises ArgumentError."""
    require_exports(names)
    paths = []
    for name in names:
        for place, text in EXPORTS[name](board):
            paths.append(folder / name / place)
            write_bytes(paths[-1], text.encode())
    return paths


def _model_index(board: Board) -> Iterable[tuple[str, str]]:
    """A model card's metadata for each variant: all its tasks and numbers of shots."""
    from huggingface_hub import EvalResult, ModelCardData

    for name, runs in _variants(board, by_shots=False):
        results = [
            EvalResult(
                task_type="text-generation",
                dataset_type=run.dataset.path if _on_hub(run) else run.task,
                dataset_name=run.task,
                dataset_config=run.dataset.name or None,
                dataset_split=run.dataset.split or None,
                metric_type=metric,
                # The hub joins results on one dataset, whatever their task: the metric says it again.
                metric_name=f"{run.task} {metric} ({run.num_fewshot}-shot)",
                metric_value=value.value,
                metric_args=_without_none({"task": run.task, "num_fewshot": run.num_fewshot, "stderr": value.stderr}),
            )
            for run in runs
            for metric, value in run.values.items()
        ]
        card = ModelCardData(model_name=name, eval_results=results)
        yield f"{name}.md", f"---\n{card.to_yaml()}\n---\n"


def _eval_results(board: Board) -> Iterable[tuple[str, str]]:
    """The hub's `.eval_results` files, for tasks on datasets of the hub; the first metric of each."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    metrics = {column.task: column.metric for column in board.columns}
    for name, runs in _variants(board):
        entries = [
            EvalResultEntry(
                dataset_id=run.dataset.path,
                task_id=run.dataset.name or "default",
                value=run.values[metrics[run.task]].value,
                date=_iso(run.date),
                notes=f"{run.task}, {metrics[run.task]}, {run.num_fewshot}-shot, lm-eval {run.lm_eval or 'unknown'}",
            )
            for run in runs
            if _on_hub(run) and metrics[run.task] in run.values
        ]
        if entries:
            text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
            yield f"{name}/.eval_results/lm-eval-prune.yaml", text


def _every_eval_ever(board: Board) -> Iterable[tuple[str, str]]:
    """One record for each variant (each seed apart) at each number of shots, and its documents' beside it."""
    now, questions = str(int(time.time())), Questions(board)
    for name, runs in _variants(board):
        record = _without_none(
            {
                "schema_version": SCHEMA_VERSION,
                "evaluation_id": f"lm-eval-prune/{runs[0].model}/{name}/{now}",
                "evaluation_timestamp": _epoch(max(run.date for run in runs)),
                "retrieved_timestamp": now,
                "source_metadata": {
                    "source_name": "lm-eval-prune",
                    "source_type": "evaluation_run",
                    "source_organization_name": "unknown",
                    "evaluator_relationship": "other",
                },
                "eval_library": {
                    "name": "lm_eval",
                    "version": runs[0].lm_eval or "unknown",
                    "additional_details": {"lm_eval_prune": __version__},
                },
                "model_info": _model_info(runs[0]),
                "evaluation_results": [
                    _result(run, metric, value) for run in runs for metric, value in run.values.items()
                ],
            }
        )
        place = _place(runs[0].model, record["evaluation_id"])
        if lines := instance_lines(runs, questions, record):
            text = "".join(f"{line}\n" for line in lines)
            record["detailed_evaluation_results"] = {
                "format": "jsonl",
                "file_path": f"{place}_samples.jsonl",
                "hash_algorithm": "sha256",
                "checksum": hashlib.sha256(text.encode()).hexdigest(),
                "total_rows": len(lines),
            }
            yield f"{place}_samples.jsonl", text
        yield f"{place}.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _place(model: str, evaluation: str) -> str:
    """Where a record belongs in Every Eval Ever's repository, without its ending."""
    developer, _, name = model.rpartition("/")
    unique = uuid.UUID(bytes=hashlib.sha256(evaluation.encode()).digest()[:16], version=4)
    return f"data/lm-eval-prune/{slug(developer) if developer else 'unknown'}/{slug(name)}/{unique}"


def _model_info(run: Run) -> dict[str, Any]:
    cost = run.cost
    details = {
        "deployment_type": "self_deployed",
        "model_availability": "unknown",
        **run.variant._asdict(),
        "donor": run.donor or None,
        "mask": run.mask or None,
        "weights_fingerprint": run.weights,
        "dtype": run.dtype,
        "scorer": run.scorer,
        **vars(cost),
    }
    developer, _, rest = run.model.rpartition("/")
    return _without_none(
        {
            "name": f"{run.model}: {run.variant}",
            "id": run.model,
            "developer": developer if rest and developer and "/" not in developer else None,
            "inference_engine": {"name": run.backend},
            "additional_details": _texts(details),
        }
    )


def _result(run: Run, metric: str, value: Value) -> dict[str, Any]:
    unit = metric in UNIT_METRICS
    details = {"num_fewshot": run.num_fewshot, "fewshot_seed": run.fewshot_seed, "limit": run.limit}
    uncertainty = _without_none(
        {
            "standard_error": None if value.stderr is None else {"value": value.stderr},
            "num_samples": run.num_documents,
        }
    )
    return _without_none(
        {
            "evaluation_result_id": result_id(run, metric),
            "evaluation_name": run.task,
            "source_data": _source(run),
            "evaluation_timestamp": _epoch(run.date),
            "metric_config": {
                "evaluation_description": f"{run.task}, version {run.task_version}, {run.num_fewshot}-shot",
                "metric_name": metric,
                "lower_is_better": not value.higher_is_better,
                "score_type": "continuous",
                "min_score": 0 if unit else None,
                "max_score": 1 if unit else None,
            },
            "score_details": _without_none({"score": value.value, "uncertainty": uncertainty or None}),
            "generation_config": {"additional_details": _texts(details)},
        }
    )


def _source(run: Run) -> dict[str, Any]:
    if not _on_hub(run):
        return {"dataset_name": run.task, "source_type": "other"}
    found = {
        "dataset_name": run.task,
        "source_type": "hf_dataset",
        "hf_repo": run.dataset.path,
        "hf_split": run.dataset.split or None,
        "additional_details": {"config": run.dataset.name} if run.dataset.name else None,
    }
    return _without_none(found)


def _variants(board: Board, *, by_shots: bool = True) -> Iterable[tuple[str, list[Run]]]:
    """(A name that is safe in paths, runs): every variant, random seeds and draws of few-shot examples apart."""
    several = len(board.models) > 1
    found: dict[tuple[str, int | None, int | None], list[Run]] = {}
    for entry in board.entries:
        for run in entry.runs:
            backend = "" if run.backend == NATIVE else f" {run.backend}"
            label = (f"{run.model} " if several else "") + str(run.variant) + backend
            shots = run.num_fewshot if by_shots else None
            found.setdefault((label, shots, run.fewshot_seed), []).append(run)
    names = numbered(slug(label) + ("" if shots is None else f"-{shots}shot") for label, shots, _ in found)
    yield from zip(names, found.values(), strict=True)


def _on_hub(run: Run) -> bool:
    path = run.dataset.path
    return path not in BUILDERS and not path.startswith((".", "/", "~")) and path.count("/") <= 1


def _texts(details: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in details.items() if value is not None}


def _without_none(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value is not None}


def _epoch(date: float) -> str | None:
    return str(int(date)) if date else None


def _iso(date: float) -> str | None:
    return datetime.fromtimestamp(date, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if date else None


EXPORTS: dict[str, Callable[[Board], Iterable[tuple[str, str]]]] = {
    "model-index": _model_index,
    "eval_results": _eval_results,
    "every_eval_ever": _every_eval_ever,
}
"""Name -> (path below the export's folder, text) of each file."""
