"""What the demo costs: wall and CPU seconds, and how soon a terminal shows anything.

    python benchmarks/bench_demo.py [--repeats 3]

Runs `lm-eval-prune demo` on a pseudo-terminal of 80 columns, each time into a new folder, and prints the medians:
seconds from start to end, processor seconds of all its processes, seconds to the first line, to the first bar, and the
longest silence. Writes a dated JSON. On a machine with other work only the processor seconds mean anything.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path

from common import record

COUNTED = re.compile(rb"\d+%\|")
"""What a bar over counted work has, and one over a stage has not."""


def measured(command: Sequence[str]) -> dict[str, float]:
    """One run of `command` on a terminal."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    shown, last, first, bar, silence = b"", start, 0.0, 0.0, 0.0
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        now = time.perf_counter()
        shown, silence, last = shown + part, max(silence, now - last), now
        first = first or now - start
        bar = bar or (now - start if COUNTED.search(shown) else 0.0)
    code = process.wait()
    end, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}\n{shown.decode(errors='replace')[-2000:]}")
    return {
        "wall, s": end - start,
        "CPU, s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "to the first line, s": first,
        "to the first bar of counted work, s": bar,
        "longest silence, s": silence,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    runs = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(
                measured([sys.executable, "-m", "lm_eval_prune", "demo", "--output_path", str(Path(folder, "demo"))])
            )
    results = {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}
    record("demo", results, repeats=arguments.repeats, threads=os.environ.get("OMP_NUM_THREADS", "all cores"))


if __name__ == "__main__":
    main()
