"""The figures show the numbers of the board and of the files, and compile for every kind of file."""

from __future__ import annotations

import pytest
from sweep_folders import grid, sweep

from lm_eval_prune.report.comparison import compare
from lm_eval_prune.report.figures import figures
from lm_eval_prune.report.figures.style import spec
from lm_eval_prune.report.reading import read_collection


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = sweep(tmp_path_factory.mktemp("sweep"), grid(("own", "aggregate")), shots=(0, 5))
    collection = read_collection([folder])
    board = compare(collection)
    return board, {figure.name: figure for figure in figures(board, collection)}


def points_of(figure):
    """All records in a chart's data, as its specification has them."""
    return [record for values in spec(figure.chart)["datasets"].values() for record in values]


def test_parameters_against_accuracy_shows_every_entry(made):
    board, found = made
    shown = {
        (point["variant"], point["shots"], point["left"], point["value"])
        for point in points_of(found["pareto-parameters"])
    }
    assert shown == {
        (
            entry.label,
            f"{entry.num_fewshot}-shot",
            float(f"{100 * entry.parameters_left:.5g}"),
            float(f"{entry.average.value:.5g}"),
        )
        for entry in board.entries
    }
