"""Runs -> a leaderboard: values as the files have them, differences to the dense model paired by document, ranks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.report.apart import told_apart
from lm_eval_prune.report.averages import averaged_columns, declines
from lm_eval_prune.report.baselines import Against, Baselines
from lm_eval_prune.report.board import About, Average, Board, Cell, Column, Entry
from lm_eval_prune.report.cells import CellMaker, Made
from lm_eval_prune.report.chance import chance_of_average, chances_of, shots_at_chance
from lm_eval_prune.report.checks import listed, problems_of_missing, problems_of_runs, require_none
from lm_eval_prune.report.grouping import (
    METRICS,
    RowKey,
    at_own_shots,
    columns_of,
    grouped,
    have_shots_of_their_own,
    labels,
    without_repeats,
)
from lm_eval_prune.report.judging import judged, judged_averages
from lm_eval_prune.report.looks import margin_of
from lm_eval_prune.report.reading import Collection
from lm_eval_prune.report.runs import Chance, Missing, Problem, Run, shots_name
from lm_eval_prune.text import printable
from lm_eval_prune.variants import DENSE

__all__ = ["MARGIN", "BoardConfig", "compare"]

MARGIN = 0.01
"""How much worse than dense is acceptable where nobody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class BoardConfig:
    """What to compare, and how."""

    tasks: tuple[str, ...] = ()
    """All that were evaluated, if empty."""
    shots: tuple[int, ...] | Literal["own"] = ()
    """All, if empty; `own` is one row a variant, each task at the number of shots that it was evaluated at.

    It is taken where nothing is said and tasks have different numbers, each a single one."""
    metrics: tuple[str, ...] = METRICS
    """The first of these that a task has is its column."""
    margin: float | None = None
    """How much worse than dense is acceptable, in the metric's unit. None: what all rows were decided with, where all
    are a deciding sweep's; else MARGIN."""
    baseline: str | None = None
    """The model whose dense runs serve all rows; each model's own, if None."""
    against: str | None = None
    """The row that all rows are compared with, instead of dense: its name, or words that no other has."""
    strict: bool = False
    """Raise ArgumentError instead of naming problems beside the table."""
    flips: bool = False
    """List the documents whose answers flipped."""
    cluster: tuple[str, ...] = ()
    """Fields of documents that name what was drawn independently, such as a passage: `FIELD`, or `TASK=FIELD`."""

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 <= self.margin < math.inf:
            raise ArgumentError(f"margin={self.margin}: expected 0 or more, such as 0.01")
        for text in self.cluster:
            if not all(part.strip() for part in text.split("=", 1)):
                raise ArgumentError(f"cluster={text}: expected FIELD or TASK=FIELD, such as multirc=paragraph")

    def unit_fields(self, tasks: Iterable[str]) -> dict[str, str]:
        """Task -> its field, of the tasks that `cluster` speaks of. Raises ArgumentError for one that is not there."""
        tasks = list(tasks)
        found: dict[str, str] = {}
        for text in sorted(self.cluster, key=lambda text: "=" in text):  # what is said of one task comes last
            task, _, field = text.rpartition("=")
            if task and task not in tasks:
                raise ArgumentError(f"cluster={text}: task {task} not evaluated; there are {', '.join(tasks)}")
            found |= dict.fromkeys([task] if task else tasks, field)
        return found


