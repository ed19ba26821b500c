"""The table in the terminal: whole lines at every width, the same numbers, the same words."""

import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from lm_eval_prune.report.comparison import compare
from lm_eval_prune.report.findings import findings
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.terminal import print_board
from lm_eval_prune.report.wording import VERDICT_SIGNS
from lm_eval_prune.variants import Variant
from tests.sweep_folders import sweep

VARIANTS = [Variant(ranking, heads, "0.25") for ranking in ("own", "task:winogrande") for heads in ("0.3", "0.9")]
RANDOM = [Variant("random", "0.5", "0", seed) for seed in (0, 1)]
ALONE = [Variant("own", heads, "0") for heads in ("0.3", "0.9")]
TASKS = ("winogrande", "arc_challenge", "openbookqa", "icl14_multirc")
CHANCE = {task: {"acc": {"level": 0.25, "by": "choices", "choices": [4, 4]}} for task in TASKS}


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    variants = [*VARIANTS, *RANDOM, *ALONE]
    losses = {variant: float(variant.prune_heads) / 2 for variant in variants}
    folder = sweep(tmp_path_factory.mktemp("wide"), variants, TASKS, (0, 5), losses=losses, chance=CHANCE)
    return compare(read_collection([folder]))


def printed(board, width, **settings):
    console = Console(width=width, file=io.StringIO(), record=True)
    print_board(board, board.entries, console, **settings)
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 100, 400])
@pytest.mark.parametrize("beside", [False, True])
def test_every_number_is_whole_at_every_width(board, width, beside):
    text = printed(board, width, shots_beside=beside)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    lines = text.splitlines()
    for entry in board.entries:
        assert width < 80 or entry.label in text
        for holder in [entry.average] if beside else [entry.average, *entry.cells.values()]:
            digits = 3 if holder is entry.average else 2
            shown = f"{holder.value:.{digits}f}"
            if holder.difference is not None:
                shown += f" {holder.difference.value + 0.0:+.{digits}f} {VERDICT_SIGNS[holder.verdict]}"
            parts = shown.split(" ", 1)  # an error or an interval may stand between
            assert any(all(part in line for part in parts) for line in lines), shown


def test_at_80_a_row_is_a_line(board):
    text = printed(board, 80)
    first = text[: text.index("continued")]
    for entry in board.entries:
        if entry.num_fewshot == 0:
            assert sum(f" {entry.label}  " in line and "240" in line for line in first.splitlines()) == 1


def test_columns_are_called_as_in_the_files(board):
    text = printed(board, 400)
    for name in ("rank", "variant", "n", "parameters left", "FLOPs left", board.average_name, *map(str, board.columns)):
        assert re.search(rf"\b{re.escape(name)}\b", text), name
    assert re.search(r"^ +chance +0\.250", text, re.MULTILINE)


def test_signs_on_the_board_are_explained_in_one_line(board):
    (line,) = (line for line in printed(board, 400).splitlines() if line.startswith("to dense, margin 0.01: "))
    there = {holder.verdict for entry in board.entries for holder in (entry.average, *entry.cells.values())} - {""}
    assert set(re.findall(r"(?<=. )[a-z][a-z ]+", line.partition(": ")[2])) == there
    assert all(f"{VERDICT_SIGNS[verdict]} {verdict}" in line for verdict in there)


@pytest.mark.parametrize("width", [80, 60, 40])
def test_no_line_of_the_legend_ends_between_a_sign_and_its_word(board, width):
    lines = printed(board, width).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("to dense, margin 0.01: "))
    shown = lines[start : start + 4]
    assert all(len(line) <= width for line in shown)
    for sign in filter(None, VERDICT_SIGNS.values()):
        assert not any(line.rstrip().endswith(f" {sign}") for line in shown)


def test_the_last_lines_say_what_was_found(board):
    text = " ".join(printed(board, 80).split())
    sentence = next(finding.sentence for finding in findings(board))
    assert sentence.startswith("5-shot: ")
    assert text.endswith(sentence)
    assert "Minimal decline: the share that can go ranking pruned 0-shot 5-shot" in text


def test_a_board_is_read_and_printed_without_torch_and_lm_eval(tmp_path):
    sweep(tmp_path / "sweep", VARIANTS[:2], TASKS[:2])
    script = (
        "import sys\n"
        "from lm_eval_prune.cli.main import cli\n"
        f"cli(['leaderboard', {str(tmp_path / 'sweep')!r}, '-o', {str(tmp_path / 'out')!r}], standalone_mode=False)\n"
        "print(sorted({'torch', 'lm_eval', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
