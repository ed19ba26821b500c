"""`run_sweep`: every missing cell of a grid computed, and written as soon as it is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.claims import claim, clear_claims, present
from lm_eval_prune.sweep.config import SweepConfig, require_rows
from lm_eval_prune.sweep.executor import Executor, follow, joined_processes, make_executor
from lm_eval_prune.sweep.plan import Plan, make_plan
from lm_eval_prune.sweep.queues import CellQueue, ImportanceQueue, Queue
from lm_eval_prune.sweep.rankings import (
    aggregate_path,
    given_importance,
    importance_path,
    importance_settings,
    needed_importance,
)
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.sweep.setup import find_setup, require_same_setup, settle
from lm_eval_prune.sweep.stopping import check
from lm_eval_prune.sweep.tasks import planned_tasks

__all__ = ["run_sweep"]

POLL_SECONDS = 1.0
"""How often to look at what another process computes."""


def run_sweep(
    config: SweepConfig,
    *,
    retry_failed: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> Sweep:
    """Compute what is missing of the grid, and return it. Start it again after any interruption.

    `say` gets a line for each finished or failed cell. A cell that fails is recorded in the folder and does not stop
    the others; it stays failed until `retry_failed`. Several processes may run on one folder at once; those of
    `accelerate launch` share every cell. Raises PruneError for a folder that holds cells of another model, task version
    or setup, or that cannot be written.
    """
    processes = joined_processes()
    if processes.rank > 0:
        follow(config)
        return Sweep(config.output_path)
    disk.require_own(config.output_path)
    bar = _Bar(shown=progress)
    executor, at_work = make_executor(config, bar.advance), ExitStack()
    new = [path for path in (config.output_path, *config.output_path.parents) if not os.path.lexists(path)]
    try:
        with claim(config.output_path, "plan", wait=True):  # a folder that cannot be written is known at once
            disk.remove_left_behind(config.output_path)
        if retry_failed:
            disk.remove_failures(config.output_path)
        process = at_work.enter_context(present(config.output_path))
        plan = _planned(config, executor, processes.world_size, process, bar, say)
        cells = CellQueue(config, plan, say)
        bar.over(cells, len({row.cell for row in plan.rows}))
        _complete(cells, executor, bar)
    finally:
        at_work.close()
        executor.close()
        bar.close()
        _leave_no_empty_folders(config.output_path, new)
    disk.remove_left_behind(config.output_path)
    clear_claims(config.output_path, lambda name: not disk.is_cell_id(name) or cells.settled(name))
    return Sweep(config.output_path)


def _leave_no_empty_folders(folder: Path, new: Sequence[Path]) -> None:
    """Remove those of `new`, which this process has made, that hold nothing: a sweep that could not begin."""
    with suppress(FileFormatError):  # what stopped the sweep is said, not that its folder cannot be tidied
        clear_claims(folder, lambda name: not disk.is_cell_id(name))
    for path in new:
        with suppress(OSError):
            path.rmdir()


def _planned(
    config: SweepConfig, executor: Executor, num_processes: int, process: str, bar: _Bar, say: Callable[[str], None]
) -> Plan:
    """The plan, written to the folder; importance that it needs is computed before."""
    folder = config.output_path
    setup, tasks = find_setup(config, num_processes), planned_tasks(config)
    require_rows(config, len({task.name for task in tasks}))
    given_importance(config, setup.shape)  # what is wrong with a file is told before hours of work
    jobs = needed_importance(config, tasks)
    with claim(folder, "plan", wait=True):
        require_same_setup(folder, setup, tasks)
        settings = {importance_path(config, job).name: importance_settings(config) for job in jobs}
        settle(folder, setup, tasks, settings, process)
    importance = ImportanceQueue(config, jobs, say)
    _complete(importance, executor, bar)
    plan = make_plan(config, tasks, setup, importance.found)
    with claim(folder, "plan", wait=True):
        require_same_setup(folder, setup, tasks)  # another process may have planned meanwhile
        for key, scores in plan.aggregates.items():
            scores.save(aggregate_path(config, *key))
        disk.write_plan(folder, config.grid(), setup.record(tasks), plan.rows)
        disk.replace_rows(folder, plan.replaced)
    return plan


def _complete(queue: Queue, executor: Executor, bar: _Bar) -> None:
    """Until nothing is missing: start what can be claimed, write what comes."""
    try:
        while queue.missing:
            check()
            while executor.free() and (job := queue.next()) is not None:
                executor.start(job)
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


class _Bar:
    """Cells that are done, and how far those are that are being computed."""

    def __init__(self, *, shown: bool) -> None:
        self.shown, self.share = shown, 0.0
        self.bar: tqdm[Any] | None = None
        self.queue: Queue | None = None

    def over(self, queue: Queue, total: int) -> None:
        """From now on the bar shows `queue`, out of `total` cells."""
        self.queue, self.total, self.done, self.share = queue, total, total - len(queue.missing), 0.0
        self.bar = tqdm(total=total, initial=self.done, desc="Cells", unit="cell", disable=not self.shown)

    def advance(self, share: float) -> None:
        """A share of a cell's work is done."""
        check()
        self.share += share
        self.look()

    def look(self) -> None:
        if self.bar is None or self.queue is None:
            return
        done = self.total - len(self.queue.missing)
        self.share, self.done = max(0.0, self.share - (done - self.done)), done
        self.bar.update(min(done + self.share, self.total) - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
