"""Whatever a name is made of, every format shows it as text; and no number is shown as minus zero."""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet
import pytest
from rich.console import Console
from sweep_folders import harness_run, importance, sweep

from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.figures import figures
from lm_eval_prune.report.figures.files import write_figures
from lm_eval_prune.report.leaderboard import leaderboard
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.terminal import print_board
from lm_eval_prune.sweep.folder import read_rows, write_failure
from lm_eval_prune.variants import Variant

HARMFUL = "</script><b>\x00\x1b[31m\u2028\u2029\u202e\x9b\"'&|`\\x00🧠" + "long" * 125
SHOWN = "</script><b><U+0000><U+001B>[31m<U+2028><U+2029><U+202E><U+009B>\"'&|`\\x00🧠" + "long" * 125
MINUS_ZERO = re.compile(r"[-−]0(\.0+)?(?![.\d])")


def shown_in_terminal(board):
    console = Console(width=400, file=io.StringIO(), force_terminal=True, color_system=None)
    print_board(board, board.entries, console)
    return console.file.getvalue()


def harmful_characters(text):
    kinds = {"Cc", "Cs", "Zl", "Zp"}
    return {c for c in text if (unicodedata.category(c) in kinds and c not in "\t\n") or c in "\u202e\u2066"}


@pytest.fixture(scope="module")
def harmful(tmp_path_factory):
    """A board of a sweep and of a run in a folder whose name is no UTF-8, all names harmful."""
    folder = tmp_path_factory.mktemp("sweep")
    variants = [Variant(HARMFUL, "0.5", "0"), Variant(HARMFUL, "0.5", "0.25")]
    failed = [(variants[1], "piqa", 0)]
    sweep(folder, variants, (HARMFUL, "piqa"), count=8, model=HARMFUL, metrics=(HARMFUL,), skip=failed)
    (row,) = (row for row in read_rows(folder) if (row.variant, row.task) == failed[0][:2])
    write_failure(folder, row, "Error", f"{HARMFUL}\nsecond line")
    for task in (HARMFUL, "piqa"):
        importance(folder, f"{len(task)}-0-heads", "heads", "gradient", task, 0)
    other = tmp_path_factory.mktemp("runs") / os.fsdecode(b"\xff \x1b[31m")
    harness_run(other, tasks=("piqa",), count=8, model_args={"pretrained": "half a pair \ud800"}, identity={})
    output = tmp_path_factory.mktemp("out")
    return leaderboard([folder, other], output, exports=("model-index", "every_eval_ever")), output


def test_no_file_holds_what_is_harmful_and_all_show_the_name(harmful):
    made, output = harmful
    texts = {path: path.read_text(encoding="utf-8") for path in made.paths if path.suffix in (".md", ".csv", ".html")}
    for path, text in texts.items():
        assert not harmful_characters(text.replace(_library(text), "")), path
    assert "<U+001B>" in texts[output / "leaderboard.csv"]
    assert "missing cells: failed: Error" in texts[output / "leaderboard.md"]
    assert {entry["model"] for entry in json.loads((output / "leaderboard.json").read_text())["entries"]} == {
        SHOWN,
        "half a pair <U+D800>",
    }
    records = pyarrow.parquet.read_table(output / "leaderboard.parquet").to_pylist()
    assert {record["ranking"] for record in records} == {"dense", SHOWN}
    assert any(f"{SHOWN} {SHOWN}" in name for name in records[0])


def _library(html):
    """The table library in the page, which has regular expressions of odd characters."""
    return max(html.split("<script>")[1:2], key=len, default="")


def test_the_terminal_is_not_steered(harmful):
    text = shown_in_terminal(harmful[0].board)
    assert not harmful_characters(text)
    assert "<U+001B>[31m" in text
    assert "failed: Error" in text


@pytest.mark.slow
def test_figures_of_every_format_are_whole(harmful, tmp_path):
    sources = {run.source for entry in harmful[0].board.entries for run in entry.runs}
    collection = read_collection(sorted(sources))
    for path in write_figures(figures(compare(collection), collection), tmp_path, ("svg", "png", "pdf")):
        if path.suffix == ".svg":
            elements = list(ElementTree.fromstring(path.read_text(encoding="utf-8")).iter())  # fails unless XML
            assert not any(element.tag.endswith("}script") for element in elements)
            assert not harmful_characters("".join(element.text or "" for element in elements))
        else:
            assert path.read_bytes().startswith({".png": b"\x89PNG", ".pdf": b"%PDF"}[path.suffix])
    assert {path.suffix for path in tmp_path.iterdir()} == {".svg", ".png", ".pdf"}


def test_nothing_is_minus_zero(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whose own name, `pytest-0` say, is no number that we show
    runs = Path("runs")
    values = {"first": 0.6, "second": 0.59999, "third": 0.60001}
    for name, value in values.items():
        path = harness_run(runs / name, tasks=("piqa",), logged=False, model=name)
        content = json.loads(path.read_text())
        content["results"]["piqa"] |= {"acc,none": value, "acc_stderr,none": 1e-7}
        path.write_text(json.dumps(content))
    importance(runs, "piqa-0-ffns", "ffns", "knockout", "piqa", 0, near_zero=True)
    config = BoardConfig(margin=0.0)
    made = leaderboard([runs], Path("out"), config, figure_formats=("svg",))
    shown = [path.read_text(encoding="utf-8") for path in made.paths if path.suffix in (".md", ".svg")]
    page = made.page.read_text(encoding="utf-8").split('<script type="application/json"')[0].split("</style>")[-1]
    assert "+0.00" in shown[0]
    for text in (*shown, page, shown_in_terminal(made.board)):
        plain = re.sub(r"<[^>]*>", " ", text)
        assert not MINUS_ZERO.search(plain), MINUS_ZERO.search(plain)
    assert any("0.00" in text for path, text in zip(made.paths, shown, strict=False))
