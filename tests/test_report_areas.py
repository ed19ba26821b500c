"""Areas under the curve of faithfulness, checked against numpy.trapezoid over values read from the cells."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import sweep_folders
from click.testing import CliRunner

from lm_eval_prune.cli.main import cli
from lm_eval_prune.report.areas import area_of, areas, areas_table
from lm_eval_prune.report.comparison import compare
from lm_eval_prune.report.leaderboard import leaderboard
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.variants import Variant

trapezoid = getattr(np, "trapezoid", None) or np.trapz
CHANCE = {"piqa": {"acc": {"level": 0.25, "by": "choices"}}, "copa": {"acc": {"level": 0.3, "by": "choices"}}}
SHARES = ("0.1", "0.35", "0.5", "0.9")


def board_of(folder):
    return compare(read_collection([folder]))


def values_of(folder, ranking, task, component="prune_heads"):
    """Share pruned -> the mean of `acc` over the documents of the cell."""
    found = {}
    for row in Sweep(folder).rows:
        other = row.variant.prune_ffns if component == "prune_heads" else row.variant.prune_heads
        if row.task == task and row.variant.ranking in (ranking, "dense") and other == "0":
            samples = disk.read_samples(disk.cell_path(folder, row.cell))
            share = float(getattr(row.variant, component))
            found[share] = np.mean([sample["acc"] for sample in samples])
    return found


def by_hand(values, empty):
    kept = np.array([0.0, *(1 - share for share in sorted(values, reverse=True) if share < 1)])
    f = np.array([0.0, *((values[s] - empty) / (values[0.0] - empty) for s in sorted(values, reverse=True) if s < 1)])
    return trapezoid(f, kept), trapezoid(np.abs(1 - f), kept)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    variants = sweep_folders.grid(("own", "aggregate"), SHARES) + [
        Variant("own", "0", share) for share in ("0.25", "0.5", "0.75")
    ]
    losses = {variant: 0.7 * max(float(variant.prune_heads), float(variant.prune_ffns)) for variant in variants}
    place = tmp_path_factory.mktemp("areas") / "sweep"
    return sweep_folders.sweep(place, variants, shots=(0, 5), count=80, losses=losses, chance=CHANCE)


def test_areas_are_those_that_numpy_finds_on_each_task_and_on_the_average(folder):
    found = {area[:5]: area for area in areas(board_of(folder))}
    assert {key[1:4] for key in found} == {(r, c, k) for r, c in
            (("own", "heads"), ("own", "FFNs"), ("aggregate", "heads")) for k in (0, 5)}  # fmt: skip
    for (_, ranking, component, shots, name), area in found.items():
        part = "prune_heads" if component == "heads" else "prune_ffns"
        tasks = ["piqa", "copa"] if name.startswith("average") else [name.split()[0]]
        values = {}
        for task in tasks:
            for row in Sweep(folder).rows:
                other = row.variant.prune_ffns if component == "heads" else row.variant.prune_heads
                named = row.variant.ranking in (ranking, "dense") and other == "0"
                if named and (row.task, row.num_fewshot) == (task, shots):
                    samples = disk.read_samples(disk.cell_path(folder, row.cell))
                    mean = np.mean([sample["acc"] for sample in samples])
                    values.setdefault(float(getattr(row.variant, part)), []).append(mean)
        means = {share: np.mean(some) for share, some in values.items()}
        empty = np.mean([CHANCE[task]["acc"]["level"] for task in tasks])
        assert (area.empty, area.empty_by) == (pytest.approx(empty), "chance")
        cpr, cmd = by_hand(means, empty)
        assert area.cpr == pytest.approx(cpr, abs=1e-12)
        assert area.cmd == pytest.approx(cmd, abs=1e-12)
        assert area.shares == tuple(sorted(share for share in means if share))


def test_faithfulness_is_not_cut_and_a_perfect_ranking_has_areas_one_and_zero():
    assert area_of({0.0: 1.0, 0.4: 1.0, 1.0: 1.0}) == (pytest.approx(1.0), pytest.approx(0.0))
    above = {0.0: 0.0, 0.25: -0.5, 0.5: 1.5, 1.0: 1.0}
    kept, f = np.array(list(above)), np.array(list(above.values()))
    assert area_of(above) == (pytest.approx(trapezoid(f, kept)), pytest.approx(trapezoid(abs(1 - f), kept)))


def test_a_cell_that_prunes_everything_is_the_empty_model(tmp_path):
    variants = sweep_folders.grid(("own",), ("0.2", "0.5", "0.8", "1"))
    losses = {variant: 0.5 * float(variant.prune_heads) for variant in variants}
    sweep_folders.sweep(tmp_path / "sweep", variants, tasks=("piqa",), losses=losses)  # no chance level is known
    area = next(area for area in areas(board_of(tmp_path / "sweep")) if area.column == "piqa acc")
    values = values_of(tmp_path / "sweep", "own", "piqa")
    assert (area.empty, area.empty_by) == (pytest.approx(values[1.0]), "pruned")
    assert (area.cpr, area.cmd) == tuple(map(pytest.approx, by_hand(values, values[1.0])))


@pytest.mark.parametrize(
    ("shares", "chance", "why"),
    [
        (("0.2", "0.5"), CHANCE, "2 shares; at least 3 are needed"),
        (("0.5", "1"), CHANCE, "1 shares; at least 3 are needed"),
        (("0.2", "0.5", "0.8"), None, "no chance level is known, and no cell prunes everything"),
        (("0.2", "0.5", "0.8"), {"piqa": {"acc": {"level": 0.99, "by": "choices"}}}, "dense is at chance"),
    ],
)
def test_where_there_are_no_areas_it_is_said_why_and_tables_have_none(tmp_path, shares, chance, why):
    sweep_folders.sweep(tmp_path / "sweep", sweep_folders.grid(("own",), shares), tasks=("piqa",), chance=chance)
    board = board_of(tmp_path / "sweep")
    for area in areas(board):
        assert (area.cpr, area.cmd) == (None, None)
        assert area.why.startswith(why)
    assert areas_table(board)[1] == []


def test_areas_stand_in_every_form_of_the_board(folder, tmp_path):
    result = CliRunner().invoke(cli, ["leaderboard", str(folder), "--output_path", str(tmp_path)])
    assert result.exit_code == 0, result.output
    found = areas(board_of(folder))
    told = [f"CPR {a.cpr:.3f}, CMD {a.cmd:.3f}" for a in found if a.column.startswith("average")]
    assert len(told) == 6
    page, text = (tmp_path / "leaderboard.html").read_text(), (tmp_path / "leaderboard.md").read_text()
    for cell in told:
        assert cell in page
        assert cell in text
        assert cell.split(", ")[0] in result.output
    listed = json.loads((tmp_path / "leaderboard.json").read_text())["areas"]
    assert [(one["ranking"], one["cpr"], one["cmd"]) for one in listed] == [(a.ranking, a.cpr, a.cmd) for a in found]
    lines = list(csv.DictReader((tmp_path / "areas.csv").open()))
    assert [float(line["cpr"]) for line in lines] == [area.cpr for area in found]
    assert lines[0]["shares"] == "0.1 0.35 0.5 0.9"


def test_a_board_without_rankings_has_no_file_of_areas(tmp_path):
    sweep_folders.harness_run(tmp_path / "run")
    found = leaderboard([tmp_path / "run"], tmp_path / "board")
    assert not (tmp_path / "board" / "areas.csv").exists()
    assert all(path.name != "areas.csv" for path in found.paths)
