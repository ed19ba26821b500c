"""Answers by document as instance-level records of Every Eval Ever, beside its aggregate records.

A record for each document and metric that says whether its answer is right (from 0 to 1, 1 is right). Sweeps keep what
was asked in their dense runs alone: every other run's documents are the same, by their hashes. A document of which
nobody kept the question has no record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval_prune.errors import PruneError
from lm_eval_prune.metric_names import metric_name
from lm_eval_prune.report.board import Board
from lm_eval_prune.report.documents import Answered, Key, answers_of, target_place
from lm_eval_prune.report.runs import Run
from lm_eval_prune.report.sample_files import Columns, read_columns

__all__ = ["RIGHT", "Questions", "instance_lines"]

RIGHT = {"acc", "acc_norm", "em", "exact_match"}
"""Metrics that are 1 where an answer is right."""


class Questions:
    """What was asked in the runs of a board, by task and shots, and hashes of document and prompt; read once."""

    def __init__(self, board: Board) -> None:
        self.runs = [run for entry in board.entries for run in entry.runs if run.samples is not None]
        self.known: dict[tuple[str, int | None], dict[Key, Answered]] = {}

    def of(self, run: Run) -> dict[Key, Answered]:
        """Those of the run's documents of which some run kept the question."""
        place = run.task, run.num_fewshot
        if place not in self.known:
            found: dict[Key, Answered] = {}
            for other in self.runs:
                columns = _columns(other) if (other.task, other.num_fewshot) == place else None
                if columns is None or other.samples is None:
                    continue
                left = [key for key in zip(columns.doc_hash, columns.prompt_hash, strict=True) if key not in found]
                answers = answers_of({other.samples: left}) if left else {}
                found |= {key: asked for (_, key), asked in answers.items() if asked.prompt}
            self.known[place] = found
        return self.known[place]


def instance_lines(runs: Sequence[Run], questions: Questions, record: dict[str, Any]) -> list[str]:
    """Lines of JSON for the documents of `runs`, which point to the aggregate `record`."""
    return [
        json.dumps(line, ensure_ascii=False, allow_nan=False)
        for run in runs
        if run.samples is not None
        for line in _instances(run, questions, record)
    ]


def _instances(run: Run, questions: Questions, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    columns = _columns(run)
    if columns is None or run.samples is None:
        return
    asked = questions.of(run)
    keys = list(zip(columns.doc_hash, columns.prompt_hash, strict=True))
    own = answers_of({run.samples: keys})
    for index, key in enumerate(keys):
        if (question := asked.get(key)) is None:
            continue
        answered = own.get((run.samples, key), Answered())
        for name, values in columns.metrics.items():
            metric, score = metric_name(name, columns.filter[index]), values[index]
            if name in RIGHT and metric in run.values and score is not None:
                yield {
                    "schema_version": record["schema_version"],
                    "evaluation_id": record["evaluation_id"],
                    "model_id": record["model_info"]["id"],
                    "evaluation_name": run.task,
                    "evaluation_result_id": result_id(run, metric),
                    "sample_id": str(columns.doc_id[index]),
                    **_asked(question),
                    **_answer(question, answered, name, columns.filter[index]),
                    "evaluation": {"score": score, "is_correct": score == 1},
                    "metadata": {"doc_hash": key[0], "prompt_hash": key[1], "metric": metric},
                }


def result_id(run: Run, metric: str) -> str:
    """Of one aggregate result in its record."""
    return f"{run.task}/{metric}/{run.num_fewshot}-shot/{run.fewshot_seed}"


def _asked(question: Answered) -> dict[str, Any]:
    place = target_place(question.target, question.choices)
    right = question.target if place is None else question.choices[place]
    references = [right] if right else []
    text = json.dumps([question.prompt, references], ensure_ascii=False)
    return {
        "sample_hash": hashlib.sha256(text.encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": question.prompt, "reference": references, "choices": question.choices or None},
        "messages": None,
    }


def _answer(question: Answered, answered: Answered, metric: str, filter_name: str) -> dict[str, Any]:
    """What was written; of choices, the log-likelihood of each, and for `acc` the likeliest one."""
    written = [one for one in answered.answers if isinstance(one, str)]
    values = [one for one in answered.answers if isinstance(one, float)]
    extracted, how = (written[0], f"filter {filter_name}") if written else ("", "")
    if metric == "acc" and values and len(values) == len(question.choices):
        extracted, how = question.choices[values.index(max(values))], "largest log-likelihood"
    source = {"turn_idx": 0, "source": "output.raw", "extracted_value": extracted, "extraction_method": how}
    return {
        "output": {"raw": written or [str(value) for value in values]},
        "answer_attribution": [{**source, "is_terminal": True}] if how else [],
    }


def _columns(run: Run) -> Columns | None:
    with contextlib.suppress(PruneError):
        return None if run.samples is None else read_columns(run.samples)
    return None
