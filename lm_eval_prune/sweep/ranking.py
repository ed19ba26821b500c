"""What a ranking is called: one entry of a sweep's `ranking`, read from its text."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lm_eval_prune.errors import ArgumentError, FractionError
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.importance.exclusion import LEFT_OUT
from lm_eval_prune.variants import LARGEST

__all__ = ["DONORS", "OF_HEADS", "Ranking", "of_groups", "of_layers", "parse_ranking", "unit_prefix"]

Unit = Literal["head", "kv_group", "attention", "layer"]
PREFIXES: dict[str, Unit] = {"kv_group:": "kv_group", "attention:": "attention", "layer:": "layer"}
"""What goes together: the heads that share a key/value head, all of a layer, or those and the layer's FFN."""
INFLUENCE = "block_influence"
DONORS = ("task:closest", "task:farthest")
"""By the scores of the other task of the grid that agrees most, or least, with the evaluated one."""
OF_HEADS = ("induction", "function_vector")
"""By what heads do, measured beside importance: prefix matching, and the task's function-vector scores."""
BY_METHOD = re.compile(r"(?P<method>induction|function_vector|block_influence)(?:@(?P<shots>[0-9]{1,4}))?")
WITHOUT = re.compile(
    r"most-without:(?P<method>induction|function_vector)(?::(?P<share>[^@]+))?(?:@(?P<shots>[0-9]{1,4}))?"
)
"""What is left out, its share, and the shots of function-vector scores."""
SHOTS = re.compile(r"[0-9]{1,4}")
NUMBER = re.compile(r"[-+.0-9]+")
NAMED = re.compile(r"(?P<tasks>[^@]+)(?:@(?P<shots>[0-9]{1,4}))?")
"""What `aggregate:` is taken over: `TASK+TASK`, and `@` before a number of shots."""
RESCORED = re.compile(r"(?P<scored>.+):rescored@(?P<step>[^:@]*)")
SMALLEST_STEP = Fraction(1, 1000)
EXPECTED = (
    "expected own, aggregate, aggregate:5 (of 5 shots), aggregate:TASK+TASK (of these tasks; @5 behind it: of 5 "
    "shots), task:NAME, task:closest, task:farthest, induction, function_vector, block_influence, random:0+1+2 "
    "(seeds), or an importance file (two with + between: heads' and FFNs'), with :rescored@0.1 behind own, aggregate "
    "or task:NAME for scores computed again after each tenth, and most: before it for the most important first; "
    "most-without:induction, most-without:function_vector:0.05 (the share left out); before all that kv_group: or "
    "attention: for whole groups of heads, or layer: for whole layers (block_influence, random: or a file)"
)


class Ranking(BaseModel):
    """One entry of `SweepConfig.ranking`."""

    model_config = ConfigDict(frozen=True)

    text: str
    kind: Literal["own", "aggregate", "task", "donor", "method", "random", "files"]
    order: Literal["least", "most"] = "least"
    unit: Unit = "head"
    task: str | None = None
    """Of `task`: whose scores. Of `donor`: `closest` or `farthest`, by agreement with the evaluated task's."""
    tasks: tuple[str, ...] = ()
    """That an aggregate is taken over, groups too; none are the grid's."""
    num_fewshot: int | None = None
    """Of the importance that an aggregate is taken over, and of function-vector scores; None is each cell's own."""
    method: Literal["", "induction", "function_vector", "block_influence"] = ""
    """Whose scores are taken, whatever the sweep's own; the first two are of heads alone."""
    left_out: Literal["", "induction", "function_vector"] = ""
    """Whose top `share_left_out` is not pruned."""
    share_left_out: str = LEFT_OUT
    seeds: tuple[int, ...] = ()
    files: tuple[str, ...] = ()
    step: Fraction | None = None
    """Share of all components after which scores are computed again, under the mask so far; None: never."""

    @property
    def of_the_grid(self) -> bool:
        """Whether it takes the scores of all tasks of the grid."""
        return self.kind == "donor" or (self.kind == "aggregate" and not self.tasks)


def parse_ranking(text: str) -> Ranking:
    """The ranking that `text` describes. Raises ArgumentError."""
    if prefix := unit_prefix(text):
        return _of_unit(text, parse_ranking(text.removeprefix(prefix)), PREFIXES[prefix])
    if (again := RESCORED.fullmatch(text)) is not None:
        return _rescored(text, again["scored"], again["step"])
    if (without := WITHOUT.fullmatch(text)) is not None:
        return _without(text, **without.groupdict())
    rest = text.removeprefix("most:")
    order: Any = "most" if rest != text else "least"
    kind, _, argument = rest.partition(":")
    found = _scored(text, rest, kind, argument, order)
    if found is None and kind == "random" and order == "least":
        found = _random(text, argument)
    if found is None:
        raise ArgumentError(f"ranking {text[:200]!r}: {EXPECTED}")
    return found


