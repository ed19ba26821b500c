"""Commands and scripts in processes of their own that need not import everything again.

`multiprocessing` keeps a server that has imported the libraries and done nothing else; each process is forked from it,
with its own command line, folder, environment, output and exit code. What a test says of starting itself (the start-up
hook, what is imported, the installed command) needs `subprocess` instead.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import psutil

from tests import isolation

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])


class Forked:
    """`python COMMAND...`, begun: `-m MODULE ARGUMENT...` or `SCRIPT ARGUMENT...`; its output goes to two files."""

    def __init__(self, *command, cwd=None, out=None, **environment):
        self.command = [str(word) for word in command]
        own = os.environ[isolation.OWN]
        files = out or [tempfile.mkstemp(prefix=name, dir=own)[1] for name in ("stdout-", "stderr-")]
        self.files = [Path(file) for file in files]
        given = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        self.process = SERVER.Process(target=_main, args=(self.command, str(cwd or Path.cwd()), given, self.files))
        self.process.start()
        self.pid = self.process.pid

    def poll(self):
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def stopped(self, number):
        """Send the signal. Returns how it ended, and the seconds of processor time that it took."""
        process = psutil.Process(self.pid)
        before = after = sum(process.cpu_times()[:2])
        self.send_signal(number)
        while self.poll() is None:
            with contextlib.suppress(psutil.Error):
                after = sum(process.cpu_times()[:2])
            time.sleep(0.02)
        return self.ended(), after - before

    def output(self):
        """What it has written by now, to standard output and to standard error."""
        return [file.read_text(encoding="utf-8") for file in self.files]

    def ended(self, timeout=300):
        """As `subprocess.run` returns it. It is killed after so many seconds."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise subprocess.TimeoutExpired(self.command, timeout, *self.output())
        return subprocess.CompletedProcess(self.command, self.process.exitcode, *self.output())


def run(*command, timeout=300, **settings):
    return Forked(*command, **settings).ended(timeout)


def launched(*command, processes=2, **environment):
    """The command once a process of one launch, with the variables by which `torchrun` tells them of each other.

    Returns what the first one ended with, and what all wrote.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    common |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **environment}
    first = Forked(*command, **common, RANK=0, LOCAL_RANK=0)
    others = [Forked(*command, out=first.files, **common, RANK=n, LOCAL_RANK=n) for n in range(1, processes)]
    ended = [each.ended() for each in (first, *others)]
    ended[0].returncode = max((abs(each.returncode) for each in ended), default=0)
    ended[0].stdout, ended[0].stderr = first.output()
    return ended[0]


def _main(command, folder, environment, files):
    """The process: everything that Python itself would set before it runs a module or a script, and after it."""
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if (datasets := sys.modules.get("datasets.config")) is not None and "HF_DATASETS_CACHE" in environment:
        datasets.HF_DATASETS_CACHE = Path(environment["HF_DATASETS_CACHE"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).parent))
            runpy.run_path(command[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 255)
