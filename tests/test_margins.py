"""`plan`: how many documents a margin needs, against all outcomes enumerated (tests/test_intervals.py) and by hand."""

from __future__ import annotations

import math

import pytest
from click.testing import CliRunner

from lm_eval_prune.cli.main import cli
from lm_eval_prune.costs.plan import make_plan
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.intervals import documents_needed, margin_shown, smallest_margin


def rows_of(**options):
    return {row["task"]: row for row in make_plan("125m", **options)["margins"]["rows"]}


def test_every_one_of_the_14_tasks_and_the_average_is_listed():
    rows = rows_of()
    assert len(rows) == 15
    assert rows["cb"]["documents"] == 56
    assert rows["cb"]["unchanged"] == pytest.approx(float(smallest_margin(56)))
    assert rows["piqa"]["needed"] == {f"{m:g}": documents_needed(m, 0.04) for m in (0.005, 0.01, 0.02)}
    assert rows["icl14_multirc"]["units"] == 74
    assert [task for task, row in rows.items() if row["units_unknown"]] == ["icl14_record"]
    assert rows["icl14_multirc"]["needed"]["0.01"] > 50 * rows["piqa"]["needed"]["0.01"]
    parts = [row for task, row in rows.items() if task != "average"]
    assert rows["average"]["unchanged"] == pytest.approx(math.hypot(*(row["unchanged"] for row in parts)) / 14)


@pytest.mark.parametrize("changed", [0.0, 0.02, 0.1])
def test_fewer_documents_and_more_changes_show_larger_margins(changed):
    rows, limited = rows_of(changed=changed), rows_of(changed=changed, limit=50)
    for task in ("piqa", "boolq", "average"):
        assert limited[task]["shown"] > rows[task]["shown"] >= rows[task]["unchanged"]
    assert limited["boolq"]["units"] == round(50 * 2525 / 3270)
    assert rows["piqa"]["shown"] <= rows_of(changed=0.2)["piqa"]["shown"]


@pytest.mark.parametrize("units", [56, 381, 5000])
def test_the_margin_shown_is_the_smallest_whose_documents_are_there(units):
    margin = margin_shown(units, 0.04)
    assert documents_needed(margin, 0.04) <= units < documents_needed(0.98 * margin, 0.04)


@pytest.mark.parametrize("changed", [-0.1, 1.0, 7.0])
def test_changes_are_a_share(changed):
    with pytest.raises(ArgumentError, match=r"changed=.*: expected a share of the answers, from 0 to below 1"):
        make_plan("125m", changed=changed)


def test_the_command_prints_the_table_whole_on_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(cli, ["plan", "125m", "--changed", "0.04"])
    assert shown.exit_code == 0, shown.output
    assert "Documents for a margin" in shown.output
    (line,) = (line for line in shown.output.splitlines() if "icl14_multirc" in line)
    assert "4,848 (74)" in line
    assert "10,000 (?)" in shown.output
    assert "…" not in line


def test_a_study_of_other_tasks_has_no_table():
    assert rows_of(tasks=(), tokens=("mine=1000x250",)) == {}
