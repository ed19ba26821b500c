"""Sweeps in children of one process that has imported everything.

python forking_sweeps.py FOLDER THREADS killed|shared|robbed [CHANGES]

killed: 20 children one after another, each killed at a random moment of its work, then one that ends by itself.
shared: 4 children at once.
robbed: 4 children at once, two of which are killed when the first cell is there; two others take their places.
CHANGES are changes to the small grid, as JSON.
Every finished cell is a line on standard output. The exit code is the number of children that failed by themselves.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from small_sweep import settings

from lm_eval_prune.sweep.run import run_sweep

KILLS = 20


def start(folder: Path, changes: dict[str, Any]) -> int:
    """The process id of a child that sweeps."""
    if pid := os.fork():
        return pid
    try:
        config = settings(folder, masks_at_once=2, **changes)
        run_sweep(config, progress=False, say=lambda line: os.write(1, f"{line}\n".encode()))
    finally:
        os._exit(sys.exc_info()[0] is not None)


def kill_after(pid: int, seconds: float) -> None:
    """Of processor time, so that on a busy machine it is killed in the same places. It may end before.

    The small grid takes about a second of it, half of which goes by before the first cell is there.
    """
    clock = psutil.Process(pid)
    while clock.status() != psutil.STATUS_ZOMBIE and sum(clock.cpu_times()[:2]) < seconds:
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: str, threads: str, mode: str, given: str = "{}") -> int:
    changes = json.loads(given)
    torch.set_num_threads(int(threads))
    rng = random.Random(0)
    if mode == "killed":
        for _ in range(KILLS):
            pid = start(Path(folder), changes)
            kill_after(pid, rng.uniform(0.1, 0.9))
    children = [start(Path(folder), changes) for _ in range(1 if mode == "killed" else 4)]
    if mode == "robbed":
        while not list(Path(folder).glob("cells/*.json")):
            time.sleep(0.05)
        for pid in children[:2]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        children = [*children[2:], *(start(Path(folder), changes) for _ in range(2))]
    return sum(map(bool, map(ended, children)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
