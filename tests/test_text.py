"""Text from files is fit to be printed, and every encoding can show what the commands print."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata

import pytest
from click.testing import CliRunner
from sweep_folders import grid, harness_run, sweep

from lm_eval_prune.cli import main as cli_main
from lm_eval_prune.cli.main import cli
from lm_eval_prune.costs.tables import tables
from lm_eval_prune.errors import PruneError
from lm_eval_prune.report.comparison import compare
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.tables import write_tables
from lm_eval_prune.sweep.folder import (
    cell_path,
    read_cell,
    read_failure,
    read_rows,
    read_samples,
    write_cell,
    write_failure,
    write_plan,
)
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.sweep.schema import Row
from lm_eval_prune.text import printable, replace_what_does_not_fit, spreadsheet_text
from lm_eval_prune.variants import Variant


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b]0;title\x07\x1b[2J", "<U+001B>]0;title<U+0007><U+001B>[2J"),
        ("\x9b31m", "<U+009B>31m"),
        ("two\nlines\tand\r\ntabs", "two lines and  tabs"),
        ("half a pair \ud800", "half a pair <U+D800>"),
        ("a\u2028b\u2029c", "a<U+2028>b<U+2029>c"),
        ("\u202egnp.exe\u2066", "<U+202E>gnp.exe<U+2066>"),
        ("\u200e\u200f\u061c", "<U+200E><U+200F><U+061C>"),
        ("opt\u200b-125m\ufeff\U000e0041", "opt<U+200B>-125m<U+FEFF><U+E0041>"),
        ("שלום 👩‍🔬 naïve\u00a0ß", "שלום 👩‍🔬 naïve\u00a0ß"),
    ],
)
def test_what_steers_or_hides_is_spelt_out(name, shown):
    assert printable(name) == shown


def test_of_all_of_unicode_no_character_that_steers_is_left():
    kept = {chr(code) for code in range(0x110000) if printable(chr(code)) == chr(code)}
    kinds = {unicodedata.category(character) for character in kept - {"\u200c", "\u200d"}}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "cp932", "latin-1", "ascii", "utf-8"])
def test_streams_write_in_any_encoding(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    replace_what_does_not_fit(stream, io.StringIO())
    text = "0.5 ±0.1 ≈ ▲ ▼ … ü 模型 \udcff"
    stream.write(text)
    stream.flush()
    written = stream.buffer.getvalue().decode(encoding)
    lost = {"utf-8": "\\udcff", "ascii": "0.5 +/-0.1 ~ ^ v ... \\xfc \\u6a21\\u578b \\udcff"}.get(encoding)
    assert written.endswith(lost or "\\udcff")
    assert "?" not in written  # the sign of unpaired differences


def test_who_chose_another_way_keeps_it():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    replace_what_does_not_fit(stream)
    stream.write("≈")
    stream.flush()
    assert stream.buffer.getvalue() == b"?"


HARMFUL = "\x1b]0;NEW TITLE\x07\x9b2J \u202egnp.exe\nsw: 99 cells done, 0 failed"
SHOWN = "<U+001B>]0;NEW TITLE<U+0007><U+009B>2J <U+202E>gnp.exe sw: 99 cells done, 0 failed"


def test_status_shows_messages_of_failed_cells_as_text(tmp_path):
    rows = [Row(Variant("own" + HARMFUL, "0.5", "0"), task, 0, 1234, cell * 24) for cell, task in ("ax", "bt", "cy")]
    write_plan(tmp_path, {}, {}, rows)
    for row in rows:
        write_failure(tmp_path, row._replace(task=row.task + HARMFUL), "Error" + HARMFUL, HARMFUL)
    found = CliRunner().invoke(cli, ["sweep", "status", str(tmp_path)])
    assert found.exit_code == 1
    lines = found.output.splitlines()
    assert len(lines) == 1 + len(rows) + 1
    assert all(line.count(SHOWN) == 4 for line in lines[1:-1])


@pytest.mark.parametrize(
    "field",
    [{"target": "a\ud800"}, {"doc": {"x": ["\udfff"]}}, {"arguments": [["Is it\udc80?", " yes"]]}, {"\ud83d": 1},
     {"resps": [["\ud83d"]], "filtered_resps": ["\ude00"]}],
)  # fmt: skip
def test_a_cell_with_half_of_a_surrogate_pair_is_written_and_read_again(tmp_path, field):
    spelt = json.loads(re.sub(r"\\u(d[89a-f]..)", lambda half: f"<U+{half[1].upper()}>", json.dumps(field)))
    made = sweep(tmp_path, grid(heads=("0.5",)), ("piqa",), count=2)
    row = read_rows(made)[0]
    content = read_cell(cell_path(made, row.cell))
    content["cell"] = {key: value for key, value in content["cell"].items() if key not in ("samples", "sha256")}
    samples = [{"doc_id": 0, "doc": {}}, {"doc_id": 1, "whole": "\U0001f600", **field}]
    path = write_cell(made, row.cell, {**content, "odd": [field], "whole": "\U0001f600"}, samples)
    assert read_samples(path) == [samples[0], {"doc_id": 1, "whole": "\U0001f600", **spelt}]
    found = read_cell(path)
    assert (found["odd"], found["whole"], found["results"]) == ([spelt], "\U0001f600", content["results"])


def test_a_failure_whose_message_holds_half_a_pair_is_recorded(tmp_path):
    row = Row(Variant("own", "0.5", "0"), "a\udc80", 0, 1234, "c" * 24)
    write_failure(tmp_path, row, "Own\udfff", "cannot\ud800")
    failure = read_failure(tmp_path, row.cell)
    assert (failure.task, failure.error, failure.message) == ("a<U+DC80>", "Own<U+DFFF>", "cannot<U+D800>")


def test_errors_are_one_line_of_text(monkeypatch, capsys):
    def failing(**settings):
        raise PruneError(HARMFUL)

    monkeypatch.setattr(cli_main, "cli", failing)
    with pytest.raises(SystemExit) as stopped:
        cli_main.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"Error: {SHOWN}\n"


def test_a_plan_shows_names_as_text():
    model = {
        "name": HARMFUL, "num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 8, "pruning_mask": None,
        "num_parameters": 10, "parameters_per_head": 1, "num_heads": 1, "parameters_per_ffn": 1, "num_ffns": 1,
        "num_key_value_heads": 1, "parameters_in_heads": 1, "parameters_in_ffns": 1,
    }  # fmt: skip
    removals = [{"what": HARMFUL, "number": "1", "removed": 1, "left": 9}]
    shown = tables({"model": model, "removals": removals, "notes": [], "devices": {}})
    assert next(shown).title.startswith(SHOWN)
    assert list(next(shown).columns[0].cells) == [SHOWN]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "＝", "＠"])
def test_no_cell_of_a_csv_file_is_a_formula(start, tmp_path):
    name = f"{start}cmd|' /C calc'!A0"
    name, start = name.replace("\r", "\n"), start.replace("\r", "\n")
    assert spreadsheet_text(name) == f"'{name}"
    variant = Variant(name, "0.5", "0")
    rows = [Row(variant, f"{start}task", 0, 1234, "a" * 24)]
    write_plan(tmp_path, {}, {}, rows)
    Sweep(tmp_path).export(tmp_path / "table.csv")
    (row,) = csv.DictReader((tmp_path / "table.csv").open(newline="", encoding="utf-8"))
    assert row["ranking"] == f"'{name}"
    assert row["task"] == f"'{start}task"
    assert (row["prune_heads"], row["num_fewshot"]) == ("0.5", "0")


@pytest.mark.parametrize("cell", [-0.5, 3, None, "-0.5", "+1e-3", "-inf", "piqa", "a=b", "", "'x"])
def test_other_cells_stay_as_they_are(cell):
    assert spreadsheet_text(cell) == cell


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_the_leaderboards_tables_hold_no_formula(start, tmp_path):
    path = harness_run(tmp_path, tasks=("piqa",), count=10, model=f"{start}model")
    path.write_text(path.read_text().replace('"piqa"', f'"{start}piqa"'))
    write_tables(compare(read_collection([tmp_path])), tmp_path / "out")
    ((*header,), *cells) = csv.reader((tmp_path / "out" / "leaderboard.csv").open(newline="", encoding="utf-8"))
    assert f"'{start}piqa acc" in header
    for cell in (cell for row in [header, *cells] for cell in row):
        assert cell[:1] not in tuple("=+-@") or float(cell) <= 0
