"""`--dry_run`: what a sweep would compute, and what that costs, from a short probe. Writes nothing into the folder."""

from __future__ import annotations

import functools
import itertools
import math
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lm_eval_prune.errors import PruneError
from lm_eval_prune.harness.probe import (
    TaskCost,
    importance_documents,
    importance_flops,
    prefix_matching_cost,
    task_cost,
)
from lm_eval_prune.importance.aggregate import OF_THE_MODEL
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.importance.methods import method_named
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.means import Means
from lm_eval_prune.progress import Bar
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.config import SweepConfig, common_settings
from lm_eval_prune.sweep.jobs import Failure, Group, ImportanceJob
from lm_eval_prune.sweep.plan import Plan, make_plan
from lm_eval_prune.sweep.ranking import parse_ranking
from lm_eval_prune.sweep.setup import Setup, find_setup, require_same_setup
from lm_eval_prune.sweep.sources import INDUCTION, importance_path, method_of, needed_importance, needed_means
from lm_eval_prune.sweep.steps import Steps
from lm_eval_prune.sweep.tasks import PlannedTask, planned_tasks
from lm_eval_prune.sweep.worker import Worker, importance_config, induction_config, means_config

__all__ = ["Estimate", "Part", "estimate_sweep", "estimate_sweeps"]

PROBED = 8
"""Documents of a task that are measured."""
PROBED_FOR_IMPORTANCE = (2, 6)
"""Two sizes: what is the same for both is not scaled up."""


class Part(NamedTuple):
    """A task at a number of shots; or an importance file, with those of its further steps."""

    name: str
    documents: int
    """A cell."""
    total: int
    """Cells, or files."""
    missing: int
    flops: float
    """Of all that is missing; NaN where it cannot be counted (answers that are generated)."""
    seconds: float
    """On one worker like this one."""
    problem: str = ""
    """Why it cannot be computed or measured."""

    def times(self, count: int) -> Part:
        """So many that cost the same."""
        return self._replace(
            total=count, missing=count * self.missing, flops=self.flops * count, seconds=self.seconds * count
        )


class Estimate(NamedTuple):
    """A sweep's plan and its cost."""

    importance: list[Part]
    cells: list[Part]
    failed: int
    """Cells that are recorded as failed; not among the missing."""
    unshared_flops: float
    """Of the missing cells, had each been computed alone."""
    pending: tuple[str, ...] = ()
    """Rankings that choose the task whose scores they take once all importance is there."""

    @property
    def flops(self) -> float:
        return sum(part.flops for part in [*self.importance, *self.cells])

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in [*self.importance, *self.cells])


def estimate_sweep(config: SweepConfig, *, shown: bool = False) -> Estimate:
    """The plan of `config`, measured with the model's own scorer on a few documents of each task. `shown`: under a bar.

    Loads the model if anything is missing. Raises PruneError as `run_sweep` does.
    """
    return estimate_sweeps([config], shown=shown)


def estimate_sweeps(configs: Sequence[SweepConfig], *, shown: bool = False) -> Estimate:
    """The same of several grids in one folder, as `run_sweeps` computes them."""
    config = common_settings(configs)
    setup, tasks = find_setup(config, 1), planned_tasks(config, shown=shown)
    require_same_setup(config.output_path, setup, tasks)
    jobs = list(dict.fromkeys(job for each in configs for job in needed_importance(each, tasks)))
    plan, unknown = _plan(configs, tasks, setup, jobs)
    means = [job for job in needed_means(config, tasks, jobs) if not importance_path(config, job).exists()]
    missing = Counter([*means, *(job._replace(under=None) for job in unknown)])
    worker = Worker(config.model_copy(update={"limit": PROBED}))
    groups = list(plan.groups())
    importance, cells, alone, failed = [], [], 0.0, 0
    with Bar(total=len(missing) + len(groups), unit="part", leave=False, disable=not shown) as bar:
        for job, files in missing.items():
            bar.set_description(f"Measuring {job.described}")
            importance.append(_importance(config, worker, job).times(files))
            bar.update()
        for group, ids in groups:
            bar.set_description(f"Measuring {group.task}, {group.num_fewshot}-shot")
            settled = [cell for cell in ids if disk.cell_path(config.output_path, cell).exists()]
            broken = [cell for cell in ids if disk.failure_path(config.output_path, cell).exists()]
            left = [plan.masks[cell] for cell in ids if cell not in {*settled, *broken}]
            part, unshared = _cells(config, worker, group, len(ids), left)
            cells.append(part)
            alone, failed = alone + unshared, failed + len(set(broken) - set(settled))
            bar.update()
    for row in plan.rows:
        if row.cell in plan.errors:
            name = f"{row.task}, {row.num_fewshot}-shot"
            cells.append(Part(name, 0, 1, 1, 0.0, 0.0, str(plan.errors[row.cell])))
    rankings = dict.fromkeys(text for each in configs for text in each.ranking)
    pending = [text for text in rankings if missing and parse_ranking(text).kind == "donor"]
    return Estimate(importance, cells, failed, alone, tuple(pending))


