"""The command, as the package says. Exit code 1 where an input ended in anything but an answer or an error of ours."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.readers import READERS, prepare
from tests.fuzz.trial import faults, input_of

STUCK = 300
"""Seconds after which an input that even an alarm does not end ends the command, with where it hangs."""


def main() -> int:
    options = _options()
    warnings.simplefilter("ignore")
    logging.disable()
    readers = options.reader or list(READERS)
    found = 0
    for reader in readers:
        count = options.inputs // len(readers)
        if options.only is not None and options.show:
            with tempfile.TemporaryDirectory() as folder:
                data = input_of(prepare(reader, Path(folder)), reader, options.seed, options.only)
            sys.stdout.buffer.write(data + b"\n")
        found += _try(reader, options, range(count) if options.only is None else [options.only])
    return 1 if found else 0


def _try(reader: str, options: argparse.Namespace, numbers: range | list[int]) -> int:
    """How many of the inputs have faults; each kind is printed with the number of its first input."""
    kinds: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for fault in faults(reader, options.seed, _watched(numbers), Path(folder, reader)):
            if not kinds[fault.kind]:
                again = f"--reader {reader} --seed {options.seed} --only {fault.number}"
                print(f"  {fault.kind}: {fault.message!r}; {again}")
            kinds[fault.kind] += 1
            if options.keep and kinds[fault.kind] <= 3:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{reader}-{fault.number}").write_bytes(fault.data)
    faulthandler.cancel_dump_traceback_later()
    seconds = time.monotonic() - start
    said = f"{len(numbers):,} inputs, {kinds.total():,} faults of {len(kinds)} kinds, {seconds:.0f} s"
    print(f"{reader}: {said}", flush=True)
    return kinds.total()


def _watched(numbers: range | list[int]) -> Iterator[int]:
    """The numbers; the command ends where one takes too long."""
    for number in numbers:
        faulthandler.dump_traceback_later(STUCK, exit=True)
        yield number


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all readers together")
    parser.add_argument("--reader", action="append", choices=READERS, help="may be given several times; default: all")
    parser.add_argument("--only", type=int, help="the number of one input")
    parser.add_argument("--show", action="store_true", help="print the input of --only")
    parser.add_argument("--keep", type=Path, help="folder for the first inputs of each kind of fault")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
