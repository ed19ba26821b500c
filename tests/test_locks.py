"""Lock files: one holder, and removed without ever being another's; also by the calls that Windows has."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lm_eval_prune import locks


def _windows(monkeypatch):
    """The module as Windows runs it, over this system's locks."""

    def locking(descriptor, mode, number):
        assert number == 1
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if mode == msvcrt.LK_LOCK:  # ten tries there
                time.sleep(0.01)
                raise OSError(errno.EDEADLK, "Resource deadlock avoided") from None
            raise PermissionError(errno.EACCES, "Permission denied") from None

    real_unlink = os.unlink

    def unlink(path, **settings):
        """No open file can be removed."""
        ours = (os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir())
        if os.path.realpath(path) in ours:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        real_unlink(path)

    msvcrt = SimpleNamespace(LK_LOCK=1, LK_NBLCK=2, locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "unlink", unlink)
    spec = importlib.util.spec_from_file_location("locks_of_windows", locks.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module._locked is not locks._locked
    return module


@pytest.fixture(params=["posix", "windows"])
def system(request, monkeypatch):
    if request.param == "posix":
        return locks
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc, by which open files are found")
    return _windows(monkeypatch)


def test_one_holder_at_a_time(system, tmp_path):
    path = tmp_path / "a.lock"
    with system.held(path) as first, system.held(path) as second:
        assert (first, second) == (True, False)
    with system.held(path) as again:
        assert again
    assert path.exists()


@pytest.mark.parametrize("removed", [False, True])
def test_who_waits_gets_it_when_it_is_let_go_of(system, tmp_path, removed):
    path, order = tmp_path / "a.lock", []

    def second():
        with system.held(path, wait=True) as mine:
            order.append(("second", mine))

    with system.held(path, remove=removed):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append(("first", True))
    thread.join(20)
    assert order == [("first", True), ("second", True)]


def test_it_is_removed_by_its_holder_alone(system, tmp_path):
    path = tmp_path / "a.lock"
    with system.held(path):
        with system.held(path, remove=True) as other:
            assert not other
        assert path.exists()
    with system.held(path, remove=True) as mine:
        assert mine
        assert path.exists()
    assert not path.exists()


def test_what_another_has_opened_is_never_two_processes(system, tmp_path):
    """The next one opened the file before it was removed, and asks for its lock afterwards."""
    path = tmp_path / "a.lock"
    mine = system.hold(path)
    opened = os.open(path, os.O_RDWR)
    system.let_go(mine, remove=path)
    assert system.lock_descriptor(opened)
    theirs = system.is_still(opened, path)
    with system.held(path) as third:
        assert third is not theirs
    system.let_go(opened)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOLCK, errno.EBADF])
@pytest.mark.parametrize("wait", [False, True])
def test_without_locks_it_raises_and_does_not_wait_for_ever(system, tmp_path, monkeypatch, number, wait):
    def refuse(*arguments):
        raise OSError(number, "no locks here")

    module, name = (sys.modules["msvcrt"], "locking") if sys.platform == "win32" else (fcntl, "flock")
    monkeypatch.setattr(module, name, refuse)
    with pytest.raises(OSError, match="no locks here"):
        system.hold(tmp_path / "a.lock", wait=wait)
