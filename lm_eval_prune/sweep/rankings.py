"""From a ranking to masks: what the importance that it takes prunes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from lm_eval_prune.analysis import spearman_matrix
from lm_eval_prune.components import heads_per_unit
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.importance.aggregate import aggregate_files
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.mask_files import mask_digest
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.ranked_masks import random_mask, ranked_mask
from lm_eval_prune.selection import component_scores, read_mask_file
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.jobs import ImportanceJob
from lm_eval_prune.sweep.ranking import Ranking, parse_ranking
from lm_eval_prune.sweep.rescoring import grown_in_steps
from lm_eval_prune.sweep.sources import Aggregate, importance_path, sources_of
from lm_eval_prune.sweep.tasks import PlannedTask
from lm_eval_prune.variants import Variant, file_name

__all__ = ["Chosen", "Donor", "Masks", "NotComputedError", "given_importance", "given_masks", "mask_variant"]

DIGITS = 12
"""Of rho, when donors are compared: beyond is rounding, and equal ones go by the grid's order."""


class Chosen(NamedTuple):
    """What a ranking makes of a variant on a task."""

    mask: PruningMask
    oracle: bool = False
    """Whether its scores saw the documents that are then evaluated."""
    donor: str = ""
    """The task whose scores it took, where the ranking chose it; where heads' and FFNs' differ, both with `+`."""


class NotComputedError(PruneError):
    """Scores that a mask is made from are not there."""

    def __init__(self, jobs: Sequence[ImportanceJob]) -> None:
        super().__init__(f"{jobs[0].name}: not computed")
        self.jobs = jobs


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


def given_masks(config: SweepConfig, shape: tuple[int, int]) -> dict[str, PruningMask]:
    """The mask files of the user's that the grid names. Raises PruneError for one of a model of another shape."""
    masks = {path: read_mask_file(path, shape, say=False) for path in dict.fromkeys(config.masks)}
    for path, mask in masks.items():
        if mask.shape != shape:
            raise ArgumentError(
                "mask {}: {} layers of {} heads; the model has {} of {}".format(path, *mask.shape, *shape)
            )
    return masks


