"""What is left to compute, shared with every other process on the folder: claimed, started, written when it comes.

A queue hands out jobs whose claims it then holds, until `take` has written what came of them.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Protocol

from lm_eval_prune.errors import ArgumentError, FileFormatError, PruneError
from lm_eval_prune.harness.cells import CellResult
from lm_eval_prune.harness.importance import ImportanceConfig, finished_scores
from lm_eval_prune.harness.induction import InductionConfig, finished_prefix_matching
from lm_eval_prune.harness.means import MeansConfig, finished_means
from lm_eval_prune.harness.quiet import quiet_harness
from lm_eval_prune.harness.trackers import Tracker
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.means import Means
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.claims import claim
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.jobs import CellBatch, Failure, Group, ImportanceJob, Job, Outcome
from lm_eval_prune.sweep.plan import Plan
from lm_eval_prune.sweep.results import headline
from lm_eval_prune.sweep.sources import INDUCTION, importance_path
from lm_eval_prune.sweep.worker import importance_config, induction_config, means_config
from lm_eval_prune.variants import DENSE

__all__ = ["CellQueue", "ImportanceQueue", "Queue", "to_dense"]

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
Found = dict[ImportanceJob, Any]
"""Scores or means; a PruneError says why there are none."""


class Queue(Protocol):
    """Work of one kind."""

    missing: dict[str, Any]
    """Keys of what is neither there nor has failed."""
    held: dict[str, ExitStack]
    """The claims of what has been handed out."""

    def next(self) -> Job | None:
        """A job that nobody else is at; None where there is none now."""

    def take(self, outcome: Outcome) -> None:
        """Write what came of one key. Raises FileFormatError where the folder cannot be written."""


class ImportanceQueue:
    """The importance files that rankings need, or the files of means. Raises ArgumentError for one that was computed
    otherwise."""

    def __init__(
        self,
        config: SweepConfig,
        jobs: Iterable[ImportanceJob],
        say: Say,
        then: Callable[[Found], Iterable[ImportanceJob]] = lambda found: (),
    ) -> None:
        """`then` says which jobs become known by what was found."""
        self.config, self.say, self._then = config, say, then
        self.found: Found = {}
        self.missing: dict[str, ImportanceJob] = {}
        self.held: dict[str, ExitStack] = {}
        self._followed = 0
        self._include(jobs)
        self._go_on()

    def next(self) -> ImportanceJob | None:
        for job in [job for job in self.missing.values() if job.name not in self.held]:
            self._look(job)  # another process may have computed it
        self._go_on()
        for job in [job for job in self.missing.values() if job.name not in self.held]:
            claims = ExitStack()
            if claims.enter_context(claim(self.config.output_path, job.name)) and not self._look(job):
                self.held[job.name] = claims
                return job
            claims.close()
        return None

    def take(self, outcome: Outcome) -> None:
        job = self.missing.pop(outcome.key)
        try:
            if isinstance(outcome.value, ImportanceScores | Means):
                outcome.value.save(importance_path(self.config, job))
                self.found[job] = outcome.value
                count = outcome.value.settings.get("num_examples")
                self.say(job.described + (f": {count} examples" if count else "") + f", {outcome.seconds:.1f} s")
            else:
                assert isinstance(outcome.value, Failure)
                kind = "" if outcome.value.kind.endswith("Error") else f"{outcome.value.kind}: "
                self.found[job] = PruneError(f"{kind}{outcome.value.message}")
        finally:
            self.held.pop(outcome.key).close()
        self._go_on()

    def _include(self, jobs: Iterable[ImportanceJob]) -> None:
        new = [job for job in jobs if job.name not in self.missing]
        self.missing |= {job.name: job for job in new}
        for job in new:
            self._settings(job)
            self._look(job)

    def _go_on(self) -> None:
        """What was found shows which jobs come next; some of them may be there, and show further ones."""
        while len(self.found) != self._followed:
            self._followed = len(self.found)
            self._include(self._then(self.found))

    def _look(self, job: ImportanceJob) -> bool:
        """Whether the file is there; then it is read."""
        path = importance_path(self.config, job)
        if job.name not in self.missing or not path.exists():
            return job.name not in self.missing
        try:
            with quiet_harness():
                self.found[job] = self._finished(job, "delete the file, or give another --output_path")
        except PruneError as error:
            raise ArgumentError(str(error)) from None
        self.missing.pop(job.name, None)
        return True

    def _finished(self, job: ImportanceJob, hint: str) -> ImportanceScores | Means:
        settings = self._settings(job)
        if isinstance(settings, MeansConfig):
            return finished_means(settings, hint)
        if isinstance(settings, InductionConfig):
            return finished_prefix_matching(settings, hint)
        return finished_scores(settings, hint)

    def _settings(self, job: ImportanceJob) -> ImportanceConfig | MeansConfig | InductionConfig:
        """Raises ArgumentError where they are wrong: before anything is computed."""
        folder = importance_path(self.config, job).parent
        if job.method == INDUCTION:
            return induction_config(self.config, folder)
        made = means_config if job.component == "means" else importance_config
        return made(self.config, job, folder)


class CellQueue:
    """The cells of a plan."""

    def __init__(self, config: SweepConfig, plan: Plan, say: Say, tracker: Tracker | None = None) -> None:
        self.config, self.folder, self.plan, self.say, self.tracker = config, config.output_path, plan, say, tracker
        self.row_of = {row.cell: row for row in reversed(plan.rows)}
        self.groups = dict(plan.groups())
        self.missing: dict[str, Group] = {
            cell: group
            for group, cells in self.groups.items()
            for cell in cells
            if not self.settled(cell) or self._damaged(cell)
        }
        self.held: dict[str, ExitStack] = {}
        for cell, error in plan.errors.items():
            if not disk.failure_path(self.folder, cell).exists():
                self._fail(cell, Failure.of(error))

    def next(self) -> CellBatch | None:
        """Masks of one group: of one that nobody is at, where there is one."""
        at_work = Counter(self.missing[cell] for cell in self.held)
        order = sorted(dict.fromkeys(self.missing.values()), key=lambda group: at_work[group])
        for alone in (True, False):
            for group in order:
                if mine := self._claimed(group, alone=alone):
                    masks = tuple(self.plan.masks[cell] for cell in mine)
                    return CellBatch(group, tuple(mine), masks, self.plan.means.get(group[:2]))
        return None

    def take(self, outcome: Outcome) -> None:
        cell = outcome.key
        try:
            if isinstance(outcome.value, CellResult):
                self._write(cell, outcome.value, outcome.seconds)
            else:
                assert isinstance(outcome.value, Failure)
                self._fail(cell, outcome.value)
            del self.missing[cell]
        finally:
            self.held.pop(cell).close()

    def _claimed(self, group: Group, *, alone: bool) -> list[str]:
        """Up to `masks_at_once` of the group's missing cells; none if `alone` and somebody else has its first."""
        mine: list[str] = []
        for cell in self.groups[group]:
            if len(mine) == self.config.masks_at_once:
                break
            if cell not in self.missing or cell in self.held:
                continue
            if self.settled(cell):
                del self.missing[cell]
                continue
            claims = ExitStack()
            if claims.enter_context(claim(self.folder, cell)) and not self.settled(cell):
                self.held[cell] = claims
                mine.append(cell)
                continue
            claims.close()
            if alone and not mine:
                break
        return mine

    def _write(self, cell: str, found: CellResult, seconds: float) -> None:
        block = {
            "id": cell,
            "identity": self.plan.identities[cell],
            "timing": {"seconds": seconds, "date": time.time(), "host": socket.gethostname()},
        }
        if donors := {row.variant.ranking: row.donor for row in self.plan.rows if row.cell == cell and row.donor}:
            block["donors"] = donors
        if found.failed_metrics:
            block["failed_metrics"] = found.failed_metrics
        self.complete(cell, block, found)
        disk.write_cell(self.folder, cell, {**found.results, "cell": block}, found.samples)
        failed = "".join(f"; {name}: {why}" for name, why in found.failed_metrics.items())
        self.say(self.line(cell, found) + failed)
        if self.tracker is not None:
            self.tracker.log(self.named(cell), self._tracked(cell, found.results), found.results)

    def complete(self, cell: str, block: dict[str, Any], found: CellResult) -> None:
        """What is to be said of a cell beside its results, before it is written."""

    def _tracked(self, cell: str, results: dict[str, Any]) -> dict[str, Any]:
        """What a tracker gets as the settings of a cell's run."""
        row, block = self.row_of[cell], results["pruning"]
        counts = {key: block[key] for key in ("heads_pruned", "ffns_pruned", "num_parameters_left")}
        return {
            "model_name": self.plan.identities[cell]["model"]["name"],
            **row.variant._asdict(),
            **{key: value for key, value in row._asdict().items() if key != "variant"},
            **counts,
        }

    def _fail(self, cell: str, failure: Failure) -> None:
        disk.write_failure(self.folder, self.row_of[cell], failure.kind, failure.message)
        self.say(f"failed: {self.named(cell)}: {failure.kind}: {failure.message}")

    def settled(self, cell: str) -> bool:
        """Whether the cell is there, or has failed."""
        return disk.cell_path(self.folder, cell).exists() or disk.failure_path(self.folder, cell).exists()

    def _damaged(self, cell: str) -> bool:
        """Whether the cell is there but not whole; then it is moved aside, unless another process is at it."""
        path = disk.cell_path(self.folder, cell)
        if not path.exists():
            return False
        try:
            disk.read_cell(path)
        except FileFormatError as error:
            with claim(self.folder, cell) as mine:
                if mine:
                    where = disk.move_aside(self.folder, cell)
                    self.say(f"damaged, computed again: {error} (moved to {where})")
            return True
        return False

    def line(self, cell: str, found: CellResult) -> str:
        """What is said of a cell that was computed."""
        row = self.row_of[cell]
        if (shown := headline(found.results, row.task)) is None:
            return f"{self.named(cell)}: no metric that is a number"
        line = f"{self.named(cell)}: {shown.name} {shown.value:.4f}"
        dense = next((r for r in self.plan.rows if r.variant == DENSE and r[1:4] == row[1:4]), None)
        if dense is None or dense.cell == cell:
            return line
        try:
            there = disk.read_cell(disk.cell_path(self.folder, dense.cell), samples=False)
            return line + to_dense(shown.value - there["results"][row.task][shown.key])
        except (FileFormatError, KeyError, TypeError):  # not there yet, damaged, or without this metric
            return line

    def named(self, cell: str) -> str:
        row = self.row_of[cell]
        draw = f", draw {row.fewshot_seed}" if len(self.config.fewshot_seeds) > 1 else ""
        return f"{row.variant} on {row.task}, {row.num_fewshot}-shot{draw}"


def to_dense(difference: float) -> str:
    """` (-0.0200 to dense)`."""
    return f" ({round(difference, 4) + 0.0:+.4f} to dense)"