def compare(collection: Collection, config: BoardConfig | None = None) -> Board:
    """The leaderboard of what was read. Raises ArgumentError, with `strict` also for what is not comparable."""
    config = config or BoardConfig()
    runs = _at_shots(collection.runs, config)
    columns = columns_of(runs, config.tasks, config.metrics)
    tasks = {column.task for column in columns}
    problems = list(collection.problems)
    runs, found = told_apart([run for run in runs if run.task in tasks])
    problems += [*found, *problems_of_runs(runs)]
    runs, found = without_repeats(runs)
    margin, told = margin_of(runs, config.margin, MARGIN)
    rows = grouped(runs)
    named = {key: _with_seeds(name, rows[key]) for key, name in labels(rows).items()}
    baselines: Baselines | Against = Baselines(runs, config.baseline)
    if config.against is not None:
        baselines = Against(rows, named, config.against)
    maker = CellMaker(list_flips=config.flips, unit_fields=config.unit_fields(column.task for column in columns))
    chances = chances_of(columns, runs)
    judging = chances if config.against is None else {}  # what is at chance is the dense model
    made = _made(rows, named, baselines, columns, margin, maker, judging)
    entries = _entries(rows, named, made, columns, margin, judging)
    wanted = [cell for cell in collection.missing if cell.task in tasks and _in_shots(cell, config)]
    problems += [*found, *baselines.problems(rows, named)]
    problems += problems_of_missing(wanted, _absent(entries, columns))
    problems += [*maker.problems, *_unpaired(entries)]
    problems = [problem._replace(message=printable(problem.message)) for problem in problems]  # errors, paths
    if config.strict:
        require_none(problems)
    problems += told  # the rows can be compared
    better = averaged_columns(columns)[0].higher_is_better
    return Board(
        columns=columns,
        entries=entries,
        problems=problems,
        declines=[] if config.against is not None else declines(entries, margin, better),
        margin=margin,
        reference=baselines.name if isinstance(baselines, Against) else "dense",
        flips=[flip for row in made.values() for cell in row.values() for flip in cell.flips],
        about=_about(entries, columns, maker, made, chances, judging),
        outcomes=maker.usable,
    )


def _made(
    rows: Mapping[RowKey, Mapping[str, list[Run]]],
    named: Mapping[RowKey, str],
    baselines: Baselines | Against,
    columns: Sequence[Column],
    margin: float,
    maker: CellMaker,
    chances: Mapping[Column, Chance],
) -> dict[RowKey, dict[Column, Made]]:
    """Each row's cells, with verdicts."""
    made: dict[RowKey, dict[Column, Made]] = {}
    for key, by_task in rows.items():
        made[key] = {}
        for column in columns:
            own = by_task.get(column.task, [])
            cell = maker(named[key], own, column, baselines.of(key, column.task, own))
            if cell is not None:
                made[key][column] = cell
    return judged(made, margin, chances)


def _entries(
    rows: Mapping[RowKey, Mapping[str, list[Run]]],
    named: Mapping[RowKey, str],
    made: Mapping[RowKey, Mapping[Column, Made]],
    columns: Sequence[Column],
    margin: float,
    chances: Mapping[Column, Chance],
) -> list[Entry]:
    """Ranked."""
    averages = judged_averages(rows, made, columns, margin, chances)
    entries = [_entry(key, named[key], rows[key], made[key], averages.get(key), columns) for key in rows]
    return _ranked(entries, columns)


def _about(
    entries: Sequence[Entry],
    columns: Sequence[Column],
    maker: CellMaker,
    made: Mapping[RowKey, Mapping[Column, Made]],
    chances: Mapping[Column, Chance],
    judging: Mapping[Column, Chance],
) -> dict[Column | None, About]:
    """Of each column and of the average: what it can detect, the units of its documents, and its chance level.

    judging: the chance levels that verdicts are made with.
    """
    found: dict[Column | None, About] = {}
    for column in columns:
        cells = [entry.cells[column] for entry in entries if column in entry.cells]
        fields = {maker.unit_field(run): None for entry in entries for run in entry.runs if run.task == column.task}
        found[column] = About(
            detectable=_median_detectable(cells),
            units=max((cell.num_units or 0 for cell in cells), default=0),
            unit_field=printable(next(iter(fields), "")),
            documents=max((cell.num_documents or 0 for cell in cells), default=0),
            chance=chances.get(column),
            at_chance=shots_at_chance(made, column, judging),
        )
    found[None] = About(
        _median_detectable([entry.average for entry in entries if entry.average is not None]),
        documents=sum(found[column].documents for column in averaged_columns(columns)),
        chance=chance_of_average(columns, chances),
    )
    return found


