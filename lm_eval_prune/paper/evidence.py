"""What a folder holds of the study: a board for each part of it, scores of importance, and induction scores.

Whatever wrote the files: `paper`, or `sweep`, `importance` and `induction` one by one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.agreement import Family, agreement_families
from lm_eval_prune.report.apart import told_apart
from lm_eval_prune.report.board import Board, Entry
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import Collection, read_collection
from lm_eval_prune.report.runs import Problem, Run
from lm_eval_prune.report.score_sets import AGGREGATE, ScoreSet, is_aggregate, score_sets
from lm_eval_prune.text import printable
from lm_eval_prune.variants import Variant

__all__ = ["PARTS", "Evidence", "ScoresByTask", "read_evidence"]

PARTS = ("heads", "ffns", "combined", "transfer", "unseen")
"""What was pruned: heads, FFNs, both, heads by other tasks' scores, heads on tasks outside the study."""
HEADS_METHOD, FFNS_METHOD = "gradient", "knockout"
"""The paper's importance."""
INDUCTION = ("prefix-matching", "copying")
DONORS = "task:"
OF_TASKS = "aggregate:"

ScoresByTask = Mapping[str, np.ndarray]
"""Task -> scores, larger is more important."""


@dataclass
class Evidence:
    """All that the report is made of."""

    folder: Path
    model: str
    boards: dict[str, Board] = field(default_factory=dict)
    """Part -> its board: the tasks that have every row of it; absent where nothing was evaluated."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """Part -> what is to be known of its board."""
    scores: ScoreSet = field(default_factory=lambda: ScoreSet(""))
    """Importance of the model's heads and FFNs."""
    induction: dict[str, ImportanceScores] = field(default_factory=dict)
    """Method -> scores of the heads, with their variance over sequences."""
    families: list[Family] = field(default_factory=list)
    """Whether the rankings of its heads agree, with p-values: between tasks, shots, and with induction scores."""
    problems: list[Problem] = field(default_factory=list)
    sweep: Path | None = None
    """The folder of the sweep with the most tasks."""
    outside: frozenset[str] = frozenset()
    """Tasks that have no part in the study, though they may have importance of their own."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of that sweep's grid: what commands for the rest take from it."""

    def by_task(self, component: str, num_fewshot: int) -> dict[str, np.ndarray]:
        """Task -> importance at a number of shots: gradients of heads, knockouts of FFNs; without their mean."""
        found = self.scores.importance.get((component, _method(component)), {})
        return {
            task: scores for (task, shots), scores in found.items() if shots == num_fewshot and not is_aggregate(task)
        }

    def score_shots(self, component: str) -> list[int]:
        """Numbers of shots at which there is importance of tasks."""
        found = self.scores.importance.get((component, _method(component)), {})
        return sorted({shots for task, shots in found if shots is not None and not is_aggregate(task)})

    def capacity(self, kind: str) -> np.ndarray | None:
        """Scores of `prefix-matching` or `copying`, (num_hidden_layers, num_attention_heads); None without any.

        Of several definitions of copying, the first by name.
        """
        found = self.induction_of(kind)
        return None if found is None else np.array(found.scores, dtype=float)

    def induction_of(self, kind: str) -> ImportanceScores | None:
        """The file behind `capacity`."""
        names = sorted(method for method in self.induction if method.startswith(kind))
        preferred = next((name for name in names if name.endswith("olsson2022")), None)
        return self.induction[preferred or names[0]] if names else None

    def mean_ranking(self) -> str:
        """What the study's mean importance is called where tasks outside are pruned by it; empty without any."""
        board = self.boards.get("unseen")
        return next((one.ranking for one in board.entries if one.ranking.startswith(OF_TASKS)), "") if board else ""

    def entry(self, part: str, ranking: str, heads: str, ffns: str, num_fewshot: int) -> Entry | None:
        """The row of a board."""
        entries = self.boards[part].entries if part in self.boards else ()
        for entry in entries:
            place = entry.ranking, entry.num_fewshot
            shares = float(entry.prune_heads), float(entry.prune_ffns)
            if place == (ranking, num_fewshot) and shares == (float(heads), float(ffns)):
                return entry
        return None

    def dense(self, part: str, num_fewshot: int) -> Entry | None:
        """The dense row of a board."""
        return self.entry(part, "dense", "0", "0", num_fewshot)


