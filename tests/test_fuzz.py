"""Spoilt files for every reader, 2,000 of them with a fixed seed; `python -m tests.fuzz` tries more."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz import guard
from tests.fuzz.readers import READERS
from tests.fuzz.trial import faults

INPUTS = 2_000
"""Of all readers together."""


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_ends_in_an_answer_or_an_error_of_ours(reader, tmp_path):
    tried = faults(reader, 0, range(INPUTS // len(READERS)), tmp_path)
    found = {fault.kind: f"--only {fault.number}: {fault.message}" for fault in tried}
    assert not found, f"python -m tests.fuzz --reader {reader} --seed 0 ... {found}"


def writes(path):
    path.write_text("x")


REACHING = {
    "a file beside": lambda folder: writes(folder.parent / "beside"),
    "a path with dots": lambda folder: writes(folder / ".." / "beside"),
    "a link out of it": lambda folder: writes(folder / "link" / "beside"),
    "a folder": lambda folder: (folder.parent / "made").mkdir(),
    "removal": lambda folder: (folder.parent / "there").unlink(),
    "a move": lambda folder: (folder / "own").rename(folder.parent / "moved"),
    "a process": lambda folder: subprocess.run([sys.executable, "-c", ""], check=True),
    "a shell": lambda folder: os.system("true"),
    "a pickle": lambda folder: pickle.loads(pickle.dumps(os.getcwd)),
}


@pytest.mark.parametrize("what", REACHING)
def test_the_guard_sees_what_reaches_out(what, tmp_path):
    (tmp_path / "there").write_text("x")
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "own").write_text("x")
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(guard.Reached), guard.confined(folder):
        REACHING[what](folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "there"]


def test_the_guard_sees_what_is_caught(tmp_path):
    def catching():
        with contextlib.suppress(BaseException):
            writes(tmp_path / "beside")

    (tmp_path / "input").mkdir()
    with pytest.raises(guard.Reached), guard.confined(tmp_path / "input"):
        catching()


def test_the_guard_lets_be_what_stays_inside(tmp_path):
    with guard.confined(tmp_path):
        writes(tmp_path / "file")
        (tmp_path / "file").rename(tmp_path / "moved")
        Path(__file__).read_bytes()


def test_the_guard_stops_what_takes_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "MAX_SECONDS", 0.05)
    with pytest.raises(guard.TooSlow), guard.confined(tmp_path):
        time.sleep(1)


def test_waiting_for_a_processor_is_not_taking_long(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(guard, "_clock", lambda: 0.0)  # stands still: others have the processors
    end = time.monotonic() + 0.3
    with guard.confined(tmp_path):
        while time.monotonic() < end:
            pass


def test_the_guard_stops_what_takes_too_much(tmp_path):
    with pytest.raises(MemoryError), guard.confined(tmp_path):
        bytearray(2 * guard.MAX_BYTES)
