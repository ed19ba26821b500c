"""What tasks ask of a model, in tokens: the 14 tasks from a table, others as the user says.

`icl14.json` is written by `benchmarks/measure_task_lengths.py` from real documents at 0, 1 and 5 shots; other numbers
of shots follow from these, since every shot adds as much. Padding is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

from lm_eval_prune.errors import ArgumentError

__all__ = ["Load", "Workload", "known_tasks", "measured_shots", "table_record", "workload_of", "workloads"]

ALIASES = {"multirc": "icl14_multirc", "record": "icl14_record"}
"""The stock tasks that ours correct: what they ask is the same."""
DIGITS = 15
"""Of the largest number of inputs, tokens or shots: whole numbers that a float counts exactly."""


@dataclass(frozen=True)
class Load:
    """Passes over token sequences, added up."""

    tokens: float
    """That go through the layers."""
    pairs: float
    """(query, key) pairs of causal attention in each layer."""
    outputs: float
    """Positions that the output layer computes."""
    inputs: float = 0
    """Sequences."""
    longest: int = 0
    """Tokens of the longest one."""

    def times(self, count: float) -> Load:
        return Load(self.tokens * count, self.pairs * count, self.outputs * count, self.inputs * count, self.longest)

    def within(self, max_length: int) -> Load:
        """Inputs cut to `max_length` tokens; of their mean length, so that this is at most too much."""
        return replace(
            self,
            tokens=min(self.tokens, self.inputs * max_length),
            pairs=min(self.pairs, self.inputs * max_length * (max_length + 1) / 2),
            outputs=min(self.outputs, self.inputs * max_length),
            longest=min(self.longest, max_length),
        )


@dataclass(frozen=True)
class Workload:
    """One task at one number of shots; the loads are means over its documents."""

    task: str
    num_fewshot: int
    documents: int
    """Documents that are evaluated."""
    training_documents: int
    """Documents that importance may be computed from."""
    padded: Load
    """One document's requests, each input in whole; equal inputs once, as the harness does."""
    packed: Load
    """The same by the packed scorer: no token twice, output layer where it is asked for."""
    gold: Load
    """One training document's gold answer behind its few-shot context."""


@cache
def _table() -> dict[str, Any]:
    text = files(__package__).joinpath("icl14.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def measured_shots() -> tuple[int, ...]:
    """The numbers of shots at which the lengths were counted."""
    return tuple(sorted({int(shots) for task in _table()["tasks"].values() for shots in task["by_shots"]}))


def known_tasks() -> tuple[str, ...]:
    """The tasks whose lengths are known."""
    return tuple(_table()["tasks"])


def workload_of(task: str, num_fewshot: int, max_length: int = 2048) -> Workload:
    """One of the 14 tasks, its inputs cut to `max_length` tokens. Raises ArgumentError for another task."""
    found = _table()["tasks"].get(ALIASES.get(task, task))
    if found is None:
        raise ArgumentError(
            f"task {task!r}: its length is not known; give it as --tokens {task}=INPUTSxTOKENS, or take some of "
            f"{', '.join(known_tasks())}"
        )
    by_shots = {int(shots): row for shots, row in found["by_shots"].items()}
    row = _at(by_shots, num_fewshot)
    inputs, longest = row["inputs"], round(row["longest"])
    padded = Load(row["tokens"], row["pairs"], row["tokens"], inputs, longest)
    packed = Load(row["packed_tokens"], row["packed_pairs"], row["asked"], inputs, longest)
    gold = Load(row["gold_tokens"], row["gold_pairs"], row["gold_asked"], 1, longest)
    return Workload(
        task,
        num_fewshot,
        found["documents"],
        found["training_documents"],
        padded=padded.within(max_length),
        packed=packed.within(max_length),
        gold=gold.within(max_length),
    )


def _at(by_shots: dict[int, dict[str, float]], shots: int) -> dict[str, float]:
    """The row at `shots`, from the two measured ones around it, or the last two.

    Tokens grow by as much with every shot, pairs as their squares.
    """
    known = sorted(by_shots)
    low, high = next((pair for pair in pairwise(known) if shots <= pair[1]), (known[-2], known[-1]))
    share = (shots - low) / (high - low)

    def between(key: str) -> float:
        before, after = by_shots[low][key], by_shots[high][key]
        if key.endswith("pairs"):
            return (math.sqrt(before) + share * (math.sqrt(after) - math.sqrt(before))) ** 2
        return before + share * (after - before)

    return {key: between(key) for key in by_shots[low]}


def table_record() -> dict[str, Any]:
    """How the table came about: the day, the tokenizer, the number of documents."""
    table = _table()
    counted = sum(table["documents_counted"].values())
    return {"measured": table["measured"], "tokenizer": table["tokenizer"], "documents": counted}


def workloads(
    tasks: Sequence[str], num_fewshot: Sequence[int], given: Sequence[str] = (), max_length: int = 2048
) -> list[Workload]:
    """Every task at every number of shots; a group `icl14_<k>shot` stands for the 14 tasks at k shots, `icl14`
    for them at each number of shots.

    `given` are texts NAME=INPUTSxTOKENS, of at most `max_length` tokens, which count whatever the shots.
    Raises ArgumentError.
    """
    if odd := [shots for shots in num_fewshot if not 0 <= shots < 10**DIGITS]:
        raise ArgumentError(f"num_fewshot={odd[0]}: expected 0 or more, and less than 10^{DIGITS}")
    own = dict(_parsed(text, max_length) for text in given)
    found: dict[tuple[str, int], Workload] = {}
    for task in [*tasks, *(name for name in own if name not in tasks)]:
        group = re.fullmatch(r"icl14(?:_([015])shot)?", task)
        names = known_tasks() if group else (task,)
        for shots in [int(group[1])] if group and group[1] else num_fewshot:
            for name in names:
                found[name, shots] = (
                    _own(name, shots, own[name]) if name in own else workload_of(name, shots, max_length)
                )
    return list(found.values())


def _parsed(text: str, max_length: int) -> tuple[str, tuple[int, int]]:
    matched = re.fullmatch(r"([^=]+)=(\d+)x(\d+)", text.strip())
    if matched is None or not all(len(number) <= DIGITS and int(number) for number in matched.groups()[1:]):
        raise ArgumentError(f"tokens={text}: expected NAME=INPUTSxTOKENS, such as mytask=1000x250")
    if int(matched[3]) > max_length:
        raise ArgumentError(f"tokens={text}: more tokens than the model's {max_length} positions")
    return matched[1], (int(matched[2]), int(matched[3]))


def _own(task: str, shots: int, size: tuple[int, int]) -> Workload:
    inputs, tokens = size
    pairs = tokens * (tokens + 1) / 2
    whole = Load(tokens, pairs, tokens, 1, tokens)
    asked = Load(tokens, pairs, 1, 1, tokens)
    return Workload(task, shots, inputs, inputs, padded=whole, packed=asked, gold=asked)