def _median_detectable(holders: Sequence[Cell | Average]) -> float:
    known = [one.difference.detectable for one in holders if one.difference is not None]
    return median([value for value in known if math.isfinite(value)] or [math.nan])


def _entry(
    key: RowKey,
    label: str,
    by_task: Mapping[str, list[Run]],
    made: Mapping[Column, Made],
    average: Average | None,
    columns: Sequence[Column],
) -> Entry:
    runs = [run for column in columns for run in by_task.get(column.task, [])]
    # Masks of one share have one size: any run's counts are the row's; the fullest record is taken.
    cost = max((run.cost for run in runs), key=lambda cost: sum(value is not None for value in vars(cost).values()))
    return Entry(
        label=label,
        model=f"{key.model} ({key.apart})" if key.apart else key.model,
        backend=key.backend,
        ranking=key.variant.ranking,
        prune_heads=key.variant.prune_heads,
        prune_ffns=key.variant.prune_ffns,
        oracle=any(run.variant.oracle for run in runs),
        num_fewshot=key.num_fewshot,
        seeds=_seeds(by_task),
        is_dense=key.variant == DENSE,
        cost=cost,
        cells={column: made[column].cell for column in columns if column in made},
        average=average,
        runs=runs,
        against={column: one.against for column, one in made.items()},
    )


def _seeds(by_task: Mapping[str, list[Run]]) -> tuple[int, ...]:
    seeds = {run.variant.seed for runs in by_task.values() for run in runs}
    return tuple(sorted(seed for seed in seeds if seed is not None))


def _with_seeds(name: str, by_task: Mapping[str, list[Run]]) -> str:
    number = len(_seeds(by_task))
    return f"{name} ({number} seeds)" if number > 1 else name


def _ranked(entries: Sequence[Entry], columns: Sequence[Column]) -> list[Entry]:
    """By number of shots, then rank, which entries of equal averages share; those without an average last."""
    sign = 1 if averaged_columns(columns)[0].higher_is_better else -1
    ranked = []
    for entry in entries:
        value = entry.average.value if entry.average else None
        better = sum(
            sign * (other.average.value - value) > 0
            for other in entries
            if value is not None and other.num_fewshot == entry.num_fewshot and other.average is not None
        )
        ranked.append(replace(entry, rank=None if value is None else better + 1))
    return sorted(ranked, key=lambda entry: (entry.num_fewshot, entry.rank or math.inf))


def _in_shots(cell: Missing, config: BoardConfig) -> bool:
    return not config.shots or config.shots == "own" or cell.num_fewshot in config.shots


def _at_shots(runs: Sequence[Run], config: BoardConfig) -> list[Run]:
    """The runs at the numbers of shots that are wanted. Raises ArgumentError where there are none, or no one number."""
    wanted = [run for run in runs if not config.tasks or run.task in config.tasks] or runs
    if config.shots == "own" or (not config.shots and have_shots_of_their_own(wanted)):
        return at_own_shots(wanted)
    found = [run for run in runs if not config.shots or run.num_fewshot in config.shots]
    if not found:
        there = ", ".join(map(str, sorted({run.num_fewshot for run in runs})))
        raise ArgumentError(f"shots {', '.join(map(str, config.shots))}: nothing evaluated; there are {there}")
    return found


def _absent(entries: Iterable[Entry], columns: Sequence[Column]) -> Iterable[tuple[str, str]]:
    for entry in entries:
        for column in columns:
            if column not in entry.cells:
                yield f"{entry.label}, {shots_name(entry.num_fewshot)}", str(column)


def _unpaired(entries: Sequence[Entry]) -> list[Problem]:
    """What was not compared document by document, or not on all of them."""
    where: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        for column, cell in entry.cells.items():
            if cell.difference is not None and cell.difference.note:
                where[cell.difference.note].append(f"{entry.label} on {column}, {shots_name(entry.num_fewshot)}")
    return [Problem("unpaired documents", f"{note}: {listed(names)}") for note, names in where.items()]
