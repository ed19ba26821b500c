"""`plan`: how many documents a margin needs, against all outcomes enumerated (tests/test_intervals.py) and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from lm_eval_prune.cli.main import cli
from lm_eval_prune.costs.margins import PASSAGES
from lm_eval_prune.costs.plan import make_plan
from lm_eval_prune.costs.workload import known_tasks
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.intervals import detectable_loss, documents_needed, margin_shown, smallest_margin
from lm_eval_prune.sum_intervals import SumOfChanges, sum_lower_limit, sum_p
from lm_eval_prune.unit_intervals import UnitChanges
from lm_eval_prune.units import unit_field


def rows_of(**options):
    return {row["task"]: row for row in make_plan("125m", **options)["margins"]["rows"]}


def test_every_one_of_the_14_tasks_and_the_average_is_listed():
    rows = rows_of()
    assert len(rows) == 15
    assert rows["cb"]["documents"] == 56
    assert rows["cb"]["unchanged"] == pytest.approx(float(smallest_margin(56)))
    assert rows["piqa"]["needed"] == {f"{m:g}": documents_needed(m, 0.04) for m in (0.005, 0.01, 0.02)}
    assert {task: row["units"] for task, row in rows.items() if row["units"]} == {
        "boolq": 2525, "wsc": 29, "icl14_multirc": 66, "icl14_record": 7133
    }  # fmt: skip
    assert [task for task, row in rows.items() if row["units_at_most"]] == ["icl14_record"]
    assert rows["piqa"]["detectable"] == pytest.approx(detectable_loss(1838, 0.04))
    assert rows["icl14_multirc"]["needed"]["0.01"] > 50 * rows["piqa"]["needed"]["0.01"]
    # Not less than what the task that knows least lets the average lose.
    least = max(row["unchanged"] for task, row in rows.items() if task != "average") / 14
    assert least < rows["average"]["unchanged"] < 1.1 * least


def test_each_task_whose_documents_share_texts_is_in_the_table():
    assert {task for task in known_tasks() if unit_field(task)} == set(PASSAGES)


@pytest.mark.parametrize("tasks", [("piqa", "arc_easy"), ("copa", "wic", "rte"), ("boolq", "piqa")])
def test_the_average_of_a_plan_is_what_its_expected_answers_would_show(tasks):
    """Its margin: within it four times of five, drawn 4,000 times."""
    rows = rows_of(tasks=tasks)
    draw, margin = np.random.default_rng(1), rows["average"]["shown"]
    units = [rows[task]["units"] or rows[task]["documents"] for task in tasks]
    counts = np.stack([draw.multinomial(count, [0.02, 0.96, 0.02], 4000) for count in units], axis=1).astype(float)
    kinds, weights = np.broadcast_to(np.array([-1.0, 0.0, 1.0]), counts.shape), np.full(len(tasks), 1 / len(tasks))
    low = sum_lower_limit(SumOfChanges(UnitChanges(kinds, np.ones(counts.shape), counts), weights))
    assert 0.77 <= np.mean(low >= -margin) <= 0.87
    lost = rows["average"]["detectable"]
    chances = [[0.02 + lost / 2, 0.96, 0.02 - lost / 2]]
    counts = np.stack([draw.multinomial(count, chances[0], 4000) for count in units], axis=1).astype(float)
    shown = sum_p(SumOfChanges(UnitChanges(kinds, np.ones(counts.shape), counts), weights)) < 0.05
    assert 0.75 <= np.mean(shown) <= 0.87


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
    assert "4,848 (66)" in line
    assert "10,000 (≤7,133)" in shown.output
    table = shown.output.partition("Documents for a margin")[2].partition("In brackets")[0]
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "…" not in line


def test_a_study_of_other_tasks_has_no_table():
    assert rows_of(tasks=(), tokens=("mine=1000x250",)) == {}
