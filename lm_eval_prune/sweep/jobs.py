"""What executors are asked for, and what they answer: small values that travel between processes and machines.

A job needs no folder: whoever starts it holds its claims and writes what comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval_prune.file_names import safe_name
from lm_eval_prune.harness.tasks import Member
from lm_eval_prune.mask_files import mask_digest
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.text import message_of

if TYPE_CHECKING:
    from lm_eval_prune.harness.cells import CellResult
    from lm_eval_prune.importance.files import ImportanceScores
    from lm_eval_prune.means import Means
    from lm_eval_prune.sequential import Look
    from lm_eval_prune.sweep.schema import DecideSettings

__all__ = ["NO_TASK", "CellBatch", "Failure", "Group", "Growth", "ImportanceJob", "Job", "Outcome"]

NO_TASK = Member("", "")


class Group(NamedTuple):
    """What cells must have in common to share requests."""

    member: Member
    """The task, and what it is loaded out of."""
    num_fewshot: int
    fewshot_seed: int

    @property
    def task(self) -> str:
        return self.member.task


class ImportanceJob(NamedTuple):
    """Importance of one kind of component on a task; or the mean outputs of both, component `"means"`."""

    member: Member
    """The task, and what it is loaded out of."""
    component: str
    num_fewshot: int
    means: Means | None = None
    """What knocked out components give; None: nothing."""
    method: str | None = None
    """By which they are scored; None is the sweep's own. `"induction"` looks at no task: its member is `NO_TASK`."""
    under: PruningMask | None = None
    """What is pruned while scores are computed; None: nothing."""

    @property
    def task(self) -> str:
        return self.member.task

    @property
    def name(self) -> str:
        """Of its claim's file."""
        if self.method == "induction":
            return "importance-induction"
        name = f"importance-{safe_name(self.task)}-{self.num_fewshot}shot-{self.component}"
        name = f"{name}-{self.method}" if self.method else name
        return name if self.under is None else f"{name}-under-{mask_digest(self.under)[:12]}"

    @property
    def described(self) -> str:
        """What it is of, in words."""
        if self.method == "induction":
            return "prefix matching of heads"
        kind = "means on" if self.component == "means" else f"importance of {self.component} to"
        by = f", {self.method}" if self.method else ""
        return f"{kind} {self.task}, {self.num_fewshot}-shot{by}{self.pruned}"

    @property
    def pruned(self) -> str:
        """Under what it is computed, as lines have it: `, with 24 of 144 heads pruned`; else nothing."""
        if (mask := self.under) is None:
            return ""
        heads, ffns = mask.num_pruned_heads, mask.num_pruned_ffns
        counts = [f"{heads} of {mask.num_heads} heads"] * bool(heads)
        counts += [f"{ffns} of {mask.num_hidden_layers} FFNs"] * bool(ffns)
        return f", with {' and '.join(counts)} pruned"

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.name,)

    def parts(self) -> list[ImportanceJob]:
        return [self]


class Growth(NamedTuple):
    """How far some cells are, and how far they are to grow."""

    settings: DecideSettings
    before: int
    """The number of the look that they have reached; -1 for none."""
    look: Look
    """That they are to reach."""


class CellBatch(NamedTuple):
    """Some masks on one task, scored together."""

    group: Group
    cells: tuple[str, ...]
    """Their ids."""
    masks: tuple[PruningMask, ...]
    means: Means | None = None
    """What is pruned gives; None: nothing."""
    growth: Growth | None = None
    """None: all documents."""
    known: tuple[Mapping[int, Any], ...] = ()
    """Of each cell that grows, what it has answered: a document's number -> its responses, one list a request."""

    @property
    def keys(self) -> tuple[str, ...]:
        return self.cells

    def parts(self) -> list[CellBatch]:
        """A job for each cell."""
        known = self.known or ({},) * len(self.cells)
        parts = zip(self.cells, self.masks, known, strict=True)
        return [
            self._replace(cells=(cell,), masks=(mask,), known=(own,) if self.known else ()) for cell, mask, own in parts
        ]


Job = ImportanceJob | CellBatch


class Failure(NamedTuple):
    """Why something could not be computed."""

    kind: str
    """The error's class."""
    message: str
    """On one line."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        return cls(type(error).__name__, message_of(error))


class Outcome(NamedTuple):
    """What came of one key of a job."""

    key: str
    value: CellResult | ImportanceScores | Means | Failure
    seconds: float
