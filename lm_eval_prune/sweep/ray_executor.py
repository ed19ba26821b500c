"""Jobs on an existing Ray cluster: actors that load the model once and are handed one job after another.

Only the driver touches the sweep's folder: results travel back to it. Where a worker or its node dies, the cells that
it was at go to another worker, one by one, and a new worker takes its place as soon as the cluster has room.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.sweep.jobs import CellBatch, Failure, Job, Outcome
from lm_eval_prune.text import message_of

if TYPE_CHECKING:
    from lm_eval_prune.sweep.config import SweepConfig

__all__ = ["OnRay"]

logger = logging.getLogger(__name__)

MOST_DEATHS = 3
"""Workers that may die over one cell, or in a row before they have loaded the model."""
PATIENCE_SECONDS = 60.0
"""How long no worker may come before a warning says so."""


class OnRay:
    """An `Executor`. Raises ArgumentError without ray or a cluster, PruneError where no worker can load the model."""

    def __init__(self, config: SweepConfig) -> None:
        self.ray, self.config = _ray(), config
        self.own = not self.ray.is_initialized()
        if self.own:
            try:
                _require_listener(config.ray_address)
                with _own_sigterm():
                    self.ray.init(address=config.ray_address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                reason = message_of(error)
                raise ArgumentError(f"ray_address={config.ray_address}: no Ray cluster there: {reason}") from None
        self.waiting: dict[Any, Any] = {}  # being loaded: reference -> worker
        self.running: dict[Any, tuple[Job, Any]] = {}
        self.idle: list[tuple[Any, Any]] = []  # (worker, the group that it was last at)
        self.again: list[Job] = []
        self.deaths: dict[str, int] = {}
        self.stillborn = 0
        for _ in range(config.num_workers or self._room()):
            self._hire()

    def free(self) -> int:
        return max(0, len(self.idle) - len(self.again))

    def start(self, job: Job) -> None:
        group = job.group if isinstance(job, CellBatch) else None
        worker = next((worker for worker, last in self.idle if last == group), self.idle[0][0])
        self.idle = [pair for pair in self.idle if pair[0] is not worker]
        self.running[worker.run.remote(job)] = job, worker

    def outcomes(self) -> Iterator[Outcome]:
        while self.again and self.idle:
            self.start(self.again.pop())
        if not (references := [*self.waiting, *self.running]):
            return
        ready, _ = self.ray.wait(references, timeout=PATIENCE_SECONDS)
        if not (ready or self.running or self.idle):
            logger.warning("no worker yet: the cluster has no room for one, or is slow to load the model")
        for reference in ready:
            if reference in self.waiting:
                self._loaded(reference)
            else:
                yield from self._finished(reference)

    def close(self) -> None:
        busy = [worker for _, worker in self.running.values()]
        for worker in [*self.waiting.values(), *busy, *(worker for worker, _ in self.idle)]:
            self.ray.kill(worker)
        if self.own:
            self.ray.shutdown()

    # -- workers --------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Workers that the cluster holds now: one for each share of GPUs, or one a node."""
        if gpus := self._num_gpus():
            return max(1, int(self.ray.cluster_resources().get("GPU", 0) / gpus))
        with_cpus = [node for node in self.ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        return max(1, len(with_cpus))

    def _num_gpus(self) -> float:
        if self.config.num_gpus is not None:
            return self.config.num_gpus
        return 1.0 if self.ray.cluster_resources().get("GPU") else 0.0

    def _hire(self) -> None:
        options = {"num_gpus": self._num_gpus(), "num_cpus": self.config.num_cpus, "scheduling_strategy": "SPREAD"}
        worker = (
            self.ray.remote(_Worker).options(**options).remote(self.config.model_dump(mode="json"), str(Path.cwd()))
        )
        self.waiting[worker.load.remote()] = worker

    def _loaded(self, reference: Any) -> None:
        worker = self.waiting.pop(reference)
        try:
            node = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # its model, or its packages
            self._not_loaded(message_of(error.cause or error))
        except self.ray.exceptions.RayError as error:
            self.stillborn += 1
            if self.stillborn < MOST_DEATHS:
                self._hire()
            else:
                self._not_loaded(message_of(error))
        else:
            self.stillborn = 0
            self.idle.append((worker, None))
            logger.info("a worker on %s has loaded the model", node)

    def _not_loaded(self, reason: str) -> None:
        if not (self.waiting or self.running or self.idle):
            raise PruneError(f"executor=ray: no worker can load the model: {reason}")
        logger.warning("a worker cannot load the model, going on without it: %s", reason)

    def _finished(self, reference: Any) -> Iterator[Outcome]:
        job, worker = self.running.pop(reference)
        try:
            found = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            found = [Outcome(key, Failure.of(error.cause or error), 0.0) for key in job.keys]
        except self.ray.exceptions.RayError as error:
            logger.warning("a worker died; its work goes to another: %s", message_of(error))
            self.ray.kill(worker)  # it may only be out of reach
            self._hire()
            yield from self._lost(job)
            return
        self.idle.append((worker, job.group if isinstance(job, CellBatch) else None))
        yield from found

    def _lost(self, job: Job) -> Iterator[Outcome]:
        for part in job.parts():
            (key,) = part.keys
            self.deaths[key] = self.deaths.get(key, 0) + 1
            if self.deaths[key] < MOST_DEATHS:
                self.again.append(part)
            else:
                yield Outcome(key, Failure("WorkerDied", f"{MOST_DEATHS} workers died while they were at it"), 0.0)


class _Worker:
    """What runs on the cluster."""

    def __init__(self, config: dict[str, Any], folder: str) -> None:
        from lm_eval_prune.sweep.config import SweepConfig
        from lm_eval_prune.sweep.worker import Worker

        if Path(folder).is_dir():  # relative paths mean what they mean to the driver
            os.chdir(folder)
        self.worker = Worker(SweepConfig(**config))

    def load(self) -> str:
        self.worker.model()
        return os.uname().nodename

    def run(self, job: Job) -> list[Outcome]:
        return list(self.worker.run(job))


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """SIGTERM does afterwards what it did before: Ray makes it an exit of its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _require_listener(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ArgumentError("executor=ray needs the package ray: pip install 'lm-eval-prune[ray]'") from None
    return ray
