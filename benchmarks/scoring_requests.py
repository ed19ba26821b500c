"""The benchmark's requests: real documents from a data folder, or generated ones of like lengths."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

__all__ = ["TASKS", "generated_requests", "real_documents", "training_texts"]

Request = tuple[None, list[int], list[int]]

TASKS = tuple(
    yaml.safe_load((Path(__file__).parent.parent / "tasks" / "icl14" / "_icl14_tasks").read_text(encoding="utf-8"))[
        "task"
    ]
)
"""The study's 14 tasks."""


def real_documents(lm: Any, folder: Path, tasks: list[str], limit: int | None) -> Callable[[str, int], list[Request]]:
    """A function (task, num_fewshot) -> its tokenised requests, for documents in the harness's local-folder layout."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    from lm_eval.tasks import TaskManager

    from lm_eval_prune.harness import registration

    registration.register()
    with _inside(folder):
        loaded = TaskManager().load(tasks)["tasks"]

    def requests(task: str, num_fewshot: int) -> list[Request]:
        built = loaded[task]
        with _inside(folder):
            built.set_config(key="num_fewshot", value=num_fewshot)
            built.set_fewshot_seed(seed=1234)
            built._instances = None
            built.build_all_requests(limit=limit, rank=0, world_size=1)
        return _tokenised(lm, built.instances)

    return requests


def training_texts(folder: Path) -> list[str]:
    """What a tokenizer may learn its merges from: the rows of the training splits, as they lie in the folder."""
    return [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("train*.json*")) if path.suffix != ".gz"]


def _tokenised(lm: Any, instances: list[Any]) -> list[Request]:
    """What the harness hands to `_loglikelihood_tokens`."""
    caught: list[Request] = []

    def catch(requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        caught.extend((None, context, continuation) for _, context, continuation in requests)
        return [(0.0, False)] * len(requests)

    original, lm._loglikelihood_tokens = lm._loglikelihood_tokens, catch
    try:
        lm.loglikelihood(instances, disable_tqdm=True)
    finally:
        lm._loglikelihood_tokens = original
    return caught


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


LENGTHS = {
    "hellaswag": (52, 57, 4, 28, 1),
    "piqa": (20, 46, 2, 24, 1),
    "arc_easy": (32, 40, 4, 7, 1),
    "arc_challenge": (59, 52, 4, 9, 1),
    "openbookqa": (19, 22, 4, 3, 1),
    "winogrande": (22, 31, 2, 7, 1),
    "boolq": (212, 213, 2, 1, 1),
    "cb": (132, 120, 3, 3, 1),
    "copa": (11, 23, 2, 11, 1),
    "wic": (69, 65, 2, 1, 1),
    "wsc": (85, 79, 2, 1, 1),
    "icl14_multirc": (200, 536, 2, 16, 5),
    "rte": (113, 118, 2, 3, 1),
    "icl14_record": (322, 381, 12, 43, 1),
}
"""Task -> (question tokens, tokens of a solved example, choices, choice tokens, documents that share a passage)."""


def generated_requests(task: str, num_fewshot: int, documents: int, vocab_size: int) -> list[Request]:
    """Random tokens in the shape of a task: for people who lack the data. Seeded."""
    question, example, choices, choice, sharing = LENGTHS[task]
    draw = random.Random(f"{task} {num_fewshot}")

    def tokens(mean: int) -> list[int]:
        return [draw.randrange(4, vocab_size) for _ in range(max(1, round(mean * draw.uniform(0.6, 1.4))))]

    requests: list[Request] = []
    passage: list[int] = []
    for index in range(documents):
        shots = [token for _ in range(num_fewshot) for token in tokens(example)]
        if sharing > 1 and index % sharing == 0:
            passage = tokens(question)
        context = [2, *shots, *(passage + tokens(question // 10) if sharing > 1 else tokens(question))]
        endings = [[draw.randrange(4, vocab_size)] if choice == 1 else tokens(choice) for _ in range(choices)]
        if task == "winogrande":  # the option is in the context, and the continuation is the same
            half = len(context) - question // 2
            requests += [(None, [*context[:half], *tokens(2), *context[half:]], endings[0]) for _ in range(choices)]
        else:
            requests += [(None, context, ending) for ending in endings]
    return requests
