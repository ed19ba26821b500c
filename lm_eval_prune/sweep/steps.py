"""What rankings that are rescored need next: each step's scores are known to be needed once the one before is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lm_eval_prune.errors import PruneError
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.jobs import ImportanceJob
from lm_eval_prune.sweep.ranking import Ranking, parse_ranking
from lm_eval_prune.sweep.rankings import Masks, NotComputedError
from lm_eval_prune.sweep.rescoring import steps_to
from lm_eval_prune.sweep.setup import Setup
from lm_eval_prune.sweep.sources import pruned_components, sources_of
from lm_eval_prune.sweep.tasks import PlannedTask

__all__ = ["Steps"]

Chain = tuple[Ranking, str, PlannedTask, str]
"""A ranking, the component that it prunes, the task that it does so for, and the largest share."""


class Steps:
    """The chains of scores of some grids in one folder, each followed as its scores are found."""

    def __init__(self, configs: Sequence[SweepConfig], tasks: Sequence[PlannedTask], setup: Setup) -> None:
        self._chains: dict[tuple[str, ...], tuple[Masks, Chain]] = {}
        self._awaited: dict[tuple[str, ...], set[str]] = {}
        """Names of the scores that a chain's next step needs."""
        for config in configs:
            masks = Masks(config, tasks, {}, setup.shape, setup.num_key_value_heads)
            self._chains |= {key: (masks, chain) for key, chain in _chains(config, tasks)}

    def total(self) -> int:
        """Files that the steps behind the first ones take, where no two chains come to the same mask."""
        return sum(_length(masks, chain) for masks, chain in self._chains.values())

    def needed(self, found: Mapping[ImportanceJob, ImportanceScores | PruneError]) -> list[ImportanceJob]:
        """What the scores that were `found` show to be needed and is not among them; told once.

        A chain ends where a step of it could not be computed.
        """
        by_name = {job.name: scores for job, scores in found.items()}
        jobs: dict[str, ImportanceJob] = {}
        for key, (masks, (ranking, component, task, share)) in self._chains.items():
            if key in self._awaited and not self._awaited[key] & by_name.keys():
                continue  # nothing new for it
            masks.importance |= by_name
            self._awaited[key] = set()
            try:
                masks.grown(ranking, component, share, task)
            except NotComputedError as error:
                self._awaited[key] = {job.name for job in error.jobs}
                jobs |= {job.name: job for job in error.jobs}
            except PruneError:
                continue  # told with the cells that need it
        return list(jobs.values())


def _chains(config: SweepConfig, tasks: Sequence[PlannedTask]) -> Iterator[tuple[tuple[str, ...], Chain]]:
    shares = {"heads": config.prune_heads, "ffns": config.prune_ffns}
    for ranking in map(parse_ranking, config.ranking):
        if ranking.step is None:
            continue
        for component in pruned_components(config, ranking):
            largest = max(shares[component], key=parse_fraction)
            for task in tasks:
                if task.error is None:
                    first = sources_of(config, ranking, component, task, tasks)
                    yield (
                        (ranking.text, component, largest, *(job.name for job in first)),
                        (
                            ranking,
                            component,
                            task,
                            largest,
                        ),
                    )


def _length(masks: Masks, chain: Chain) -> int:
    ranking, component, task, share = chain
    assert ranking.step is not None
    steps = len(steps_to(ranking.step, parse_fraction(share))) - 1
    return steps * len(sources_of(masks.config, ranking, component, task, masks.tasks))
