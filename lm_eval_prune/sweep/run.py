"""`run_sweep`: every missing cell of a grid computed, and written as soon as it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.claims import claim, clear_claims
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.executor import Executor, follow, joined_processes, make_executor
from lm_eval_prune.sweep.plan import Plan, make_plan
from lm_eval_prune.sweep.queues import CellQueue, ImportanceQueue, Queue
from lm_eval_prune.sweep.rankings import aggregate_path, needed_importance
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.sweep.setup import find_setup, require_same_setup
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
    bar = _Bar(shown=progress)
    executor = make_executor(config, bar.advance)
    try:
        with claim(config.output_path, "plan", wait=True):
            pass  # a folder that cannot be written is known before tasks are read
        if retry_failed:
            for path in (config.output_path / "failed").glob("*.json"):
                path.unlink(missing_ok=True)
        plan = _planned(config, executor, processes.world_size, bar, say)
        cells = CellQueue(config, plan, say)
        bar.over(cells, len({row.cell for row in plan.rows}))
        _complete(cells, executor, bar)
    finally:
        executor.close()
        bar.close()
    clear_claims(config.output_path, lambda name: not disk.is_cell_id(name) or cells.settled(name))
    return Sweep(config.output_path)


def _planned(
    config: SweepConfig, executor: Executor, num_processes: int, bar: _Bar, say: Callable[[str], None]
) -> Plan:
    """The plan, written to the folder; importance that it needs is computed before."""
    setup, tasks = find_setup(config, num_processes), planned_tasks(config)
    with claim(config.output_path, "plan", writes=[disk.setup_path(config.output_path)], wait=True):
        require_same_setup(config.output_path, setup, tasks)
        disk.write_setup(config.output_path, setup.of_importance())
    importance = ImportanceQueue(config, needed_importance(config, tasks), say)
    _complete(importance, executor, bar)
    plan = make_plan(config, tasks, setup, importance.found)
    files = {aggregate_path(config, *key): scores for key, scores in plan.aggregates.items()}
    writes = [disk.plan_path(config.output_path, config.grid()), *files]
    with claim(config.output_path, "plan", writes=writes, wait=True):
        require_same_setup(config.output_path, setup, tasks)  # another process may have planned meanwhile
        for path, scores in files.items():
            scores.save(path)
        disk.write_plan(config.output_path, config.grid(), setup.record(tasks), plan.rows)
        disk.replace_rows(config.output_path, plan.replaced)
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