def _plan(
    configs: Sequence[SweepConfig], tasks: list[PlannedTask], setup: Setup, jobs: Sequence[ImportanceJob]
) -> tuple[Plan, list[ImportanceJob]]:
    """The plan as it will be, and the importance that is not there yet: in the plan it is made up."""
    config = configs[0]
    with tempfile.TemporaryDirectory() as folder:
        moved = [each.model_copy(update={"output_path": Path(folder)}) for each in configs]
        elsewhere = moved[0]
        scores: dict[ImportanceJob, ImportanceScores | PruneError] = {}
        like: dict[str, Any] = {"model": "unknown"}
        steps, needed = Steps(moved, tasks, setup), list(jobs)
        while needed:
            for job in sorted(needed, key=lambda job: not importance_path(config, job).exists()):
                path = importance_path(config, job)
                found = ImportanceScores.load(path) if path.exists() else _made_up(elsewhere, job, setup.shape, like)
                if job.under is None:
                    like = {key: found.settings[key] for key in OF_THE_MODEL if key in found.settings}
                scores[job] = found
                found.save(importance_path(elsewhere, job))
            needed = steps.needed(scores)
        unknown = [job for job in scores if not importance_path(config, job).exists()]
        means: dict[ImportanceJob, Means | PruneError] = {}
        for job in needed_means(config, tasks, jobs):
            path, (layers, heads) = importance_path(config, job), setup.shape
            zeros = Means(heads=torch.zeros(layers, heads, 1), ffns=torch.zeros(layers, 1))
            means[job] = Means.load(path) if path.exists() else zeros
        plans = [make_plan(each, tasks, setup, scores, means) for each in moved]
        return functools.reduce(Plan.joined, plans), unknown


def _made_up(config: SweepConfig, job: ImportanceJob, shape: tuple[int, int], like: dict[str, Any]) -> ImportanceScores:
    """Random scores, of a model that is `like` this.

    As different between tasks and shots as true ones are, since rows of equal masks are one cell.
    """
    method = method_of(config, job)
    of_weights = method != INDUCTION and method_named(method).uses == "weights"
    source = job.component if of_weights else job.name
    values = torch.rand(
        shape if job.component == "heads" else shape[:1],
        generator=torch.Generator().manual_seed(zlib.crc32(source.encode())),
    )
    settings = {"method": method, **like, "task": job.task, "num_fewshot": job.num_fewshot, "num_examples": 0}
    if job.under is not None:
        settings["mask"] = job.under.to_dict()
    return ImportanceScores.from_tensor(
        values, num_attention_heads=shape[1], settings=settings, component=job.component
    )


def _importance(config: SweepConfig, worker: Worker, job: ImportanceJob) -> Part:
    lm, measured = worker.model(), []
    made = means_config if job.component == "means" else importance_config
    try:
        if job.method == INDUCTION:
            flops, sequences, seconds = prefix_matching_cost(induction_config(config, config.output_path), lm)
            return Part(job.name, sequences, 1, 1, flops, seconds)
        documents = importance_documents(made(config, job, config.output_path))
        for limit in PROBED_FOR_IMPORTANCE:
            worker.config = worker.config.model_copy(update={"importance_limit": limit})
            flops, probed = importance_flops(made(worker.config, job, config.output_path), lm)
            start = time.perf_counter()
            (outcome,) = worker.run(job)
            measured.append(time.perf_counter() - start)
            if isinstance(outcome.value, Failure):
                return Part(job.name, documents, 1, 1, 0.0, 0.0, outcome.value.message)
    except PruneError as error:
        return Part(job.name, 0, 1, 1, 0.0, 0.0, str(error))
    few, more = measured
    a_document = (more - few) / (PROBED_FOR_IMPORTANCE[1] - PROBED_FOR_IMPORTANCE[0])
    if a_document <= 0:  # so small that chance decides
        a_document = more / probed
    return Part(job.name, documents, 1, 1, flops * documents / probed, more + a_document * max(0, documents - probed))


def _cells(
    config: SweepConfig, worker: Worker, group: Group, total: int, left: list[PruningMask]
) -> tuple[Part, float]:
    """(the part, its FLOPs had nothing been shared)."""
    name = f"{group.task}, {group.num_fewshot}-shot"
    if len(config.fewshot_seeds) > 1:
        name += f", draw {group.fewshot_seed}"
    if not left:
        return Part(name, 0, total, 0, 0.0, 0.0), 0.0
    try:
        cost: TaskCost = task_cost(worker.task_run(group), config.limit)
    except Exception as error:  # as in the sweep itself: one task does not stop the others
        return Part(name, 0, total, len(left), 0.0, 0.0, Failure.of(error).message), 0.0
    costs = [cost.of(masks) for masks in _batches(left, config.masks_at_once)]
    flops, seconds = (math.fsum(part) for part in zip(*costs, strict=True))
    alone = math.fsum(cost.of([mask])[0] for mask in left)
    return Part(name, cost.documents, total, len(left), flops, seconds), alone


def _batches(masks: list[PruningMask], size: int) -> Iterator[list[PruningMask]]:
    rest = iter(masks)
    while batch := list(itertools.islice(rest, size)):
        yield batch
