"""Stop signals: none is lost, and the exit code is the same wherever they arrive."""

import signal
import subprocess
import sys

import pytest

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
