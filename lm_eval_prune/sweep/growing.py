"""The cells of a deciding sweep: they are handed out as often as they have to grow, until all rows are decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from lm_eval_prune.harness.cells import CellResult
from lm_eval_prune.harness.trackers import Tracker
from lm_eval_prune.sequential import documents_at
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.claims import claim
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.decisions import Decisions, outcomes_of, paired
from lm_eval_prune.sweep.jobs import CellBatch, Group, Growth, Outcome
from lm_eval_prune.sweep.plan import Plan
from lm_eval_prune.sweep.queues import CellQueue, to_dense
from lm_eval_prune.sweep.results import headline
from lm_eval_prune.sweep.schema import DecideSettings
from lm_eval_prune.unit_intervals import UnitChanges
from lm_eval_prune.variants import DENSE

__all__ = ["GrowingQueue"]


class GrowingQueue(CellQueue):
    """The cells of a plan, each missing until it has as many documents as decisions ask for."""

    def __init__(
        self,
        config: SweepConfig,
        plan: Plan,
        say: Callable[[str], None],
        tracker: Tracker | None = None,
        *,
        settings: DecideSettings,
    ) -> None:
        self.settings = settings
        self.decisions = Decisions(config.output_path, disk.read_rows(config.output_path, deciding=True), settings)
        self.targets = self.decisions.targets()
        self._growing: dict[str, Growth] = {}
        super().__init__(config, plan, say, tracker)
        self._dense = {
            (row.task, row.num_fewshot, row.fewshot_seed): row.cell for row in plan.rows if row.variant == DENSE
        }

    def settled(self, cell: str) -> bool:
        """Whether the cell is as large as it has to be by now, or has failed."""
        if disk.failure_path(self.folder, cell).exists():
            return True
        return self.decisions.look(cell) >= self.targets.get(cell, 0)

    def next(self) -> CellBatch | None:
        """Masks of one group that are equally large, and are to grow alike: the dense model first."""
        self._look_again()
        at_work = Counter(self.missing[cell] for cell in self.held)
        for group in sorted(dict.fromkeys(self.missing.values()), key=lambda group: at_work[group]):
            if batch := self._batch(group):
                return batch
        return None

    def take(self, outcome: Outcome) -> None:
        super().take(outcome)
        self._growing.pop(outcome.key, None)
        self._look_again()

    def complete(self, cell: str, block: dict[str, Any], found: CellResult) -> None:
        """How far it has grown, and what it says of itself; each sample gets the look that it came with."""
        growth, group = self._growing[cell], self.missing[cell]
        total = found.results["n-samples"][group.task]["original"]
        arrived: dict[int, int] = {}
        for look in self.decisions.looks[: growth.look.number + 1]:
            for number in documents_at(total, self.settings.limits, look, self.settings.seed, group.task):
                arrived.setdefault(number, look.number)
        for sample in found.samples:
            sample["look"] = arrived[sample["doc_id"]]
        last = documents_at(total, self.settings.limits, self.decisions.looks[-1], self.settings.seed, group.task)
        changes, rows = self._changes(cell, found), self.decisions.rows_at(group.num_fewshot)
        block["decide"] = {
            "mode": self.settings.mode,
            "margin": self.settings.margin,
            "look": growth.look.number,
            "z": growth.look.z,
            "factor": growth.look.factor,
            "documents": len(arrived),
            "planned": len(last),
            "verdict": "" if changes is None else self.decisions.verdict_of_cell(changes, growth.look, rows),
        }

    def line(self, cell: str, found: CellResult) -> str:
        """With the documents that it has by now, and the difference on these: the dense model may have more."""
        shown = headline(found.results, self.row_of[cell].task)
        documents = len({sample["doc_id"] for sample in found.samples})
        if shown is None or self._growing[cell].look.number == self.decisions.looks[-1].number:
            return super().line(cell, found)
        changes = self._changes(cell, found)
        line = f"{self.named(cell)}, {documents} documents: {shown.name} {shown.value:.4f}"
        return line if changes is None else line + to_dense(float(changes.difference))

    def _changes(self, cell: str, found: CellResult) -> UnitChanges | None:
        """What a cell that was computed changes against dense, on its documents; None where that is not known."""
        group = self.missing[cell]
        dense = self._dense.get((group.task, group.num_fewshot, group.fewshot_seed))
        theirs = self.decisions.outcomes(dense) if dense not in (None, cell) else None
        mine = outcomes_of(found.results, found.samples)
        if theirs is None or mine is None:
            return None
        return paired(mine, theirs.until(self._growing[cell].look.number))

    def _look_again(self) -> None:
        """What is missing now, by what anybody has computed meanwhile."""
        self.targets = self.decisions.targets()
        for group, cells in self.groups.items():
            for cell in cells:
                if cell in self.held:
                    continue
                if self.settled(cell):
                    self.missing.pop(cell, None)
                else:
                    self.missing[cell] = group

    def _batch(self, group: Group) -> CellBatch | None:
        """Up to `masks_at_once` cells of the group that nobody else is at."""
        dense = self._dense.get((group.task, group.num_fewshot, group.fewshot_seed))
        mine: list[str] = []
        step: tuple[int, int] | None = None
        for cell in sorted(self.groups[group], key=lambda cell: cell != dense):
            if len(mine) == self.config.masks_at_once:
                break
            own = self.decisions.look(cell), self.targets[cell]
            if cell not in self.missing or cell in self.held or (step is not None and own != step):
                continue
            # Its verdict is against the dense model's, on as many documents.
            if dense not in (None, cell) and dense not in mine and not self._is_there(dense, own[1]):
                continue
            claims = ExitStack()
            if claims.enter_context(claim(self.folder, cell)) and self.decisions.look(cell) == own[0]:
                self.held[cell], step = claims, own
                mine.append(cell)
                continue
            claims.close()
        if step is None:
            return None
        growth = Growth(self.settings, step[0], self.decisions.looks[step[1]])
        self._growing |= dict.fromkeys(mine, growth)
        masks = tuple(self.plan.masks[cell] for cell in mine)
        known = tuple(self._known(cell) for cell in mine) if step[0] >= 0 else ()
        return CellBatch(group, tuple(mine), masks, self.plan.means.get(group[:2]), growth, known)

    def _is_there(self, cell: str, look: int) -> bool:
        return self.decisions.look(cell) >= look or disk.failure_path(self.folder, cell).exists()

    def _known(self, cell: str) -> dict[int, Any]:
        """What a cell has answered."""
        return {line["doc_id"]: line["resps"] for line in disk.read_samples(disk.cell_path(self.folder, cell))}
