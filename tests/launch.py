"""Two processes on the CPU, as `accelerate launch` starts them where there are GPUs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def launched(*command, processes=2, **environment):
    """Run `python COMMAND...` once a process, which find each other at a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # What `accelerate launch` runs; on a CPU it would itself start a single process unless there is MPI.
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    settings = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    settings |= {name: str(value) for name, value in environment.items()}
    command = [*launcher, *map(str, command)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
