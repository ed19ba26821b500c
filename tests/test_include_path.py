"""`--include_path`: a folder of task definitions, in every command that takes one, or one line that says it is none."""

import inspect
import os
import shutil
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures_importance import save_checkpoint, write_tasks
from lm_eval.tasks import TaskManager

from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import ArgumentError, PruneError

COMMANDS = {
    "importance": ["--method", "random", "--num_fewshot", "0"],
    "sweep": ["--prune_heads", "0", "--num_fewshot", "0"],
    "run": ["--batch_size", "1"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("include")
    write_tasks(folder / "tasks")
    save_checkpoint(folder / "model")
    (folder / "empty").mkdir()
    (folder / "file.yaml").write_text("task: mine\n")
    (folder / "nowhere").symlink_to("absent")
    return folder


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch):
    """The harness's own thousands, which take seconds to index, stay out."""
    original = TaskManager.__init__

    def init(self, *args, **kwargs):
        call = inspect.signature(original, follow_wrapped=False).bind(self, *args, **kwargs)
        call.arguments["include_defaults"] = False
        original(*call.args, **call.kwargs)

    monkeypatch.setattr(TaskManager, "__init__", init)


def invoked(command, folder, tmp_path, include_path, task):
    arguments = ["--model_args", f"pretrained={folder / 'model'}", "--device", "cpu", "--limit", "2", "--tasks", task]
    arguments += ["--include_path", str(include_path), "-o", str(tmp_path / "out"), *COMMANDS[command]]
    return CliRunner().invoke(cli, [command, *arguments])


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["absent", "file.yaml", "nowhere", "tasks\n/../x"])
def test_what_is_no_folder_is_one_line_and_nothing_is_written(command, name, folder, tmp_path):
    found = invoked(command, folder, tmp_path, folder / name, "toy_choice")
    assert isinstance(found.exception, PruneError)
    assert f"include_path={folder / name}: no such folder" in str(found.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_tasks_are_found_in_it_and_nowhere_else(command, folder, tmp_path):
    found = invoked(command, folder, tmp_path, folder / "empty", "toy_choice")
    assert found.exception is not None
    assert "toy_choice" in f"{found.exception} {found.output}"
    assert not (tmp_path / "out").exists()
    found = invoked(command, folder, tmp_path, folder / "tasks", "toy_choice")
    assert found.exit_code == 0, found.exception
    assert (tmp_path / "out").exists()


SPECIAL = {
    "a pipe": os.mkfifo,
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture
def strange(request, folder, tmp_path, monkeypatch):
    """A folder of tasks, the name of a pipe, socket or device below it, and what makes such a one."""
    shutil.copytree(folder / "tasks", tmp_path / "tasks")
    (tmp_path / "tasks" / "deep").mkdir()
    monkeypatch.chdir(tmp_path)  # a socket's path is at most 108 bytes long
    return SPECIAL[request.param]


@pytest.mark.parametrize("strange", SPECIAL, indirect=True)
def test_a_pipe_socket_or_device_as_a_task_is_one_line_and_hangs_nothing(strange, folder, tmp_path):
    strange(Path("tasks/deep/odd.yaml"))
    for command in COMMANDS:
        found = invoked(command, folder, tmp_path, "tasks", "toy_choice")
        assert isinstance(found.exception, PruneError), command
        assert (
            str(found.exception) == "include_path=tasks: tasks/deep/odd.yaml: a pipe, socket or device; expected a file"
        )
        assert not (tmp_path / "out").exists()
    for task in ("tasks/deep", "tasks/deep/odd.yaml", "tasks/deep/*.yaml"):  # the harness takes files and folders
        found = invoked("run", folder, tmp_path, folder / "tasks", task)
        assert str(found.exception) == "tasks: tasks/deep/odd.yaml: a pipe, socket or device; expected a file"


@pytest.mark.parametrize("strange", SPECIAL, indirect=True)
def test_a_pipe_socket_or_device_that_a_task_includes_is_left_out(strange, folder, tmp_path):
    strange(Path("tasks/deep/odd"))
    Path("tasks/deep/own.yaml").write_text("task: own\ninclude: odd\n")
    for command in COMMANDS:
        found = invoked(command, folder, tmp_path, "tasks", "own")
        assert isinstance(found.exception, PruneError), command
        assert "own" in str(found.exception)
    assert invoked("sweep", folder, tmp_path, "tasks", "toy_choice").exit_code == 0


GONE = {
    "a folder that goes while it is read": FileNotFoundError(2, "No such file or directory"),
    "a broken disk": OSError(5, "Input/output error"),
    "a file that is no text": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
}


@pytest.mark.parametrize("error", GONE.values(), ids=list(GONE))
def test_what_its_tasks_raise_when_they_are_looked_for_is_one_line(error, folder, monkeypatch):
    from lm_eval_prune.harness import tasks

    def fail(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(TaskManager, "__init__", fail)
    tasks._task_manager.cache_clear()
    with pytest.raises(ArgumentError, match=rf"^include_path=.*: its tasks cannot be read: {type(error).__name__}: "):
        tasks.require_known(["toy_choice"], str(folder / "tasks"))
    with pytest.raises(type(error)):  # of the harness's own tasks: a broken installation
        tasks.require_known(["toy_choice"])
