"""What the start-up hook costs: interpreter start with it and without it.

    python benchmarks/bench_startup.py [--repeats 60]

Runs `python -I -c pass` in turn with the installed `.pth` line executed and not executed (both on top of `-S`, so that
nothing else in site-packages counts), prints the medians and their difference, and writes a dated JSON.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import record


def hook_source() -> str:
    """The line that the wheel installs, as the build backend makes it."""
    source = Path(__file__).parents[1] / "lm_eval_prune" / "harness" / "startup.py"
    return f"import sys; exec({source.read_text(encoding='utf-8')!r}, {{}})"


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    arguments = parser.parse_args()
    line = hook_source()
    inside = f"import time; t = time.perf_counter(); exec({line!r}); print(time.perf_counter() - t)"
    own = [
        float(subprocess.run([sys.executable, "-I", "-c", inside], capture_output=True, text=True, check=True).stdout)
        for _ in range(arguments.repeats)
    ]
    pairs = [(seconds("pass"), seconds(line)) for _ in range(arguments.repeats)]
    without, with_hook = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    results = {
        "start without the hook, ms": round(without, 3),
        "start with the hook, ms": round(with_hook, 3),
        "the hook alone, timed inside the interpreter, ms": round(statistics.median(own) * 1e3, 3),
    }
    record("startup", results, repeats=arguments.repeats)


if __name__ == "__main__":
    main()
