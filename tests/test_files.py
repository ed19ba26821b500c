"""Files are written whole, and what is no file of ours stays what it is."""

import os
import socket
import stat
import sys
import threading
import tty

import pytest

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.files import write_bytes, write_json

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such files there")


def read_in_background(path, size):
    parts = []

    def read():
        with path.open("rb", buffering=0) as file:
            while sum(map(len, parts)) < size:
                parts.append(file.read(size))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, parts


@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_is_written_to_and_stays_one(link, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "pipe"
    if link:
        path = tmp_path / "link"
        path.symlink_to("pipe")
    thread, parts = read_in_background(path, 3)
    write_bytes(path, b"abc")
    thread.join(timeout=20)
    assert b"".join(parts) == b"abc"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert path.is_symlink() == link


def test_a_terminal_is_written_to_and_stays_one(tmp_path):
    ours, terminal = os.openpty()
    tty.setraw(terminal)
    try:
        path = tmp_path / "terminal"
        path.symlink_to(os.ttyname(terminal))
        write_json(path, {"a": 1})
        assert os.read(ours, 100) == b'{\n  "a": 1\n}\n'
        assert path.is_symlink()
    finally:
        os.close(ours)
        os.close(terminal)


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc there")
def test_what_a_process_has_open_is_written_to(tmp_path):
    with (tmp_path / "out").open("w+b") as file:
        write_bytes(f"/proc/self/fd/{file.fileno()}", b"abc")
        assert file.read() == b"abc"


def test_a_socket_and_a_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        for name in ("s", "folder"):
            with pytest.raises(FileFormatError, match=f"{name}: cannot be written"):
                write_bytes(tmp_path / name, b"abc")
        assert stat.S_ISSOCK((tmp_path / "s").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "s"]


@pytest.mark.parametrize("write", [lambda path: write_bytes(path, b""), lambda path: write_json(path, {})])
@pytest.mark.parametrize("name", ["\0", "a\0b", "a/\0"])
def test_a_name_that_no_file_can_have_is_one_line(write, name, tmp_path):
    with pytest.raises(FileFormatError, match="no file can have this name"):
        write(f"{tmp_path}/{name}")
    assert list(tmp_path.iterdir()) == []
