"""Stop signals: none is lost, and the exit code is the same wherever they arrive."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from lm_eval_prune.cli import main as command
from lm_eval_prune.sweep import stopping

SCRIPT = """
import os, signal, sys
from lm_eval_prune.sweep.stopping import Stopped, check, raise_on_stop_signals

class Collected:
    def __del__(self):
        os.kill(os.getpid(), {number})

raise_on_stop_signals()
try:
    check()
    {where}
    print("went on")
    check()
except Stopped:
    print("stopped")
    sys.exit(130)
print("never stopped")
"""
IN_EXEC = "exec('import os, time; os.kill(os.getpid(), {number}); time.sleep(9)')"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("where", "lines"),
    [("Collected()", ["went on", "stopped"]), (IN_EXEC, ["stopped"])],
    ids=["where exceptions are dropped", "in exec"],
)
def test_a_signal_stops_wherever_it_arrives(tmp_path, number, where, lines):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{where}", where).replace("{number}", str(int(number))))
    # As `python -m` starts it: there alone Python looks for the mark that an interrupted `exec` leaves.
    done = subprocess.run([sys.executable, "-m", "script"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == lines
    assert done.returncode == 130


@pytest.fixture
def handlers():
    """The sweep's, in a process that has handled others before."""
    stopping.raise_on_stop_signals()
    stopping.raise_on_stop_signals()


def handled(_=None):
    return [signal.getsignal(number) is stopping._raise for number in stopping.STOP_SIGNALS]


def test_no_handler_of_ours_lives_in_a_forked_pool(handlers):
    assert handled() == [True, True]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(handled, range(4)) == [[False, False]] * 4
    assert handled() == [True, True]


def test_no_handler_of_ours_lives_in_a_spawned_process(handlers):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(handled, range(1)) == [[False, False]]


def test_no_handler_of_ours_lives_in_workers_of_a_data_loader(handlers):
    from torch.utils.data import DataLoader

    found = list(DataLoader(range(2), num_workers=1, collate_fn=handled, multiprocessing_context="fork"))
    assert found == [[False, False]] * 2


def test_no_handler_of_ours_lives_in_workers_of_a_data_set(handlers):
    from datasets import Dataset

    rows = Dataset.from_dict({"number": [0, 1]}).map(lambda row: {"ours": handled()}, num_proc=2, new_fingerprint="f")
    assert rows["ours"] == [[False, False]] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("before", [{}, dict.fromkeys(stopping.STOP_SIGNALS, signal.SIG_DFL)], ids=["unknown", "known"])
def test_a_signal_that_reaches_a_child_before_its_own_handlers_ends_it(handlers, number, before):
    child = os.fork()
    if not child:
        try:
            stopping._before.update(before)
            for each in stopping.STOP_SIGNALS:  # as they are in the moment of the fork
                signal.signal(each, stopping._raise)
            os.kill(os.getpid(), number)
            time.sleep(9)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["lm_eval_prune.sweep.config", "lm_eval_prune.sweep.run"])
def test_a_sweep_that_still_imports_stops_with_exit_code_130(handlers, monkeypatch, capsys, tmp_path, number, where):
    class Interrupted:
        """An import of `where` that is interrupted, and hides it in an error of its own."""

        def find_spec(self, name, path=None, target=None):
            if name == where:
                try:
                    os.kill(os.getpid(), number)
                except BaseException:
                    raise ImportError("half imported") from None

    for name in [name for name in sys.modules if name.startswith(where)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.setattr(sys, "argv", ["lm-eval-prune", "sweep", "--tasks", "piqa", "-o", str(tmp_path / "sweep")])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("stopped; finished cells are kept")
    assert last.endswith("; the same command goes on from there")
    assert not (tmp_path / "sweep").exists()


NOTHING = "nothing half-written is left; the same command starts again"
GOES_ON = "; the same command goes on from there"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("mask", NOTHING),
        ("importance", f"finished files are kept{GOES_ON}"),
        ("leaderboard", NOTHING),
        ("compact", NOTHING),
        ("plan", NOTHING),
        ("demo", f"what is finished is kept{GOES_ON}"),
        ("run", f"answers are kept where --use_cache names a file{GOES_ON}"),
        ("sweep", f"finished cells are kept{GOES_ON}"),
    ],
)
def test_ctrl_c_in_the_imports_of_any_command_says_what_is_kept(monkeypatch, capsys, name, kept):
    class Interrupted:
        def find_spec(self, module, path=None, target=None):
            if module == f"lm_eval_prune.cli.{name}":
                try:
                    raise KeyboardInterrupt
                except KeyboardInterrupt as error:
                    raise ImportError("half imported") from error

    monkeypatch.delitem(sys.modules, f"lm_eval_prune.cli.{name}", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.setattr(sys, "argv", ["lm-eval-prune", name])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == f"stopped; {kept}\n"
