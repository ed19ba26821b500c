"""What every benchmark writes beside its figures: the machine, the versions and the command."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores and load; the load says whether something else was running."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": list(os.getloadavg()),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Of Python and of what the figures depend on."""
    packages = ("lm-eval-prune", "lm_eval", "torch", "transformers")
    return {"python": platform.python_version(), **{package: metadata.version(package) for package in packages}}


def record(benchmark: str, results: dict[str, Any], **settings: Any) -> Path:
    """Print `results` and write them, with machine, versions and command, to results/<benchmark>-<date>.json."""
    now = datetime.datetime.now(datetime.timezone.utc)
    content = {
        "benchmark": benchmark,
        "date": now.isoformat(timespec="seconds"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_without_path, sys.argv[1:])]),
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "results": results,
    }
    for key, value in results.items():
        print(f"{key}: {value}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{benchmark}-{now:%Y-%m-%d}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")
    return path


def _without_path(argument: str) -> str:
    """A path of this machine as its name."""
    return Path(argument).name if Path(argument).is_absolute() else argument
