"""Results of lighteval and of inspect_ai, said as the harness says its own, so that one reader is enough.

lighteval writes `results_<date>.json`, and the documents as `details/<model>/<date>/details_<task>_<date>.parquet`.
inspect_ai writes logs, as JSON or as `.eval`: a zip archive whose `header.json` is the log without its samples.
Their tasks are not the harness's tasks of the same name: the tool stands behind each name.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lm_eval_prune import files
from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.files import digest
from lm_eval_prune.report.schema import fault_of
from lm_eval_prune.strict_json import parse_json

__all__ = ["Translated", "document_lines", "read_log", "translated"]

GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""What inspect_ai's letters count: correct, partly correct, incorrect, no answer."""


class Translated(NamedTuple):
    """What a file of another tool says of tasks at one number of shots."""

    content: dict[str, Any]
    """As in a results file of the harness."""
    samples: dict[str, Path]
    """Task -> where its documents are."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _General(_Part):
    """lighteval's `config_general`."""

    model_name: str
    lighteval_sha: str | None = None
    max_samples: int | None = None
    settings: dict[str, Any] = Field(default_factory=dict, validation_alias="model_config")


class _LightevalFile(_Part):
    config_general: _General
    results: dict[str, dict[str, Any]]
    versions: dict[str, int | float | str | None] = Field(default_factory=dict)
    config_tasks: dict[str, Any] = Field(default_factory=dict)


class _LightevalMetric(_Part):
    metric_name: str | list[str]
    higher_is_better: bool | dict[str, bool] | None = None


class _LightevalTask(_Part):
    hf_repo: str | None = None
    hf_subset: str | None = None
    evaluation_splits: list[str] = Field(default_factory=list)
    metrics: list[_LightevalMetric] = Field(default_factory=list)


class _InspectValue(_Part):
    value: int | float


class _InspectScore(_Part):
    name: str
    scored_samples: int | None = None
    metrics: dict[str, _InspectValue]


class _InspectResults(_Part):
    completed_samples: int = 0
    scores: list[_InspectScore] = Field(default_factory=list)


class _InspectDataset(_Part):
    name: str | None = None


class _InspectConfig(_Part):
    epochs: int | None = None
    limit: Any = None


class _InspectEval(_Part):
    task: str
    task_version: int | str = 0
    model: str
    model_args: dict[str, Any] = Field(default_factory=dict)
    dataset: _InspectDataset = _InspectDataset()
    config: _InspectConfig = _InspectConfig()


class _InspectLog(_Part):
    status: str
    eval: _InspectEval
    results: _InspectResults | None = None


def translated(content: Mapping[str, Any], path: Path) -> list[Translated] | None:
    """What a JSON object of another tool says, by number of shots; None where it is of none. Raises FileFormatError."""
    try:
        general = content.get("config_general")
        if isinstance(general, dict) and "model_name" in general and isinstance(content.get("results"), dict):
            return _of_lighteval(_LightevalFile.model_validate(content), path)
        if isinstance(content.get("eval"), dict) and isinstance(content.get("status"), str):
            return [_of_inspect(_InspectLog.model_validate(content), path)]
    except ValidationError as error:
        raise FileFormatError(f"{path}: {fault_of(error)}") from None
    return None


def read_log(path: Path) -> dict[str, Any]:
    """The header of inspect_ai's archive. Raises FileFormatError."""
    return _member(path, "header.json")


def document_lines(path: Path) -> Iterator[bytes]:
    """The documents of a run as lines of the harness's samples. Raises FileFormatError."""
    found = _lighteval_documents(path) if path.suffix == ".parquet" else _inspect_documents(path)
    for line in found:
        yield json.dumps(line).encode()


# -- lighteval ----------------------------------------------------------------------------------------------------


def _of_lighteval(file: _LightevalFile, path: Path) -> list[Translated]:
    general = file.config_general
    settings = {key: value for key, value in general.settings.items() if isinstance(value, str | int | float)}
    date = path.stem.removeprefix("results_")
    found: dict[int, Translated] = {}
    for key, metrics in file.results.items():
        name, shots = _task_and_shots(key)
        if name is None or ":_average" in key:  # "all", and averages of tasks
            continue
        said = _LightevalTask.model_validate(file.config_tasks.get(key) or {})
        task = f"{name} (lighteval)"
        config = {"model": "lighteval", "model_args": settings | {"pretrained": general.model_name}}
        empty: dict[str, Any] = {"results": {}, "configs": {}, "versions": {}, "n-samples": {}, "higher_is_better": {}}
        part = found.setdefault(shots, Translated({**empty, "config": config | {"limit": general.max_samples}}, {}))
        part.content["results"][task] = metrics
        part.content["versions"][task] = file.versions.get(key)
        part.content["configs"][task] = {
            "num_fewshot": shots,
            "dataset_path": said.hf_repo,
            "dataset_name": said.hf_subset,
            "test_split": ",".join(said.evaluation_splits),
        }
        part.content["higher_is_better"][task] = {
            one.metric_name: one.higher_is_better
            for one in said.metrics
            if isinstance(one.metric_name, str) and isinstance(one.higher_is_better, bool)
        }
        if details := _details(path, general.model_name, date, key):
            part.samples[task] = details
    return list(found.values())


