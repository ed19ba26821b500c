"""Folders that appear whole or not at all: what is left behind goes, what lives or is somebody else's stays."""

import errno

import pytest

from lm_eval_prune import locks
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.folders import UNFINISHED, appearing
from lm_eval_prune.locks import held


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def unfinished(parent, name):
    folder = parent / f".{name}{UNFINISHED}"
    folder.mkdir()
    (folder / "part").write_text("x")
    (parent / f"{folder.name}.lock").touch()
    return folder


@pytest.mark.parametrize("left", [["new"], ["other"], ["new", "other", "third"]])
def test_what_killed_runs_left_goes(tmp_path, left):
    for name in left:
        unfinished(tmp_path, name)
    (tmp_path / f".finished{UNFINISHED}.lock").touch()  # killed after the folder had taken its place
    with appearing(tmp_path / "new") as folder:
        (folder / "file").write_text("x")
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["file"]


def test_what_lives_or_is_not_ours_stays(tmp_path):
    living = unfinished(tmp_path, "living")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (tmp_path / f".link{UNFINISHED}").symlink_to(elsewhere)
    (tmp_path / f".link{UNFINISHED}.lock").touch()
    (tmp_path / f".linked{UNFINISHED}.lock").symlink_to(elsewhere / "precious")
    (tmp_path / f".no-lock{UNFINISHED}").mkdir()
    (tmp_path / ".mine.unfinished").mkdir()
    with held(tmp_path / f"{living.name}.lock"), appearing(tmp_path / "new"):
        pass
    assert (living / "part").exists()
    assert (elsewhere / "precious").read_text() == "x"
    assert {".mine.unfinished", f".no-lock{UNFINISHED}", "new"} <= set(names(tmp_path))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left on device")])
def test_after_an_error_nothing_is_left(tmp_path, error):
    def fail():
        with appearing(tmp_path / "new") as folder:
            (folder / "file").write_text("x")
            raise error

    with pytest.raises(BaseException, match=r"^$|No space"):
        fail()
    assert names(tmp_path) == []


def test_a_folder_that_is_being_written_is_not_written_twice(tmp_path):
    with appearing(tmp_path / "new"):
        with pytest.raises(ArgumentError, match="another run is writing it"), appearing(tmp_path / "new"):
            pass
        with appearing(tmp_path / "other"):
            pass
    assert names(tmp_path) == ["new", "other"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_locks_get_folders_too(number, tmp_path, monkeypatch):
    def refuse(descriptor, wait):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(locks, "_locked", refuse)
    with appearing(tmp_path / "new") as folder:
        (folder / "file").write_text("x")
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["file"]
