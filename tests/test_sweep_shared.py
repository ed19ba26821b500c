"""Folders of sweeps: shared by several, and never at the cost of files that are not theirs."""

import errno
import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from small_sweep import cells, settings

from lm_eval_prune import files, locks
from lm_eval_prune.cli import main as command
from lm_eval_prune.errors import FileFormatError, PruneError
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.claims import claim, claimed, clear_claims, is_claimed, present
from lm_eval_prune.sweep.run import run_sweep
from lm_eval_prune.sweep.schema import SetupFile
from tests.processes import SERVER

SMALL = {"tasks": ["demo_facts"], "num_fewshot": [0], "ranking": ["random:0"], "limit": 2}
FORKED = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "sweep"
    run_sweep(settings(folder, **SMALL), progress=False)
    return folder


@pytest.fixture
def sweep(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "sweep"))


def enter_often(folder, times, results):
    """Enters a claim so many times, and clears claims away: how often with somebody else inside."""
    both = 0
    for _ in range(times):
        with claim(folder, "plan", wait=True) as mine:
            assert mine
            try:
                os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                both += 1
            time.sleep(0.0005)
            (folder / "inside").unlink(missing_ok=True)
        clear_claims(folder, lambda name: True)
    results.put(both)


def test_a_claim_has_one_owner_while_lock_files_are_removed_all_the_time(tmp_path):
    results = FORKED.Queue()
    processes = [FORKED.Process(target=enter_often, args=(tmp_path, 50, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(10)
        assert process.exitcode == 0
    assert found == [0, 0, 0, 0]


def test_a_folder_that_goes_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    made, mkdir = [], Path.mkdir

    def gone_at_once(self, *args, **kwargs):
        if self.name == "claims" and len(made) < 3:
            made.append(self)
            raise FileExistsError(errno.EEXIST, "File exists")  # it was there, and is no longer when it is looked at
        return mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", gone_at_once)
    with claim(tmp_path, "plan", wait=True) as mine:
        assert mine
    assert len(made) == 3


@pytest.mark.parametrize("place", ["claims", "sweep", "above"])
@pytest.mark.parametrize("kind", ["a file", "a link to nothing"])
def test_a_place_that_is_no_folder_is_one_line(tmp_path, place, kind):
    path = {"claims": tmp_path / "claims", "sweep": tmp_path / "sweep", "above": tmp_path / "above"}[place]
    path.write_text("mine") if kind == "a file" else path.symlink_to("nowhere")
    folder = {"claims": tmp_path, "sweep": path, "above": path / "sweep"}[place]
    with pytest.raises(FileFormatError, match="cannot be written"), claim(folder, "plan", wait=True):
        pass


def test_a_forked_child_that_outlives_its_parent_holds_no_claim(tmp_path):
    reader, writer = os.pipe()
    if not (parent := os.fork()):
        with claim(tmp_path, "plan"):
            child = os.fork()
            if not child:
                time.sleep(30)
                os._exit(0)
            os.write(writer, f"{child}".encode())
            os.kill(os.getpid(), 9)
    child = int(os.read(reader, 20))
    os.waitpid(parent, 0)
    try:
        assert not is_claimed(tmp_path, "plan")
    finally:
        os.kill(child, 9)


def test_who_is_at_work_is_seen_and_leaves_nothing(tmp_path):
    with present(tmp_path) as one, present(tmp_path) as other:
        assert sorted(claimed(tmp_path, "process-")) == sorted([one, other])
    assert claimed(tmp_path, "process-") == []
    assert list((tmp_path / "claims").iterdir()) == []


SETTINGS = [
    {"model_args": "dtype=bfloat16"}, {"model_args": "dtype=float32"}, {"seed": 1}, {"seed": 2},
    {"importance_limit": 3}, {"importance_limit": 4},
]  # fmt: skip


def one_of_six(folder, changes, results):
    grid = {**SMALL, "ranking": ["own"], "tasks": ["demo_facts", "demo_recall"], **changes}
    try:
        results.put(len(run_sweep(settings(folder, **grid), progress=False).failed))
    except PruneError as error:
        results.put(str(error))


@pytest.mark.slow
def test_of_six_settings_at_once_on_a_new_folder_the_first_goes_on_and_the_others_say_why_not(tmp_path):
    results, folder = SERVER.Queue(), tmp_path / "sweep"
    processes = [SERVER.Process(target=one_of_six, args=(folder, changes, results)) for changes in SETTINGS]
    for process in processes:
        process.start()
    found = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(60)
    assert found.count(0) >= 1
    for line in (line for line in found if line != 0):
        assert "give another --output_path" in line
    assert cells(folder)


def test_a_setup_that_nothing_came_of_binds_nobody(tmp_path):
    folder = tmp_path / "sweep"
    disk.write_setup(folder, SetupFile(setup={"fingerprint": "of another model"}))
    with present(folder), pytest.raises(PruneError, match="give another --output_path"):
        run_sweep(settings(folder, **SMALL), progress=False)
    assert run_sweep(settings(folder, **SMALL), progress=False).failed == []


# -- files of others ----------------------------------------------------------------------------------------------


def victims(folder):
    folder.mkdir()
    names = ["uv.lock", "plan.lock", "settings.json", f"{'a' * 24}.json", f"{'a' * 24}.lock", "x.samples.jsonl.gz"]
    for name in names:
        (folder / name).write_text("mine")
    return {path: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["claims", "failed", "cells", "importance", "plans", "corrupt"])
def test_links_in_a_sweep_s_folder_are_refused_and_nothing_behind_them_is_touched(sweep, tmp_path, name):
    before = victims(tmp_path / "victim")
    shutil.rmtree(sweep / name, ignore_errors=True)
    (sweep / name).symlink_to(tmp_path / "victim")
    with pytest.raises(FileFormatError, match=rf"{name}: a link; those in a sweep's folder are not followed"):
        run_sweep(settings(sweep, **SMALL, seed=5), retry_failed=True, progress=False)
    clear_claims(sweep, lambda name: True)
    disk.remove_failures(sweep)
    disk.remove_left_behind(sweep)
    assert {path: path.read_text() for path in (tmp_path / "victim").iterdir()} == before


def test_files_that_are_not_ours_stay_and_hard_links_keep_their_content(sweep, tmp_path):
    before = victims(tmp_path / "victim")
    kept = [sweep / "claims" / "uv.lock", sweep / "claims" / "plan-of-mine.lock", sweep / "failed" / "mine.json"]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    cell = next((sweep / "cells").glob("*.json"))
    cell.unlink()
    cell.hardlink_to(tmp_path / "victim" / "settings.json")
    (sweep / "claims" / "plan.lock").hardlink_to(tmp_path / "victim" / "uv.lock")
    odd = sweep / "failed" / f"{'b' * 24}.json"
    odd.write_text('{"my": "data"}')
    assert run_sweep(settings(sweep, **SMALL), retry_failed=True, progress=False).failed == []
    assert [path.read_text() for path in kept] == ["mine"] * 3
    assert {path: path.read_text() for path in (tmp_path / "victim").iterdir()} == before
    assert (sweep / "corrupt" / f"{'b' * 24}.0.json").read_text() == '{"my": "data"}'


@pytest.mark.parametrize(
    "names",
    [["notes.txt"], ["failed/mine.json"], ["cells/x.json", "importance/y.json"], ["plans/mine.json"], [".git/x"]],
)
def test_a_folder_that_is_no_sweep_s_and_not_empty_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(FileFormatError, match=r"neither empty nor a sweep's folder .*give a new --output_path"):
        run_sweep(settings(tmp_path, **SMALL), retry_failed=True, progress=False)
    assert [(tmp_path / name).read_text() for name in names] == ["{}"] * len(names)
    assert {path.name for path in tmp_path.iterdir()} == {name.split("/")[0] for name in names}


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "cuda:99"},
        {"model_args": "pretrained=nowhere/at-all"},
        {"tasks": ["no_such_task"]},
        {"ranking": ["absent.json"]},
    ],
    ids=["device", "model", "task", "ranking"],
)
def test_a_sweep_that_cannot_begin_leaves_nothing(tmp_path, wrong):
    made = tmp_path / "new" / "sweep"
    there = tmp_path / "there"
    there.mkdir()
    for folder in (made, there):
        with pytest.raises(PruneError):
            run_sweep(settings(folder, **{**SMALL, **wrong}), progress=False)
    assert list(tmp_path.rglob("*")) == [there]  # an empty folder of the user's stays


