"""`8x80GB,cpu:512GB,disk`: the memory that a model may be spread over.

An entry is N GPUs of a size (`1x` may be left out), the host's memory, or leave to put weights on disk. Without `cpu`
nothing is offloaded; `cpu` alone is a machine without a GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lm_eval_prune.errors import ArgumentError

__all__ = ["Devices", "parse_devices"]

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
EXPECTED = "expected entries such as 8x80GB, 141GB, cpu:512GB or disk, with commas between"


@dataclass(frozen=True)
class Devices:
    """Bytes of each GPU, of the host's memory (0: not to be used), and whether weights may lie on disk."""

    gpus: tuple[int, ...] = ()
    cpu: int = 0
    disk: bool = False

    @property
    def max_memory(self) -> dict[int | str, int]:
        """As accelerate takes it."""
        return {**dict(enumerate(self.gpus)), "cpu": self.cpu}

    @property
    def may_offload(self) -> bool:
        """Whether weights may lie where nothing is computed."""
        return self.disk or bool(self.gpus and self.cpu)

    def first(self, count: int) -> Devices:
        """The first `count` GPUs alone."""
        return Devices(self.gpus[:count])


def parse_devices(text: str) -> Devices:
    """The devices that `text` describes. Raises ArgumentError."""
    gpus: list[int] = []
    cpu, disk = 0, False
    for entry in text.split(","):
        part = entry.strip().lower()
        if part == "disk":
            disk = True
        elif part.startswith("cpu:"):
            if cpu:
                raise ArgumentError(f"devices={text}: the host's memory is given twice")
            cpu = _bytes(part.removeprefix("cpu:"), text, entry)
        else:
            count, _, size = part.rpartition("x")
            if count and not (re.fullmatch("[0-9]{1,4}", count) and 1 <= int(count) <= 1024):
                raise ArgumentError(f"devices={text}: {entry.strip()!r} is not understood; {EXPECTED}")
            gpus += [_bytes(size, text, entry)] * int(count or 1)
    if not gpus and not cpu:
        raise ArgumentError(f"devices={text}: nothing computes; {EXPECTED}")
    return Devices(tuple(gpus), cpu, disk)


def _bytes(size: str, text: str, entry: str) -> int:
    matched = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*([kmgt]i?b)", size)
    if matched is None or not float(matched[1]):
        raise ArgumentError(f"devices={text}: {entry.strip()!r} is not understood; {EXPECTED}")
    return int(float(matched[1]) * UNITS[matched[2].upper()])
