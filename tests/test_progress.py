"""What a terminal shows of long work; the terminal is a pseudo-terminal of 80 columns, read by a process of its own."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest

from lm_eval_prune.progress import Bar, say, working

SCRIPT = """
import time
from lm_eval_prune.progress import Bar, say, working
with working("Loading many things"):
    time.sleep(2.5)
with Bar(total=4, desc="piqa, 5-shot", unit="cell") as bar:
    for number in range(4):
        time.sleep(0.1)
        bar.update()
        say(f"line {number} \\x1b[31m")
    time.sleep(2.5)
"""


def on_a_terminal(script, columns=80):
    """What `script` writes to a terminal."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command, terminal = [sys.executable, "-c", script], {"stdin": follower, "stdout": follower, "stderr": follower}
    with subprocess.Popen(command, env=variables, **terminal):
        os.close(follower)
        found = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # Linux says so when the other side is closed
                break
            if not part:
                break
            found += part
    os.close(leader)
    return found.decode("utf-8")


@pytest.fixture(scope="module")
def shown():
    return on_a_terminal(SCRIPT)


def test_a_bar_ticks_while_a_step_takes_long(shown):
    """Two and a half seconds, and every second something new."""
    stages = set(re.findall(r"Loading many things \[(\d\d:\d\d)", shown))
    assert {"00:00", "00:01", "00:02"} <= stages
    assert len(set(re.findall(r"piqa, 5-shot: 100%.*?\[(\d\d:\d\d)<", shown))) >= 2


def test_a_bar_says_what_it_is_at_within_80_columns(shown):
    parts = [part for part in re.split(r"[\r\n]", shown) if "piqa, 5-shot" in part]
    assert parts
    assert max(len(part) for part in parts) <= 80


def test_lines_are_whole_beside_bars(shown):
    """A line begins where a bar was wiped away, and ends before it is drawn again."""
    for number in range(4):
        assert re.search(rf"[\r\n]line {number} [^\r\n]*\r?\n", shown)
    assert "\x1b[31m" not in shown


LINES = [
    "most:aggregate:5, heads 0.3, FFNs 0.2 on demo_a_task_of_a_long_name, 5-shot: acc 0.9167 (+0.0000 to dense)",
    "importance of heads to demo_facts, 5-shot: 60 examples, 12.3 s, and what else there is to say of that file",
    "failed: own, heads 0.5, FFNs 0 on demo_pattern, 25-shot: OutOfMemoryError: CUDA out of memory, it is said here",
    "a short line",
    "/" + "x" * 100 + " a path is in one piece",
]


@pytest.mark.parametrize("columns", [80, 60])
def test_long_lines_are_broken_at_blanks(columns):
    shown = on_a_terminal(f"from lm_eval_prune.progress import say\nfor line in {LINES!r}: say(line)", columns)
    pieces = shown.split("\r\n")
    assert all(len(piece) <= columns or piece.startswith("/x") for piece in pieces)
    assert " ".join(shown.split()) == " ".join(" ".join(LINES).split())  # no word is broken, none is lost
    assert "a short line" in pieces


def test_elsewhere_there_are_only_lines(capsys):
    with working("Loading many things"), Bar(total=3, desc="piqa", unit="cell") as bar:
        bar.update()
        say("a line")
    found = capsys.readouterr()
    assert found.out.splitlines() == ["Loading many things", "a line"]
    assert found.err == ""


def test_what_is_not_to_be_shown_is_not(capsys):
    with working("Loading many things", shown=False), Bar(total=3, disable=True) as bar:
        bar.update()
    assert capsys.readouterr() == ("", "")


def test_a_fork_waits_for_no_lock_of_the_bars():
    """In the child no thread of ours is there, and nothing that one held."""
    script = (
        SCRIPT
        + "\nimport os\n"
        + (
            "with Bar(total=1, desc='forking', unit='cell') as bar:\n"
            "    for _ in range(20):\n"
            "        child = os.fork()\n"
            "        if child == 0:\n"
            "            Bar(total=1, desc='child').close()\n"
            "            os._exit(0)\n"
            "        assert os.waitpid(child, 0)[1] == 0\n"
            "print('all children ended')\n"
        )
    )
    assert "all children ended" in on_a_terminal(script)
