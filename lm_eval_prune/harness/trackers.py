"""A sweep's cells in wandb or trackio, by the harness's own loggers: one run a cell, all of a sweep in one group.

So the services' own tables and plots have a point a cell, with what was pruned as the run's settings and the metrics as
its results. A tracker that fails costs no cell: it is logged, and the sweep goes on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lm_eval.loggers import WandbLogger

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.harness.releases import trackio_logger
from lm_eval_prune.text import message_of

__all__ = ["PACKAGES", "Tracker", "require_packages"]

PACKAGES = {"wandb_args": "wandb", "trackio_args": "trackio"}
"""Settings that need a package which the harness does not bring."""

PATIENCE = 3
"""Failures in a row after which a tracker is left alone: each may take as long as a network's timeout."""

logger = logging.getLogger(__name__)


def require_packages(settings: Mapping[str, Any]) -> None:
    """Raise ArgumentError where one of `settings` is given, and its package is not installed."""
    for name, package in PACKAGES.items():
        if settings.get(name) and importlib.util.find_spec(package) is None:
            raise ArgumentError(f"--{name} needs the package {package}: pip install {package}")


class Tracker:
    """Where finished cells are logged; nowhere, where neither `wandb_args` nor `trackio_args` are given.

    They are the arguments of `wandb.init` and `trackio.init`, as `lm_eval` takes them; `group` is theirs, unless they
    name one. Raises ArgumentError where a package is missing, or where a run of wandb is going on in this process.
    """

    def __init__(self, *, group: str, wandb_args: Mapping[str, Any], trackio_args: Mapping[str, Any]) -> None:
        require_packages({"wandb_args": wandb_args, "trackio_args": trackio_args})
        if trackio_args:
            trackio_logger()
        if wandb_args and getattr(sys.modules.get("wandb"), "run", None) is not None:
            raise ArgumentError(
                "wandb_args: a run is going on, but each cell is to have its own; end it: wandb.finish()"
            )
        self.logs = {
            name: (log, {"group": group, **arguments})
            for name, log, arguments in (
                ("wandb", _log_to_wandb, wandb_args),
                ("trackio", _log_to_trackio, trackio_args),
            )
            if arguments
        }
        self.failures: Counter[str] = Counter()

    def log(self, name: str, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """A run called `name`, with `settings` and the harness's `results` of a cell."""
        for tracker, (log, arguments) in list(self.logs.items()):
            try:
                log({**arguments, "name": name}, settings, results)
                self.failures[tracker] = 0
            except Exception as error:  # of the network, of the service or its package
                self.failures[tracker] += 1
                logger.warning("%s: %s is not logged: %s: %s", tracker, name, type(error).__name__, message_of(error))
                if self.failures[tracker] == PATIENCE:
                    logger.warning("%s: failed %d times in a row; no further cells are logged there", tracker, PATIENCE)
                    del self.logs[tracker]


def _log_to_wandb(arguments: dict[str, Any], settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    tracker = WandbLogger({"settings": {"silent": True}, **arguments}, dict(settings))
    try:
        tracker.post_init(dict(results))
        tracker.log_eval_result()
    finally:
        tracker.run.finish()


def _log_to_trackio(arguments: dict[str, Any], settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # it says four lines a run, in the middle of our bars
        tracker = trackio_logger()({**arguments, "config": {**arguments.get("config", {}), **settings}})
        try:
            tracker.post_init(dict(results))
            tracker.log_eval_result()
        finally:
            tracker.finish()
