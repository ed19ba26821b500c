"""Where jobs are computed: an `Executor`. This process (and those launched with it) here, Ray in `ray_executor.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import torch.distributed as dist

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.importance.processes import Processes, leave_group_at_exit
from lm_eval_prune.sweep.jobs import Job, Outcome
from lm_eval_prune.sweep.stopping import check
from lm_eval_prune.sweep.worker import Worker

if TYPE_CHECKING:
    from lm_eval_prune.sweep.config import SweepConfig

__all__ = ["Executor", "InProcess", "follow", "joined_processes", "make_executor"]

Progress = Callable[[float], None]


class Executor(Protocol):
    """Computes jobs that were started; what it is given and gives back can travel between machines."""

    def free(self) -> int:
        """How many more jobs it would work at now."""

    def start(self, job: Job) -> None:
        """Take a job; `free()` was above 0."""

    def outcomes(self) -> Iterator[Outcome]:
        """Wait until something comes of the jobs that were started, or until more of them would be worked at."""

    def close(self) -> None:
        """Let go of all workers, whatever they are at."""


def make_executor(config: SweepConfig, progress: Progress) -> Executor:
    """The executor that `config` asks for; `progress` is told of shares of a cell's work. Raises ArgumentError."""
    if config.executor == "ray":
        from lm_eval_prune.sweep.ray_executor import OnRay

        if Processes.current().world_size > 1:
            raise ArgumentError("executor=ray: start the sweep as one process; its workers are Ray's")
        return OnRay(config)
    return InProcess(config, progress)


class InProcess:
    """One job at a time, in this process, or in all processes of `accelerate launch` together.

    The first process alone decides, writes and says what is next; the others `follow`.
    """

    def __init__(self, config: SweepConfig, progress: Progress) -> None:
        self.worker, self.progress = Worker(config), progress
        self.alone = Processes.current().world_size == 1
        self.job: Job | None = None
        self.in_step = True

    def free(self) -> int:
        return int(self.job is None)

    def start(self, job: Job) -> None:
        self.job = job

    def outcomes(self) -> Iterator[Outcome]:
        job, self.job = self.job, None
        if job is None:
            return
        if self.alone:
            yield from self.worker.run(job, self.progress)
            return
        _told(job)
        self.in_step = False
        found = list(self.worker.run(job, self.progress))
        self.in_step = True
        yield from found

    def close(self) -> None:
        if not self.alone and self.in_step:
            _told(None)


def follow(config: SweepConfig) -> None:
    """What every launched process but the first does: its share of each job, until there are no more."""
    worker = Worker(config)
    while (job := _told(None)) is not None:
        for _ in worker.run(job):
            check()


def joined_processes() -> Processes:
    """The processes of this launch, joined into one group where there are several. Raises ArgumentError."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ:
        if os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]) != os.environ["WORLD_SIZE"]:
            raise ArgumentError(
                "accelerate launch over several machines: the harness counts processes a machine; start one sweep a "
                "machine on a shared folder, or use --executor ray"
            )
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        # As the harness joins them: a cell may take longer than the usual half an hour.
        Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(weeks=52))])
        leave_group_at_exit()
    return Processes.current()


def _told(job: Job | None) -> Any:
    """The first process's `job`, in every process."""
    box = [job]
    dist.broadcast_object_list(box, src=0)
    return box[0]