def _method(component: str) -> str:
    return HEADS_METHOD if component == "heads" else FFNS_METHOD


def read_evidence(folder: Path) -> Evidence:
    """Everything below `folder`. Raises ArgumentError where nothing was evaluated."""
    collection = read_collection([folder])
    runs, _ = told_apart(collection.runs)  # which way of computing is shown, each part says
    names = Counter(run.name for run in runs)
    model = names.most_common(1)[0][0]
    problems = list(collection.problems)
    if len(names) > 1:
        others = ", ".join(name for name in names if name != model)
        problems.append(Problem("several models", f"this report is of {model}; not of {others}"))
    made = Evidence(folder, printable(model), problems=problems, outside=_outside(collection))
    for path, config in collection.plans:
        if _size(config) > _size(made.settings):
            made.sweep, made.settings = path.parents[1], config
    _read_scores(made, collection, model)
    own = [run for run in runs if run.name == model]
    for part in PARTS:
        _add_board(made, part, own, collection)
    return made


def _outside(collection: Collection) -> frozenset[str]:
    """Tasks of grids that prune by the mean importance of other tasks alone; none that is in a mean of its grid too."""
    found: set[str] = set()
    for _, config in collection.plans:
        tasks = set(map(str, config.get("tasks") or ()))
        named = {task for ranking in config.get("ranking") or () for task in _tasks_of(str(ranking))}
        if named and tasks.isdisjoint(named):
            found |= tasks
    return frozenset(found - {run.task for run in collection.runs if run.variant.ranking == AGGREGATE})