def _task_and_shots(key: str) -> tuple[str | None, int]:
    """`arc|25`, or in older releases `leaderboard|arc|25|0` (the last: whether shots were left out): name, shots."""
    parts = key.split("|")
    numbers = []
    while len(parts) > 1 and parts[-1].isascii() and parts[-1].isdigit() and len(parts[-1]) < 6:
        numbers.append(int(parts.pop()))
    return ("|".join(parts), numbers[-1]) if numbers else (None, 0)


def _details(path: Path, model: str, date: str, key: str) -> Path | None:
    """`results/MODEL/results_DATE.json` -> `details/MODEL/DATE/details_TASK_DATE.parquet`."""
    depth = len(Path(model.strip("/")).parts) + 1
    with contextlib.suppress(ValueError, OSError, IndexError):  # a task's name need not be a file's
        folder = path.parents[depth] / "details" / path.parent.relative_to(path.parents[depth - 1]) / date
        found = folder / f"details_{key}_{date}.parquet"
        if found.parent == folder and found.is_file():
            return found
    return None


def _lighteval_documents(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path, columns=["doc", "metric", "model_response"]).to_pylist()
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise FileFormatError(f"{path}: no details of lighteval: {error}") from None
    for number, row in enumerate(rows):
        doc, metrics = row["doc"] or {}, row["metric"] or {}
        asked = [_question(one) for one in doc.get("fewshot_samples") or ()]
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        answers = row["model_response"] or {}
        yield {
            "doc_id": number,
            "doc_hash": digest(_question(doc)),
            "prompt_hash": digest([doc.get("instruction"), asked, _question(doc)]),
            "filter": "none",
            "prompt": str(doc.get("query")),
            "choices": doc.get("choices"),
            "target": str(doc.get("gold_index")),
            "filtered_resps": answers.get("logprobs") or answers.get("text"),
            **numbers,
            "metrics": list(numbers),
        }


def _question(doc: Mapping[str, Any]) -> list[Any]:
    return [doc.get("query"), doc.get("choices"), doc.get("gold_index")]


# -- inspect_ai ---------------------------------------------------------------------------------------------------


def _of_inspect(log: _InspectLog, path: Path) -> Translated:
    if log.status != "success" or log.results is None or not log.results.scores:
        raise FileFormatError(f"{path}: a log of inspect_ai without results: its status is {log.status[:40]!r}")
    said, task = log.eval, f"{log.eval.task} (inspect_ai)"
    metrics: dict[str, Any] = {}
    for score in log.results.scores:
        error = score.metrics.get("stderr")
        for name, found in score.metrics.items():
            if name != "stderr":
                metrics[f"{name},{score.name}"] = found.value
                metrics[f"{name}_stderr,{score.name}"] = "N/A" if error is None else error.value
    limit = said.config.limit if isinstance(said.config.limit, int) else None
    arguments = {key: value for key, value in said.model_args.items() if isinstance(value, str | int | float)}
    documents = log.results.completed_samples // (said.config.epochs or 1)
    content = {
        "results": {task: metrics},
        "configs": {task: {"dataset_path": said.dataset.name}},
        "versions": {task: said.task_version},
        "n-samples": {task: {"effective": documents or None}},
        "higher_is_better": {task: {"accuracy": True}},
        "config": {"model": "inspect_ai", "model_args": arguments | {"pretrained": said.model}, "limit": limit},
    }
    is_paired = path.suffix == ".eval" and (said.config.epochs or 1) == 1
    return Translated(content, {task: path} if is_paired else {})


def _inspect_documents(path: Path) -> Iterator[dict[str, Any]]:
    summaries = _member(path, "summaries.json")
    for number, one in enumerate(summaries if isinstance(summaries, list) else []):
        if not isinstance(one, dict):
            raise FileFormatError(f"{path}: summaries.json: document {number} is no object")
        question = digest([one.get("input"), one.get("choices"), one.get("target")])
        for scorer, score in (one.get("scores") or {}).items():
            value = score.get("value") if isinstance(score, dict) else None
            grade = GRADES.get(value) if isinstance(value, str) else value
            yield {
                "doc_id": number,
                "doc_hash": question,
                "prompt_hash": question,
                "filter": scorer,
                "prompt": one.get("input") if isinstance(one.get("input"), str) else "",
                "target": one.get("target") if isinstance(one.get("target"), str) else "",
                "filtered_resps": [str(score.get("answer"))] if isinstance(score, dict) else [],
                "accuracy": grade,
                "metrics": ["accuracy"],
            }


def _member(path: Path, name: str) -> Any:
    """The JSON of one file in inspect_ai's archive, whose compression Python's own library knows from 3.14 on."""
    with contextlib.suppress(ImportError):
        import zipfile_zstd  # noqa: F401
    try:
        with files.opened(path, "a log of inspect_ai") as file, zipfile.ZipFile(file) as archive:
            if archive.getinfo(name).file_size > files.MAX_BYTES:
                raise FileFormatError(f"{path}: {name} has more than {files.MAX_BYTES:,} bytes; not read")
            with archive.open(name) as member:
                text = member.read(files.MAX_BYTES + 1)
    except NotImplementedError:
        raise FileFormatError(f"{path}: compressed with zstandard, to be read by: pip install zipfile-zstd") from None
    except KeyError:
        raise FileFormatError(f"{path}: no {name} in it; expected a finished log of inspect_ai") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise FileFormatError(f"{path}: no log of inspect_ai: {error}") from None
    return parse_json(text, f"{path}: {name}", allow_nan=True, allow_halves=True)