def test_a_sweep_that_cannot_begin_leaves_what_was_there(sweep):
    before = sorted(sweep.rglob("*"))
    with pytest.raises(PruneError, match="device"):
        run_sweep(settings(sweep, **SMALL, device="cuda:99"), progress=False)
    assert sorted(sweep.rglob("*")) == before


def test_a_setup_file_of_another_program_is_refused(tmp_path):
    (tmp_path / "setup.json").write_text('{"format": "mine"}')
    with pytest.raises(FileFormatError, match=r'setup\.json: "format" is "mine"'):
        run_sweep(settings(tmp_path, **SMALL), progress=False)
    assert (tmp_path / "setup.json").read_text() == '{"format": "mine"}'


# -- what killed processes leave ----------------------------------------------------------------------------------


def write_for_ever(folder, ready):
    """Is killed in the middle of a write."""
    files.os.fsync = lambda descriptor: (ready.set(), time.sleep(60))
    files.write_bytes(folder / "table.json", b"half")


def test_the_next_write_removes_what_a_killed_one_left_and_nothing_else(tmp_path, monkeypatch):
    ready = FORKED.Event()
    writer = FORKED.Process(target=write_for_ever, args=(tmp_path, ready))
    writer.start()
    assert ready.wait(30)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".notes.tmp").write_text("mine")
    files.remove_temporaries(tmp_path)
    assert left.exists()  # it is being written
    writer.kill()
    writer.join()
    monkeypatch.setattr(files, "_cleaned", set())
    files.write_bytes(tmp_path / "other.json", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {".notes.tmp", "other.json"}


def test_a_write_whose_file_is_taken_for_left_behind_begins_again(tmp_path, monkeypatch):
    original, taken = locks.lock_descriptor, []

    def lock(descriptor, *, wait=False):
        if not taken:
            (path,) = tmp_path.iterdir()
            path.unlink()
            taken.append(path)
        return original(descriptor, wait=wait)

    monkeypatch.setattr(files, "lock_descriptor", lock)
    files.write_json(tmp_path / "table.json", {"a": 1})
    assert json.loads((tmp_path / "table.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize("arguments", [["status"], ["export", "-o", "table.csv"]])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_read_is_one_line(sweep, monkeypatch, capsys, arguments, number):
    original = Path.exists

    def exists(path):
        if path.parent.name == "cells":
            raise OSError(number, os.strerror(number), str(path))
        return original(path)

    monkeypatch.setattr(Path, "exists", exists)
    monkeypatch.setattr(sys, "argv", ["lm-eval-prune", "sweep", arguments[0], str(sweep), *arguments[1:]])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {sweep}/cells/")
    assert line.endswith(os.strerror(number))


@pytest.mark.parametrize("fixed", [{"model": "a name"}, {"model": {}, "tasks": []}, {"tasks": {"t, 0-shot": 3}}])
def test_a_plan_of_odd_parts_is_one_line(sweep, fixed):
    (path,) = (sweep / "plans").glob("*.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "fixed": fixed}))
    with pytest.raises(PruneError, match=r"fixed|another model or setup"):
        run_sweep(settings(sweep, **SMALL), progress=False)