def mask_variant(path: str, mask: PruningMask) -> Variant:
    """What rows call a mask file: by its name and folder, and the shares that it prunes, to four decimals."""
    heads, ffns = mask.num_pruned_heads / mask.num_heads, mask.num_pruned_ffns / mask.num_hidden_layers
    return Variant(f"mask:{file_name(path)}", f"{round(heads, 4):g}", f"{round(ffns, 4):g}")


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
        self._made: dict[tuple[str, str, str, int], dict[Fraction, PruningMask]] = {}
        """(ranking, component, task, shots) -> the mask where each step ends."""
        self._grown: dict[tuple[str, str, str, int, str], tuple[PruningMask, list[ImportanceScores]]] = {}
        """The same and a share -> its mask, and the scores of its steps."""

    def of(self, ranking: Ranking, variant: Variant, task: PlannedTask) -> Chosen:
        """The mask of `variant` for `task`. Raises PruneError where scores are missing."""
        unit: Any = {"unit": ranking.unit, "num_key_value_heads": self.num_key_value_heads}
        shares = [("heads", variant.prune_heads), ("ffns", variant.prune_ffns)]
        if ranking.unit == "layer":
            unit, shares = {"unit": "head"}, [("layers", variant.prune_heads)]
        if ranking.kind == "random" and ranking.unit == "layer":
            return Chosen(random_mask(*self.shape, seed=variant.seed or 0, prune_layers=variant.prune_heads))
        if ranking.kind == "random":
            unit |= {"prune_heads": variant.prune_heads, "prune_ffns": variant.prune_ffns}
            return Chosen(random_mask(*self.shape, seed=variant.seed or 0, **unit))
        arguments: dict[str, Any] = {}
        parts: list[PruningMask] = []
        used: list[ImportanceScores] = []
        donors: dict[str, None] = {}
        for component, share in shares:
            if share == "0":
                continue
            if ranking.step is not None:
                mask, seen = self.grown(ranking, component, share, task)
                parts.append(mask)
                used += seen
                continue
            scores, *looked_at = self._scores(ranking, component, task)
            _require_shape(scores, self.shape, f"ranking {ranking.text}")
            kind = component.removesuffix("s")
            own = component_scores(scores, component, ranking.unit, where=f"ranking {ranking.text}")
            arguments |= {f"{kind}_scores": own, f"{kind}_fraction": share}
            if ranking.left_out:
                arguments |= {"without_scores": looked_at[0].tensor(), "leave_out": ranking.share_left_out}
            used += [scores, *looked_at]
            if ranking.kind == "donor":
                donors[self._donor(ranking, component, task).job.task] = None
        if arguments:
            parts.append(ranked_mask(num_attention_heads=self.shape[1], order=ranking.order, **unit, **arguments))
        mask = functools.reduce(PruningMask.__or__, parts)
        return Chosen(mask, any(task.name in scores.oracle_on for scores in used), "+".join(donors))

    def grown(
        self, ranking: Ranking, component: str, share: str, task: PlannedTask
    ) -> tuple[PruningMask, list[ImportanceScores]]:
        """The mask of one component's share by a ranking that is rescored, and the scores of each step.

        Raises NotComputedError, which names the scores of the first step that is not there.
        """
        key = ranking.text, component, task.name, task.num_fewshot
        if (*key, share) in self._grown:
            return self._grown[(*key, share)]
        used: list[ImportanceScores] = []

        def scores_under(mask: PruningMask | None) -> ImportanceScores:
            if ranking.kind == "aggregate":
                found = self._aggregate(ranking, component, task, mask)
            else:
                (job,) = sources_of(self.config, ranking, component, task, self.tasks)
                found = self._computed(job._replace(under=mask))
            _require_shape(found, self.shape, f"ranking {ranking.text}")
            used.append(found)
            return found

        made = self._made.setdefault(key, {})
        choice: Any = {"num_key_value_heads": self.num_key_value_heads, "made": made}
        mask = grown_in_steps(ranking, parse_fraction(share), self.shape, scores_under, **choice)
        return self._grown.setdefault((*key, share), (mask, used))

    def _scores(self, ranking: Ranking, component: str, task: PlannedTask) -> list[ImportanceScores]:
        """The scores that `ranking` goes by, and then those that it was chosen with, or leaves out by."""
        if ranking.kind == "files":
            for file in ranking.files:
                if self.files[file].component in _taken_for(component, ranking):
                    return [self.files[file]]
            raise ArgumentError(f"ranking {ranking.text}: no scores of {component} in it, but the grid prunes them")
        if ranking.kind == "aggregate":
            return [self._aggregate(ranking, component, task)]
        if ranking.kind == "donor":
            own = sources_of(self.config, ranking, component, task, self.tasks)[0]
            return [self._computed(self._donor(ranking, component, task).job), self._computed(own)]
        return [self._computed(job) for job in sources_of(self.config, ranking, component, task, self.tasks)]

    def _computed(self, job: ImportanceJob) -> ImportanceScores:
        found = self.importance.get(job.name, NotComputedError([job]))
        if isinstance(found, PruneError):
            raise found
        return found

    def _aggregate(
        self, ranking: Ranking, component: str, task: PlannedTask, under: PruningMask | None = None
    ) -> ImportanceScores:
        shots = task.num_fewshot if ranking.num_fewshot is None else ranking.num_fewshot
        key = component, shots, ranking.tasks, under
        if key not in self.aggregates:
            self._require_whole_grid(ranking)
            sources = sources_of(self.config, ranking, component, task, self.tasks)
            jobs = [job._replace(under=under) for job in sources]
            if left := [job for job in jobs if job.name not in self.importance]:
                raise NotComputedError(left)
            for job in jobs:
                self._computed(job)
            scores = aggregate_files([importance_path(self.config, job) for job in jobs])
            if ranking.tasks:
                name = f"aggregate:{'+'.join(ranking.tasks)}"
                scores = replace(scores, settings={**scores.settings, "aggregate": name})
            if under is not None:
                scores = replace(scores, settings={**scores.settings, "under": mask_digest(under)})
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


def _taken_for(component: str, ranking: Ranking) -> tuple[str, ...]:
    """The components whose scores a ranking takes to prune this one."""
    return (component, "attention") if (component, ranking.unit) == ("heads", "attention") else (component,)


def _require_shape(scores: ImportanceScores, shape: tuple[int, int], where: str) -> None:
    if scores.shape != shape:
        raise ArgumentError(
            "{}: scores of {} layers of {} heads; the model has {} of {}".format(where, *scores.shape, *shape)
        )
