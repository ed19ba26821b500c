"""From a ranking to masks: what the importance that it takes prunes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lm_eval_prune.analysis import spearman_matrix
from lm_eval_prune.components import heads_per_unit
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.importance.aggregate import aggregate_files
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.selection import random_mask, ranked_mask
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.jobs import ImportanceJob
from lm_eval_prune.sweep.ranking import Ranking, parse_ranking
from lm_eval_prune.sweep.sources import Aggregate, importance_path, sources_of
from lm_eval_prune.sweep.tasks import PlannedTask
from lm_eval_prune.variants import Variant

__all__ = ["Chosen", "Donor", "Masks", "given_importance"]

DIGITS = 12
"""Of rho, when donors are compared: beyond is rounding, and equal ones go by the grid's order."""


class Chosen(NamedTuple):
    """What a ranking makes of a variant on a task."""

    mask: PruningMask
    oracle: bool = False
    """Whether its scores saw the documents that are then evaluated."""
    donor: str = ""
    """The task whose scores it took, where the ranking chose it; where heads' and FFNs' differ, both with `+`."""


class Donor(NamedTuple):
    """The task whose scores a ranking takes for another one."""

    job: ImportanceJob
    rho: float
    """Spearman's, between both tasks' scores."""


def given_importance(config: SweepConfig, shape: tuple[int, int]) -> dict[str, ImportanceScores]:
    """The importance files of the user's that the grid's rankings name.

    Raises PruneError for those that cannot be read, or are for a model of another `shape`.
    """
    names = dict.fromkeys(file for text in config.ranking for file in parse_ranking(text).files)
    files = {name: ImportanceScores.load(name) for name in names}
    for name, scores in files.items():
        _require_shape(scores, shape, f"ranking {name}")
    return files


