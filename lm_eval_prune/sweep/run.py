"""`run_sweep`: every missing cell of a grid computed, and written as soon as it is."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from lm_eval_prune.errors import ArgumentError, FileFormatError, PruneError
from lm_eval_prune.harness.trackers import Tracker
from lm_eval_prune.means import Means
from lm_eval_prune.progress import working
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.bars import QueueBar
from lm_eval_prune.sweep.claims import claim, clear_claims, present
from lm_eval_prune.sweep.config import SweepConfig, common_settings, require_rows
from lm_eval_prune.sweep.executor import Executor, follow, joined_processes, make_executor
from lm_eval_prune.sweep.growing import GrowingQueue
from lm_eval_prune.sweep.jobs import ImportanceJob
from lm_eval_prune.sweep.plan import Plan, make_plan
from lm_eval_prune.sweep.queues import CellQueue, ImportanceQueue, Queue
from lm_eval_prune.sweep.ranking import parse_ranking
from lm_eval_prune.sweep.rankings import given_importance, given_masks
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.sweep.schema import DecideSettings
from lm_eval_prune.sweep.setup import decide_settings, find_setup, require_same_setup, settle
from lm_eval_prune.sweep.sources import (
    aggregate_path,
    importance_path,
    importance_settings,
    needed_importance,
    needed_means,
)
from lm_eval_prune.sweep.steps import Steps
from lm_eval_prune.sweep.stopping import check
from lm_eval_prune.sweep.tasks import PlannedTask, planned_tasks
from lm_eval_prune.variants import DENSE, Variant

__all__ = ["failures_alone", "run_sweep", "run_sweeps"]

POLL_SECONDS = 1.0
"""How often to look at what another process computes."""


def run_sweep(
    config: SweepConfig,
    *,
    retry_failed: bool = False,
    say: Callable[[str], None] = lambda line: None,
    note: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> Sweep:
    """Compute what is missing of the grid, and return it. Start it again after any interruption.

    `say` gets a line for each finished or failed cell, `note` for what is about to be done and each file of importance.
    A cell that fails is recorded in the folder and does not stop
    the others; it stays failed until `retry_failed`. Several processes may run on one folder at once; those of
    `accelerate launch` share every cell. Raises PruneError for a folder that holds cells of another model, task version
    or setup, or that cannot be written.
    """
    return run_sweeps([config], retry_failed=retry_failed, say=say, note=note, progress=progress)


def run_sweeps(
    configs: Sequence[SweepConfig],
    *,
    retry_failed: bool = False,
    say: Callable[[str], None] = lambda line: None,
    note: Callable[[str], None] = lambda line: None,
    progress: bool = True,
    executor: Executor | None = None,
) -> Sweep:
    """Several grids in one folder as if they were one: importance once, and cells that share requests together.

    They may differ in rankings and shares alone; the rest as `run_sweep`. An `executor` that is given, for settings
    like these but for rankings, shares and masks, stays open: the next sweep finds the model loaded. Raises
    ArgumentError where they differ in more.
    """
    config = common_settings(configs)
    processes = joined_processes()
    if config.decide is not None and processes.world_size > 1:
        raise ArgumentError("decide: start the sweep as one process, or as several on one folder")
    if processes.rank > 0:
        follow(config)
        return Sweep(config.output_path)
    disk.require_own(config.output_path)
    tracker = Tracker(
        group=config.output_path.absolute().name, wandb_args=config.wandb_args, trackio_args=config.trackio_args
    )
    bar = QueueBar(shown=progress)
    at_work = ExitStack()
    if executor is None:
        executor = make_executor(config, bar.advance)
        at_work.callback(executor.close)
    new = [path for path in (config.output_path, *config.output_path.parents) if not os.path.lexists(path)]
    try:
        with claim(config.output_path, "plan", wait=True):  # a folder that cannot be written is known at once
            disk.remove_left_behind(config.output_path)
        if retry_failed:
            disk.remove_failures(config.output_path)
        process = at_work.enter_context(present(config.output_path))
        plan, decide = _planned(configs, executor, processes.world_size, process, bar, note)
        cells = (
            CellQueue(config, plan, say, tracker)
            if decide is None
            else GrowingQueue(config, plan, say, tracker, settings=decide)
        )
        total = len({row.cell for row in plan.rows})
        if there := total - len(cells.missing):
            note(f"{there} of {total} cells are there already")
        bar.over(cells, total, "cell")
        _complete(cells, executor, bar)
    finally:
        at_work.close()
        bar.close()
        _leave_no_empty_folders(config.output_path, new)
    disk.remove_left_behind(config.output_path)
    clear_claims(config.output_path, lambda name: not disk.is_cell_id(name) or cells.settled(name))
    return Sweep(config.output_path)


def failures_alone(say: Callable[[str], None]) -> Callable[[str], None]:
    """Of the lines about cells those that something went wrong in: hundreds that did not are no news."""
    return lambda line: say(line) if line.startswith(("failed", "damaged")) else None


def _leave_no_empty_folders(folder: Path, new: Sequence[Path]) -> None:
    """Remove those of `new`, which this process has made, that hold nothing: a sweep that could not begin."""
    with suppress(FileFormatError):  # what stopped the sweep is said, not that its folder cannot be tidied
        clear_claims(folder, lambda name: not disk.is_cell_id(name))
    for path in new:
        with suppress(OSError):
            path.rmdir()


def _planned(
    configs: Sequence[SweepConfig],
    executor: Executor,
    num_processes: int,
    process: str,
    bar: QueueBar,
    note: Callable[[str], None],
) -> tuple[Plan, DecideSettings | None]:
    """The plan of all grids, each written to the folder, and how cells grow; importance is computed before."""
    config, folder = configs[0], configs[0].output_path
    rankings = tuple(dict.fromkeys(text for each in configs for text in each.ranking))
    with working("Looking at the model and the tasks", note, shown=bar.shown):
        setup = find_setup(config.model_copy(update={"ranking": rankings}), num_processes)
    tasks = planned_tasks(config, shown=bar.shown)
    for each in configs:
        require_rows(each, len({task.name for task in tasks}))
        given_importance(each, setup.shape)
        given_masks(each, setup.shape)  # what is wrong with a file is told before hours of work
    jobs = list({job.name: job for each in configs for job in needed_importance(each, tasks)}.values())
    means_jobs = needed_means(config, tasks, jobs)
    with claim(folder, "plan", wait=True):
        require_same_setup(folder, setup, tasks)
        settings = {importance_path(config, job).name: importance_settings(config, job) for job in [*means_jobs, *jobs]}
        decide = settle(folder, setup, tasks, settings, process, decide_settings(config, tasks))
    means = ImportanceQueue(config, means_jobs, note)
    bar.over(means, len(means_jobs), "file")
    _complete(means, executor, bar)
    steps = Steps(configs, tasks, setup)
    importance = ImportanceQueue(
        config, _with_means(jobs, means.found), note, lambda found: _with_means(steps.needed(found), means.found)
    )
    files = len(jobs) + steps.total()
    note(_header(configs, tasks, files, len(importance.found)))
    bar.over(importance, files, "file", lambda: len(importance.found))
    _complete(importance, executor, bar)
    plans = [make_plan(each, tasks, setup, importance.found, means.found) for each in configs]
    with claim(folder, "plan", wait=True):
        require_same_setup(folder, setup, tasks)  # another process may have planned meanwhile
        for each, plan in zip(configs, plans, strict=True):
            for key, scores in plan.aggregates.items():
                scores.save(aggregate_path(config, *key))
            disk.write_plan(folder, each.grid(), setup.record(tasks), plan.rows)
            disk.replace_rows(folder, plan.replaced)
    joined = functools.reduce(Plan.joined, plans)
    for line in _donor_lines(joined):
        note(line)
    return joined, None if config.decide is None else decide


def _donor_lines(plan: Plan) -> list[str]:
    """Whose importance rankings chose: `task:closest for demo_facts, 0-shot: heads by demo_recall (rho 0.83)`."""
    return [
        f"{ranking} for {own.task}, {own.num_fewshot}-shot: {component} by {donor.job.task} (rho {donor.rho:.2f})"
        for (ranking, component, own), donor in plan.donors.items()
    ]


def _with_means(
    jobs: Sequence[ImportanceJob], means: Mapping[ImportanceJob, Means | PruneError]
) -> list[ImportanceJob]:
    """Each job with the means of its task; where those could not be computed, neither can it."""
    found = {(job.member, job.num_fewshot): value for job, value in means.items()}
    # Nothing is pruned for scores of what heads do.
    own = {job: None if job.method else found.get((job.member, job.num_fewshot)) for job in jobs}
    return [job._replace(means=value) for job, value in own.items() if not isinstance(value, PruneError)]


def _header(configs: Sequence[SweepConfig], tasks: Sequence[PlannedTask], files: int, there: int) -> str:
    """What the grids ask for: "78 cells on 5 tasks, 6 importance files". Cells of equal masks will be one."""
    variants = {DENSE} | {
        Variant(text, heads, ffns, seed)
        for config in configs
        for text, (heads, ffns) in config.pruned
        for seed in parse_ranking(text).seeds or (None,)
    }
    draws = len(configs[0].fewshot_seeds)
    masks = dict.fromkeys(path for config in configs for path in config.masks)
    cells = (len(variants) + len(masks)) * sum(draws if task.num_fewshot else 1 for task in tasks)
    text = f"{_counted(cells, 'cell')} on {_counted(len({task.name for task in tasks}), 'task')}"
    if files:
        text += f", {_counted(files, 'importance file')}" + (f" ({there} there already)" if there else "")
    return text


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _complete(queue: Queue, executor: Executor, bar: QueueBar) -> None:
    """Until nothing is missing: start what can be claimed, write what comes."""
    try:
        while queue.missing:
            check()
            while executor.free() and (job := queue.next()) is not None:
                executor.start(job)
                bar.at(job)
            bar.look()
            if queue.held or not executor.free():
                for outcome in executor.outcomes():
                    queue.take(outcome)
                    bar.look()
            elif queue.missing:
                time.sleep(POLL_SECONDS)  # all of it is claimed by others
    finally:
        for claims in queue.held.values():
            claims.close()
