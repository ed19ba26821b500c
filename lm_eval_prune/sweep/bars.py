"""How far a sweep is, on a terminal: its queues as bars that say which task and shots they are at."""

from __future__ import annotations

from collections.abc import Callable

from lm_eval_prune.progress import Bar
from lm_eval_prune.sweep.jobs import ImportanceJob, Job
from lm_eval_prune.sweep.queues import Queue
from lm_eval_prune.sweep.stopping import check

__all__ = ["QueueBar"]


class QueueBar:
    """One queue after the other: what is done of it, and how far that is which is being computed."""

    def __init__(self, *, shown: bool) -> None:
        self.shown, self.share = shown, 0.0
        self.bar: Bar | None = None
        self.queue: Queue | None = None

    def over(self, queue: Queue, total: int, unit: str, done: Callable[[], int] | None = None) -> None:
        """From now on the bar shows `queue`, out of `total`; `done` counts, or else all that is not missing."""
        self.close()
        self.queue, self.total, self.share = queue, total, 0.0
        self.count = done or (lambda: total - len(queue.missing))
        self.done = self.count()
        if queue.missing:
            self.bar = Bar(total=total, initial=self.done, unit=unit, bar_format=FORMAT, disable=not self.shown)

    def at(self, job: Job) -> None:
        """It is being computed now."""
        if self.bar is not None:
            if isinstance(job, ImportanceJob):
                plain = f"{job.task}, {job.num_fewshot}-shot, {job.component}{job.pruned}"
                text = job.described if job.method else plain
            else:
                text = f"{job.group.task}, {job.group.num_fewshot}-shot"
            self.bar.set_description(text)

    def advance(self, share: float) -> None:
        """A share of a cell's work is done."""
        check()
        self.share += share
        self.look()

    def look(self) -> None:
        if self.bar is None or self.queue is None:
            return
        done = self.count()
        self.share, self.done = max(0.0, self.share - (done - self.done)), done
        self.bar.update(min(done + self.share, self.total) - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total_fmt} {unit}s [{elapsed}<{remaining}]"
