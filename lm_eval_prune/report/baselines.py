"""The dense run that a run is compared with: of the same model, asked the same question; or why there is none."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.identity import QUESTION, UNKNOWN, differing
from lm_eval_prune.report.checks import listed
from lm_eval_prune.report.grouping import NATIVE, RowKey
from lm_eval_prune.report.runs import Problem, Run, shots_name

__all__ = ["Against", "Baselines"]


class Baselines:
    """Dense runs by model, task and shots; `baseline` names one model whose dense runs serve all.

    Raises ArgumentError where that one has none.
    """

    def __init__(self, runs: Sequence[Run], baseline: str | None = None) -> None:
        self._dense: dict[tuple[str, str, int], list[Run]] = defaultdict(list)
        for run in runs:
            if run.is_dense:
                self._dense[run.model, run.task, run.row_shots].append(run)
        self._serving = None if baseline is None else _chosen(baseline, [run for run in runs if run.is_dense])

    def of(self, key: RowKey, task: str, runs: Sequence[Run]) -> list[Run]:
        """The dense runs for `runs`, those of row `key` on `task`: one a few-shot seed.

        Of several, those computed in the same way, then ours rather than another backend's, then the newest.
        """
        found = self._dense.get((self._serving or key.model, task, key.num_fewshot), [])
        if self._serving not in (None, key.model):
            found = [dense for dense in found if not any(_asked_otherwise(run, dense) for run in runs)]
        found = sorted(found, key=lambda run: (run.apart == key.apart, run.backend == NATIVE, run.date), reverse=True)
        by_seed: dict[int | None, Run] = {}
        for run in found:
            by_seed.setdefault(run.fewshot_seed, run)
        return list(by_seed.values())

    def problems(
        self, rows: Mapping[RowKey, Mapping[str, Sequence[Run]]], labels: Mapping[RowKey, str]
    ) -> list[Problem]:
        """Baselines that are not one and the same, and rows that have none."""
        return [*self._several(), *self._lacking(rows, labels)]

    def _several(self) -> Iterable[Problem]:
        found: dict[Problem, None] = {}
        for (model, task, shots), dense in self._dense.items():
            if self._serving not in (None, model):
                continue
            dense = sorted(dense, key=lambda run: (run.backend == NATIVE, run.date), reverse=True)
            for run in dense[1:]:
                best = next(other for other in dense if other.fewshot_seed == run.fewshot_seed)
                if best is not run and best.apart == run.apart and best.values != run.values:
                    message = (
                        f"{model} on {task}, {shots_name(shots)}: dense runs {best.path.name} ({best.backend}) and "
                        f"{run.path.name} ({run.backend}) differ; variants are compared with {best.path.name}"
                    )
                    found[Problem("different dense baselines", message)] = None
        models = sorted({model for model, _, _ in self._dense})
        if self._serving is None and len(models) > 1:
            message = f"each model's variants are compared with its own dense runs: {', '.join(models)}"
            found[Problem("different dense baselines", message)] = None
        return found

    def _lacking(
        self, rows: Mapping[RowKey, Mapping[str, Sequence[Run]]], labels: Mapping[RowKey, str]
    ) -> Iterable[Problem]:
        where: dict[str, dict[str, None]] = defaultdict(dict)
        for key, by_task in rows.items():
            for task, runs in by_task.items():
                if not self.of(key, task, runs):
                    where[self._reason(key, task, runs[0])].setdefault(f"{labels[key]}, {shots_name(key.num_fewshot)}")
        for reason, names in where.items():
            yield Problem("no dense baseline", f"{listed(list(names))}: not compared: {reason}")

    def _reason(self, key: RowKey, task: str, run: Run) -> str:
        if self._serving is not None:
            there = self._dense.get((self._serving, task, key.num_fewshot), [])
            names = {name for dense in there for name in _asked_otherwise(run, dense)}
            nearest = there[0] if there else None
        else:
            same_name = [
                dense
                for (_, other, shots), found in self._dense.items()
                if other == task and shots == key.num_fewshot
                for dense in found
                if dense.name == run.name
            ]
            nearest = min(same_name, key=lambda dense: len(differing(run.identity, dense.identity)), default=None)
            names = set(differing(run.identity, nearest.identity)) if nearest else set()
        if nearest is None:
            return f"no dense run of {self._serving or run.name} on {task}"
        told = [f"{name} is {_value(nearest, name)}, here {_value(run, name)}" for name in sorted(names)]
        return f"the dense run {nearest.path.name} is of another model or question: {listed(told)}"


class Against:
    """One row that all others are compared with, instead of dense, at each number of shots.

    Raises ArgumentError where none is called so, or several are.
    """

    def __init__(
        self, rows: Mapping[RowKey, Mapping[str, list[Run]]], labels: Mapping[RowKey, str], wanted: str
    ) -> None:
        names = list(dict.fromkeys(labels.values()))
        words = wanted.lower().split()
        meant = [wanted] if wanted in names else [n for n in names if all(word in n.lower() for word in words)]
        if len(meant) != 1:
            near = meant or difflib.get_close_matches(wanted, names, cutoff=0.3) or names
            problem = "several rows have these words" if meant else "no row is called so"
            raise ArgumentError(f"against {wanted}: {problem}; expected one of: {listed(near)}")
        self.name = meant[0]
        self._rows = {key.num_fewshot: by_task for key, by_task in rows.items() if labels[key] == self.name}

    def of(self, key: RowKey, task: str, runs: Sequence[Run]) -> list[Run]:
        """The row's runs on `task` at the number of shots of row `key`."""
        return self._rows.get(key.num_fewshot, {}).get(task, [])

    def problems(
        self, rows: Mapping[RowKey, Mapping[str, Sequence[Run]]], labels: Mapping[RowKey, str]
    ) -> list[Problem]:
        """Numbers of shots at which there is no such row."""
        lacking = sorted({key.num_fewshot for key in rows} - self._rows.keys())
        return [Problem("nothing to compare with", f"{self.name}: none at {shots_name(shots)}") for shots in lacking]


def _chosen(baseline: str, dense: Sequence[Run]) -> str:
    """The model that `baseline` names: as rows do, or without what tells several apart, where only one is meant."""
    names = {run.model for run in dense}
    meant = {baseline} & names or {run.model for run in dense if baseline == run.name}
    if len(meant) != 1:
        there = ", ".join(sorted(meant or names)) or "none"
        problem = "several models" if meant else "no dense runs"
        raise ArgumentError(f"baseline {baseline}: {problem}; there are those of {there}")
    return meant.pop()


def _asked_otherwise(run: Run, dense: Run) -> list[str]:
    """The settings of the question that are known to differ."""
    return [
        name
        for name in differing(run.identity, dense.identity, QUESTION)
        if UNKNOWN not in (run.identity.get(name), dense.identity.get(name))
    ]


def _value(run: Run, name: str) -> str:
    value = run.identity.get(name, "the default")
    return value if len(value) <= 40 else f"{value[:12]}…"
