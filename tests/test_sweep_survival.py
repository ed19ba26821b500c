"""What happens to a sweep: SIGKILL at any moment, other processes on its folder, a full disk, a folder to read only."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_sweep import BEYOND, NUM_CELLS, cells, leftovers, same, settings

from lm_eval_prune.cli import main as command
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.results import importance_at_work
from lm_eval_prune.sweep.run import run_sweep
from tests import processes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of the whole grid, computed without interruption."""
    folder = tmp_path_factory.mktemp("sweep") / "grid"
    run_sweep(settings(folder), progress=False)
    return folder


@pytest.fixture(scope="module", params=[{}, BEYOND], ids=["importance", "beyond"])
def either(request, tmp_path_factory):
    """(changes to the grid, its folder, computed without interruption)."""
    folder = tmp_path_factory.mktemp("sweep") / "grid"
    run_sweep(settings(folder, **request.param), progress=False)
    return request.param, folder


def forked(folder, mode, changes):
    """The lines that the sweeps of `forking_sweeps.py` said."""
    script = Path(__file__).parent / "forking_sweeps.py"
    done = processes.run(script, folder, torch.get_num_threads(), mode, json.dumps(changes), timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_killed_at_twenty_random_moments_and_resumed_it_ends_as_if_never_stopped(either, tmp_path):
    changes, finished = either
    lines = forked(tmp_path / "killed", "killed", changes)
    assert 0 < len(lines) == len(set(lines)) <= len(cells(finished))  # what was written is not computed again
    same(tmp_path / "killed", finished)


@pytest.mark.slow
def test_four_processes_on_one_folder_compute_each_cell_once(either, tmp_path):
    changes, finished = either
    lines = forked(tmp_path / "shared", "shared", changes)
    assert len(lines) == len(set(lines)) == len(cells(finished)) >= 10
    same(tmp_path / "shared", finished)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["importance", "cells"])
def test_ctrl_c_ends_it_within_a_batch_and_the_same_command_goes_on(finished, tmp_path, at):
    folder = tmp_path / "stopped"
    (tmp_path / "sweep.yaml").write_text(settings(folder).model_dump_json())
    command = ["-m", "lm_eval_prune", "sweep", "--config", tmp_path / "sweep.yaml"]
    sweep = processes.Forked(*command)
    while not (importance_at_work(folder) if at == "importance" else list(folder.glob("cells/*.json"))):
        assert sweep.poll() is None
        time.sleep(0.02)
    done, seconds = sweep.stopped(signal.SIGINT)
    assert seconds < 5
    assert done.returncode == 130
    assert f"stopped; finished cells are kept in {folder}; the same command goes on from there" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(cells(folder)) < NUM_CELLS
    assert [path for path in leftovers(folder) if path.suffix != ".lock"] == []
    done = processes.run(*command)
    assert done.returncode == 0, done.stderr
    same(folder, finished)


def lines_of_error(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["lm-eval-prune", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]


@contextlib.contextmanager
def disk_of(folder, kilobytes):
    """Inside, no more than this fits into the folder; where nothing can be mounted, into no file."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield lambda option: subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))

    def remount(option):
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        folder.chmod(0o500 if option == "ro" else 0o700)

    try:
        yield remount
    finally:
        remount("rw")


def test_a_full_disk_is_one_line_and_nothing_half_written(tmp_path, monkeypatch, capsys):
    grid = {"tasks": ["demo_facts"], "ranking": ["random:0+1"], "num_fewshot": [0]}
    run_sweep(settings(tmp_path / "roomy", **grid), progress=False)
    size = sum(path.stat().st_size for path in (tmp_path / "roomy").rglob("*") if path.is_file())
    folder = tmp_path / "full"
    (tmp_path / "sweep.yaml").write_text(settings(folder, **grid).model_dump_json())
    with disk_of(folder, size // 1024 * 2 // 3) as remount:
        (line,) = lines_of_error(monkeypatch, capsys, "sweep", "--config", tmp_path / "sweep.yaml")
        assert "cannot be written: No space left on device" in line or "File too large" in line
        for path in (folder / "cells").glob("*.json"):
            disk.read_cell(path)
        assert [path for path in leftovers(folder) if path.suffix != ".lock"] == []
        remount("size=10m")
        run_sweep(settings(folder, **grid), progress=False)
        assert cells(folder) == cells(tmp_path / "roomy")
        assert leftovers(folder) == []
        remount("ro")
        (line,) = lines_of_error(monkeypatch, capsys, "sweep", "--config", tmp_path / "sweep.yaml")
        assert "cannot be written: " in line or "cannot be locked: " in line
        remount("rw")