def unit_prefix(text: str) -> str:
    """What of the ranking says which components go together; empty where each is alone."""
    return next((prefix for prefix in PREFIXES if text.startswith(prefix)), "")


def of_groups(text: str) -> bool:
    """Whether a ranking is of the groups of heads that share a key/value head."""
    return unit_prefix(text) == "kv_group:"


def of_layers(text: str) -> bool:
    """Whether a ranking is of whole layers: `prune_layers` are its shares, and no other's."""
    return unit_prefix(text) == "layer:"


def _of_unit(text: str, each: Ranking, unit: Unit) -> Ranking:
    """The ranking of `each` component alone, by units. Raises ArgumentError where those have no such scores."""
    influence = each.method == INFLUENCE
    layers_have = influence or each.kind == "random" or (each.kind == "files" and len(each.files) == 1)
    if unit_prefix(each.text) or (unit == "layer" and not layers_have) or (unit == "kv_group" and influence):
        raise ArgumentError(f"ranking {text[:200]!r}: {EXPECTED}")
    return each.model_copy(update={"text": text, "unit": unit})


def _rescored(text: str, scored: str, step: str) -> Ranking:
    """The ranking `scored`, computed again after each `step`."""
    ranking = parse_ranking(scored)
    try:
        share = parse_fraction(step, "step")
    except FractionError:
        share = Fraction(0)
    if ranking.kind not in ("own", "aggregate", "task") or ranking.step is not None:
        raise ArgumentError(f"ranking {text[:200]!r}: rescored goes with own, aggregate and task:NAME")
    if not SMALLEST_STEP <= share < 1:
        raise ArgumentError(f"ranking {text[:200]!r}: rescored@ a step from 0.001 to below 1, such as rescored@0.1")
    return ranking.model_copy(update={"text": text, "step": share})


def _scored(text: str, rest: str, kind: str, argument: str, order: Any) -> Ranking | None:
    """One by scores."""
    if rest in ("own", "aggregate"):
        return Ranking(text=text, kind=rest, order=order)  # type: ignore[arg-type]
    if kind == "aggregate":
        return _aggregate(text, argument, order)
    if (by := BY_METHOD.fullmatch(rest)) is not None and (by["shots"] is None or by["method"] != "induction"):
        shots, method = int(by["shots"]) if by["shots"] else None, by["method"]
        unit: Any = "attention" if method == INFLUENCE else "head"
        return Ranking(text=text, kind="method", order=order, method=method, unit=unit, num_fewshot=shots)  # type: ignore[arg-type]
    if rest in DONORS:
        return Ranking(text=text, kind="donor", order=order, task=argument)
    if kind == "task" and argument:
        return Ranking(text=text, kind="task", order=order, task=argument)
    files = tuple(rest.split("+"))
    if all(file.endswith(".json") for file in files) and len(files) <= 2:
        return Ranking(text=text, kind="files", order=order, files=files)
    return None


def _without(text: str, method: Any, share: str | None, shots: str | None) -> Ranking:
    """Raises ArgumentError for a share that is none."""
    try:
        parse_fraction(share or LEFT_OUT, "the share left out")
    except FractionError as error:
        raise ArgumentError(f"ranking {text[:200]!r}: {error}") from None
    other: Any = next(name for name in OF_HEADS if name != method)
    return Ranking(
        text=text,
        kind="method",
        order="most",
        method=other,
        left_out=method,
        share_left_out=share or LEFT_OUT,
        num_fewshot=int(shots) if shots else None,
    )


def _aggregate(text: str, argument: str, order: Any) -> Ranking | None:
    if SHOTS.fullmatch(argument):
        return Ranking(text=text, kind="aggregate", order=order, num_fewshot=int(argument))
    named = NAMED.fullmatch(argument)
    if named is None or NUMBER.fullmatch(argument):
        return None
    tasks, shots = tuple(part.strip() for part in named["tasks"].split("+")), named["shots"]
    if not all(tasks):
        return None
    return Ranking(text=text, kind="aggregate", order=order, tasks=tasks, num_fewshot=int(shots) if shots else None)


def _random(text: str, argument: str) -> Ranking | None:
    try:
        seeds = tuple(int(part) for part in argument.replace("+", " ").replace(",", " ").split())
    except ValueError:
        return None
    if not seeds or not all(0 <= seed <= LARGEST for seed in seeds):
        return None
    return Ranking(text=text, kind="random", seeds=seeds)
