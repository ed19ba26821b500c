"""Whoever computes: loads the model once, and answers jobs. Knows nothing of the sweep's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.budget import free_memory
from lm_eval_prune.errors import PruneError, ScoreError
from lm_eval_prune.harness.cells import CellResult, Documents, Part, TaskRun
from lm_eval_prune.harness.importance import ImportanceConfig, scores_of
from lm_eval_prune.harness.induction import InductionConfig, prefix_matching_of
from lm_eval_prune.harness.means import MeansConfig, means_of
from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.harness.tasks import Seeds, task_metadata
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.sequential import documents_at
from lm_eval_prune.sweep.jobs import CellBatch, Failure, Group, ImportanceJob, Job, Outcome
from lm_eval_prune.sweep.setup import model_arguments
from lm_eval_prune.sweep.sources import INDUCTION, method_of

if TYPE_CHECKING:
    from lm_eval_prune.sweep.config import SweepConfig

__all__ = ["Worker", "importance_config", "induction_config", "means_config"]


class Worker:
    """One process's model, and the requests of the task that it was last at."""

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self._lm: PrunedModel | None = None
        self._run: tuple[Group, TaskRun] | None = None

    def model(self) -> PrunedModel:
        """The model, loaded when it is first asked for. Raises PruneError."""
        if self._lm is None:
            settings = {"batch_size": self.config.batch_size, "device": self.config.device}
            self._lm = PrunedModel.create_from_arg_obj(model_arguments(self.config), settings)
        return self._lm

    def run(self, job: Job, progress: Callable[[float], None] = lambda share: None) -> Iterator[Outcome]:
        """An outcome for each of the job's keys, as they come. Of several launched processes the first yields them.

        `progress` is told of shares of one cell's work. Raises PruneError where the model cannot be loaded: no cell is
        to blame for that.
        """
        self.model()
        self.model().means = job.means
        if isinstance(job, ImportanceJob):
            yield self._importance(job)
        else:
            yield from self._cells(job, progress)

    def task_run(self, group: Group) -> TaskRun:
        """The group's requests, built anew unless they were the last ones."""
        if self._run is None or self._run[0] != group:
            config = self.config
            self._run = None
            run = TaskRun(
                self.model(),
                group.member,
                num_fewshot=group.num_fewshot,
                limit=config.limit,
                seeds=Seeds(numpy=config.seed, torch=config.seed, fewshot=group.fewshot_seed),
                bootstrap_iters=config.bootstrap_iters,
                include_path=config.include_path,
                include_defaults=config.include_defaults,
                metadata=task_metadata(config.model_args, config.metadata),
                part=None if config.part == "all" else Part(config.part, config.development_share, config.split_seed),
            )
            self._run = group, run
        return self._run[1]

    def _cells(self, batch: CellBatch, progress: Callable[[float], None]) -> Iterator[Outcome]:
        try:
            run = self.task_run(batch.group)
        except Exception as error:  # whatever a task raises is its cells' failure, and no other's
            yield from (Outcome(cell, Failure.of(error), 0.0) for cell in batch.cells)
            return
        start, settled = time.perf_counter(), 0
        try:
            results = run.results(batch.masks, progress, _documents_of(batch, run))
            for cell, found in zip(batch.cells, results, strict=True):
                seconds = (time.perf_counter() - start) / len(batch.cells)
                settled += 1
                if found is not None:
                    value: CellResult | Failure = Failure.of(found) if isinstance(found, ScoreError) else found
                    yield Outcome(cell, value, seconds)
        except Exception as error:  # likewise
            free_memory()
            if len(batch.cells) == 1:
                yield Outcome(batch.cells[0], Failure.of(error), time.perf_counter() - start)
                return
            for part in batch.parts()[settled:]:  # each alone: one bad mask, or too many at once, harms no other
                yield from self._cells(part, progress)

    def _importance(self, job: ImportanceJob) -> Outcome:
        start = time.perf_counter()
        try:
            if job.component == "means":
                found: Any = means_of(means_config(self.config, job, self.config.output_path), self.model())
            elif job.method == INDUCTION:
                found = prefix_matching_of(induction_config(self.config, self.config.output_path), self.model())
            else:
                found = scores_of(importance_config(self.config, job, self.config.output_path), self.model())
        except Exception as error:  # likewise
            if Processes.current().world_size > 1 and (
                isinstance(error, ScoreError) or not isinstance(error, PruneError)
            ):
                raise  # it may be this process's alone, and the others wait for its share
            free_memory()
            return Outcome(job.name, Failure.of(error), time.perf_counter() - start)
        value = found or Failure("Elsewhere", "the first process has what was computed")
        return Outcome(job.name, value, time.perf_counter() - start)


def _documents_of(batch: CellBatch, run: TaskRun) -> Documents | None:
    """Which documents a batch of cells that grow is to have, and what is known of them; None for all."""
    if batch.growth is None:
        return None
    settings, _, look = batch.growth
    wanted = documents_at(run.num_documents, settings.limits, look, settings.seed, batch.group.task)
    return Documents(wanted, batch.known)


def importance_config(config: SweepConfig, job: ImportanceJob, folder: Path) -> ImportanceConfig:
    """What the importance command would be asked for."""
    method = method_of(config, job)
    return ImportanceConfig(
        component=job.component,
        method=method,
        metric=config.knockout_metric if method == "knockout" else None,
        means=None if job.means is None else job.means.digest,
        under=job.under,
        **_documents(config, job, folder),
    )


def means_config(config: SweepConfig, job: ImportanceJob, folder: Path) -> MeansConfig:
    """What the command for means would be asked for."""
    return MeansConfig(**_documents(config, job, folder))


def induction_config(config: SweepConfig, folder: Path) -> InductionConfig:
    """What the induction command would be asked for."""
    return InductionConfig(output_path=folder, seed=config.seed)


def _documents(config: SweepConfig, job: ImportanceJob, folder: Path) -> dict[str, Any]:
    return {
        "tasks": (job.member,),
        "num_fewshot": (job.num_fewshot,),
        "output_path": folder,
        "limit": config.importance_limit,
        "split": config.importance_split,
        "seed": config.seed,
        "batch_size": config.batch_size if isinstance(config.batch_size, int) else 8,
        "include_path": config.include_path,
        "include_defaults": config.include_defaults,
        "metadata": task_metadata(config.model_args, config.metadata),
    }