def _size(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Tasks and numbers of shots of a grid."""
    return len(settings.get("tasks") or ()), len(settings.get("num_fewshot") or ())


def _read_scores(made: Evidence, collection: Collection, model: str) -> None:
    """The scores of the model. Where two folders have the same, that with more files is taken."""
    inside = [item for item in collection.importance if item[1].settings.get("task") not in made.outside]
    sizes = Counter(path.parent for path, _ in inside)
    ordered = sorted(inside, key=lambda item: sizes[item[0].parent])
    sets = {found.model: found for found in score_sets(ordered)}
    if model in sets:
        made.scores = sets[model]
    for _, file in ordered:
        method = printable(str(file.settings.get("method")))
        if file.settings.get("model") == model and file.component == "heads" and method.startswith(INDUCTION):
            made.induction[method] = file
    heads = [(path, file) for path, file in ordered if _ranks_heads(file, model)]
    made.families = agreement_families(heads)


def _ranks_heads(file: ImportanceScores, model: str) -> bool:
    method = str(file.settings.get("method"))
    ours = method == HEADS_METHOD or method.startswith(INDUCTION)
    return file.component == "heads" and file.settings.get("model") == model and ours


def _add_board(made: Evidence, part: str, runs: Sequence[Run], collection: Collection) -> None:
    """The part's board, of the runs that were computed in the way that most of its own were."""
    ways: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        ways.setdefault((run.model, run.backend, run.apart), []).append(run)
    studied = {run.task for run in runs if run.variant.ranking == "own"}
    if part != "unseen":
        ways = {way: [run for run in own if run.task not in made.outside] for way, own in ways.items()}
    defining = {way: [run for run in own if _defines(part, run, studied - made.outside)] for way, own in ways.items()}
    defining = {way: own for way, own in defining.items() if own}
    if not defining:
        return
    way = max(defining, key=lambda way: len(defining[way]))
    tasks, notes = _whole_tasks(defining[way])
    if len(defining) > 1:
        said = f"{printable(way[0])}{f' ({way[2]})' if way[2] else ''}"
        notes.append(
            f"Shown is {said}, which has the most cells of {len(defining)} ways in which the model was evaluated"
        )
    shots = {run.num_fewshot for run in defining[way]}
    rankings = {run.variant.ranking for run in defining[way]}
    kept = [
        run
        for run in ways[way]
        if run.task in tasks and run.num_fewshot in shots and (run.is_dense or _belongs(part, run.variant))
    ]
    if part == "combined":  # heads or FFNs alone too, by the rankings that both were pruned by
        kept = [run for run in kept if run.is_dense or run.variant.ranking in rankings]
    if missing := sum(_belongs(part, cell.variant) and cell.task in tasks for cell in collection.missing):
        notes.append(f"{missing} of its cells are missing")
    board = compare(Collection(runs=kept), BoardConfig(tasks=tuple(tasks)))
    problems = board.problems
    if part == "unseen" and (without := [task for task in tasks if not _has_own(task, kept)]):
        # As planned: the table's gaps are no fault, and cells that a plan lacks are told of by themselves.
        problems = [problem for problem in problems if problem.kind != "missing results"]
        notes.append(f"Not pruned by importance of their own, so by the study's mean alone: {', '.join(without)}")
    made.boards[part], made.notes[part] = board, notes
    made.problems += [problem for problem in problems if problem not in made.problems]


def _has_own(task: str, runs: Sequence[Run]) -> bool:
    return any(run.task == task and run.variant.ranking == "own" for run in runs)


def _whole_tasks(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """(the tasks that have most rows, what is said of the others): an average is over tasks that have every row."""
    rows: dict[str, set[tuple[Variant, int]]] = defaultdict(set)
    for run in runs:
        rows[run.task].add((run.variant._replace(oracle=False), run.num_fewshot))
    most = max(map(len, rows.values()))
    out = [f"{task} ({len(found)} of {most} rows)" for task, found in rows.items() if len(found) < most]
    return [task for task in rows if len(rows[task]) == most], [f"Left out: {', '.join(out)}"] if out else []


def _defines(part: str, run: Run, studied: Container[str]) -> bool:
    """Whether a cell is there for this part alone; `studied` are the tasks that have importance of their own."""
    variant = run.variant
    if part == "combined":
        return _belongs(part, variant) and all(map(float, (variant.prune_heads, variant.prune_ffns)))
    if part == "transfer":
        return _belongs(part, variant) and variant.ranking.startswith(DONORS)
    if part == "unseen":
        tasks = _tasks_of(variant.ranking)
        return _belongs(part, variant) and bool(tasks) and run.task not in tasks and run.task not in studied
    return _belongs(part, variant)


def _belongs(part: str, variant: Variant) -> bool:
    """Whether a cell is of this part; dense ones are of all, and added to each."""
    heads, ffns, ranking = float(variant.prune_heads), float(variant.prune_ffns), variant.ranking
    named = bool(_tasks_of(ranking))
    if part == "combined":
        return bool(heads or ffns) and ranking in ("own", AGGREGATE)
    if part == "transfer":
        return bool(heads) and not ffns and (ranking in ("own", AGGREGATE) or ranking.startswith(DONORS))
    if part == "unseen":
        return bool(heads) and not ffns and (named or ranking == "own")
    alone = bool(heads) and not ffns if part == "heads" else bool(ffns) and not heads
    return alone and ranking.startswith(("own", AGGREGATE)) and not named


def _tasks_of(ranking: str) -> list[str]:
    """The tasks that `aggregate:TASK+TASK` names; none of `aggregate` and `aggregate:5`."""
    if not ranking.startswith(OF_TASKS):
        return []
    tasks = ranking.removeprefix(OF_TASKS).partition("@")[0].split("+")
    return [] if tasks[0].isdecimal() else tasks
