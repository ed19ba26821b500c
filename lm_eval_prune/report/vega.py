"""The charts' library (vl-convert), in a process of its own.

It holds a JavaScript engine, which ends its whole process where it cannot have tens of gigabytes of address space
(`ulimit -v`, job schedulers) and where a chart goes wrong. `vega_process.py` is that process.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ChartError

__all__ = ["converted", "start_bundling", "why_no_charts"]

SECONDS = 600
"""After which an answer is no longer waited for; a large study's figures take a minute."""
PACKAGES = {"altair": "altair", "vl_convert": "vl-convert-python"}
"""Module -> package, of the extra `report`."""
SCRIPT = Path(__file__).with_name("vega_process.py")


def why_no_charts() -> str | None:
    """None where the charts' packages are installed; else which is missing, and how to install it."""
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            return f"charts need the package {package}: pip install 'lm-eval-prune[report]'"
    return None


@cache
def start_bundling() -> Future[str]:
    """Have the library for the page put together: it takes seconds, and waits for nothing of ours.

    The future's result is Vega, Vega-Lite and Vega-Embed in one script, for charts of the altair that is installed; it
    raises ChartError where there is none.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    bundling = pool.submit(_bundle)
    pool.shutdown(wait=False)
    return bundling


def converted(charts: Sequence[tuple[dict[str, Any], str]], png_scale: float) -> list[bytes]:
    """Vega-Lite specifications as files of a format (svg, png, pdf). Raises ChartError."""
    return _ask({"charts": charts, "png_scale": png_scale})


def _bundle() -> str:
    import altair

    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return _ask({"bundle": version})[0].decode()


def _ask(request: dict[str, Any]) -> list[bytes]:
    command = [sys.executable, str(SCRIPT)]
    try:
        done = subprocess.run(
            command, input=json.dumps(request).encode(), capture_output=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ChartError(f"the charts' library (vl-convert): {error}") from None
    if done.returncode:
        raise ChartError(f"the charts' library (vl-convert) {_end(done.returncode, done.stderr)}")
    try:
        return [base64.b64decode(part) for part in json.loads(done.stdout)]
    except ValueError as error:
        raise ChartError(f"the charts' library (vl-convert): its answer is cut: {error}") from None


def _end(code: int, said: bytes) -> str:
    """How a process ended, with the last that it said."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}; it needs tens of gigabytes of address space (ulimit -v)"
    lines = said.decode(errors="replace").strip().splitlines()
    return f"failed: {lines[-1] if lines else f'exit code {code}'}"