class Masks:
    """The mask of each variant. `importance` holds the scores that were computed, or why they could not be."""

    def __init__(
        self,
        config: SweepConfig,
        tasks: Sequence[PlannedTask],
        importance: Mapping[ImportanceJob, ImportanceScores | PruneError],
        shape: tuple[int, int],
        num_key_value_heads: int | None = None,
    ) -> None:
        """Raises PruneError for importance files of the user's that cannot be read, or are for another model."""
        self.config, self.tasks, self.shape = config, tasks, shape
        self.importance = {job.name: scores for job, scores in importance.items()}
        self.num_key_value_heads = num_key_value_heads
        self.files = given_importance(config, shape)
        self.aggregates: dict[Aggregate, ImportanceScores] = {}
        self.donors: dict[tuple[str, str, ImportanceJob], Donor] = {}
        """(ranking, component, the task's own scores) -> whose it takes."""

    def of(self, ranking: Ranking, variant: Variant, task: PlannedTask) -> Chosen:
        """The mask of `variant` for `task`. Raises PruneError where scores are missing."""
        unit: Any = {"unit": ranking.unit, "num_key_value_heads": self.num_key_value_heads}
        if ranking.kind == "random":
            unit |= {"prune_heads": variant.prune_heads, "prune_ffns": variant.prune_ffns}
            return Chosen(random_mask(*self.shape, seed=variant.seed or 0, **unit))
        arguments: dict[str, Any] = {}
        used: list[ImportanceScores] = []
        donors: dict[str, None] = {}
        for component, share in (("heads", variant.prune_heads), ("ffns", variant.prune_ffns)):
            if share == "0":
                continue
            scores, *looked_at = self._scores(ranking, component, task)
            _require_shape(scores, self.shape, f"ranking {ranking.text}")
            kind = component.removesuffix("s")
            arguments |= {f"{kind}_scores": scores.tensor(), f"{kind}_fraction": share}
            if ranking.left_out:
                arguments |= {"without_scores": looked_at[0].tensor(), "leave_out": ranking.share_left_out}
            used += [scores, *looked_at]
            if ranking.kind == "donor":
                donors[self._donor(ranking, component, task).job.task] = None
        mask = ranked_mask(num_attention_heads=self.shape[1], order=ranking.order, **unit, **arguments)
        return Chosen(mask, any(task.name in scores.oracle_on for scores in used), "+".join(donors))

    def _scores(self, ranking: Ranking, component: str, task: PlannedTask) -> list[ImportanceScores]:
        """The scores that `ranking` goes by, and then those that it was chosen with, or leaves out by."""
        if ranking.kind == "files":
            for file in ranking.files:
                if self.files[file].component == component:
                    return [self.files[file]]
            raise ArgumentError(f"ranking {ranking.text}: no scores of {component} in it, but the grid prunes them")
        if ranking.kind == "aggregate":
            return [self._aggregate(ranking, component, task)]
        if ranking.kind == "donor":
            own = sources_of(self.config, ranking, component, task, self.tasks)[0]
            return [self._computed(self._donor(ranking, component, task).job), self._computed(own)]
        return [self._computed(job) for job in sources_of(self.config, ranking, component, task, self.tasks)]

    def _computed(self, job: ImportanceJob) -> ImportanceScores:
        found = self.importance.get(job.name, PruneError(f"{job.name}: not computed"))
        if isinstance(found, PruneError):
            raise found
        return found

    def _aggregate(self, ranking: Ranking, component: str, task: PlannedTask) -> ImportanceScores:
        shots = task.num_fewshot if ranking.num_fewshot is None else ranking.num_fewshot
        key = component, shots, ranking.tasks
        if key not in self.aggregates:
            self._require_whole_grid(ranking)
            jobs = sources_of(self.config, ranking, component, task, self.tasks)
            for job in jobs:
                self._computed(job)
            scores = aggregate_files([importance_path(self.config, job) for job in jobs])
            if ranking.tasks:
                name = f"aggregate:{'+'.join(ranking.tasks)}"
                scores = replace(scores, settings={**scores.settings, "aggregate": name})
            self.aggregates[key] = scores
        return self.aggregates[key]

    def _donor(self, ranking: Ranking, component: str, task: PlannedTask) -> Donor:
        """The other task of the grid whose scores agree most, or least, with the task's own.

        By Spearman's rho over the units that the ranking ranks; of equal ones the first in the grid. Scores that are
        all equal agree with nothing. Raises PruneError where no other task's scores can be compared.
        """
        own, *others = sources_of(self.config, ranking, component, task, self.tasks)
        key = ranking.text, component, own
        if key not in self.donors:
            self._require_whole_grid(ranking)
            arrays = [self._by_unit(ranking, self._computed(job)) for job in (own, *others)]
            sign = 1 if ranking.task == "closest" else -1
            rhos = [round(float(rho), DIGITS) for rho in spearman_matrix(arrays)[0][0, 1:]]
            found = [place for place, rho in enumerate(rhos) if not math.isnan(rho)]
            if not found:
                raise PruneError(f"ranking {ranking.text}: no other task's scores can be compared with {task.name}'s")
            best = max(found, key=lambda place: sign * rhos[place])
            self.donors[key] = Donor(others[best], rhos[best])
        return self.donors[key]

    def _by_unit(self, ranking: Ranking, scores: ImportanceScores) -> np.ndarray:
        """(num_hidden_layers, units of a layer) for heads, (num_hidden_layers,) for FFNs."""
        values = np.asarray(scores)
        if values.ndim == 1:
            return values
        size = heads_per_unit(ranking.unit, values.shape[1], self.num_key_value_heads)
        return values.reshape(len(values), -1, size).sum(-1)

    def _require_whole_grid(self, ranking: Ranking) -> None:
        """A task that cannot be loaded now would change what the others are pruned by, once it can."""
        for task in self.tasks if ranking.of_the_grid else ():
            if task.error is not None:
                raise task.error


def _require_shape(scores: ImportanceScores, shape: tuple[int, int], where: str) -> None:
    if scores.shape != shape:
        raise ArgumentError(
            "{}: scores of {} layers of {} heads; the model has {} of {}".format(where, *scores.shape, *shape)
        )
