"""Files of JSON lines, read a line at a time within bounds: samples may be large, and unpack to anything."""

from __future__ import annotations

import zlib
from collections.abc import Generator
from gzip import GzipFile
from typing import IO

from lm_eval_prune.errors import FileFormatError

__all__ = ["MAX_BYTES", "MAX_LINES", "MAX_LINE_BYTES", "bounded_lines"]

MAX_BYTES = 4 * 2**30
"""Of a whole file, unpacked."""
MAX_LINE_BYTES = 64 * 2**20
MAX_LINES = 10_000_000


def bounded_lines(file: IO[bytes] | GzipFile, where: object) -> Generator[bytes, None, None]:
    """The lines of `file` that are not blank. Raises FileFormatError that begins with `where`.

    A file beyond the bounds is refused, never cut: half of the outcomes would be other numbers.
    """
    size = 0
    try:
        for number in range(MAX_LINES + 1):
            line = file.readline(MAX_LINE_BYTES + 1)
            size += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise FileFormatError(f"{where}: line {number + 1} is over {MAX_LINE_BYTES // 2**20} MiB; not read")
            if size > MAX_BYTES:
                raise FileFormatError(f"{where}: over {MAX_BYTES / 2**30:g} GiB, unpacked; not read")
            if not line:
                return
            if not line.isspace():
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise FileFormatError(f"{where}: cannot be read: {error}") from None
    raise FileFormatError(f"{where}: over {MAX_LINES:,} lines; not read")
