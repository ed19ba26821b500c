"""Rows compared with one of them, instead of the dense model."""

import json

import pytest
from click.testing import CliRunner

from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.variants import DENSE, Variant
from tests.sweep_folders import outcome, sweep

VARIANTS = [Variant("own", "0.3", "0"), Variant("own", "0.9", "0"), Variant("aggregate", "0.5", "0")]
RANDOM = [Variant("random", "0.5", "0", seed) for seed in (0, 1, 2)]
LOSSES = {VARIANTS[1]: 0.5, VARIANTS[2]: 0.1, **dict.fromkeys(RANDOM, 0.3)}
TASKS, COUNT = ("piqa", "copa"), 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sweep(
        tmp_path_factory.mktemp("against") / "sweep", [*VARIANTS, *RANDOM], TASKS, (0, 5), count=COUNT, losses=LOSSES
    )


def board_of(folder, against, **config):
    return compare(read_collection([folder]), BoardConfig(against=against, **config))


def changes(task, shots, first, second):
    """Answers gained and lost, document by document."""
    pairs = [
        [outcome(task, document, shots, str(one), loss=LOSSES.get(one, 0.0)) for one in (first, second)]
        for document in range(COUNT)
    ]
    return sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)


@pytest.mark.parametrize("name", ["own, heads 0.9, FFNs 0", "own 0.9"])
def test_differences_are_those_of_the_documents(folder, name):
    board = board_of(folder, name)
    assert board.reference == "own, heads 0.9, FFNs 0"
    for entry in board.entries:
        shown = entry.ranking, entry.prune_heads
        variant = next((one for one in (DENSE, *VARIANTS) if (one.ranking, one.prune_heads) == shown), None)
        if variant is None:
            continue
        for column in board.columns:
            difference = entry.cells[column].difference
            if variant == VARIANTS[1]:
                assert difference is None
                assert entry.cells[column].verdict == ""
                continue
            gained, lost = changes(column.task, entry.num_fewshot, variant, VARIANTS[1])
            assert difference.value == pytest.approx((gained - lost) / COUNT)
            assert difference.changed == pytest.approx((gained + lost) / COUNT)
            assert difference.paired == COUNT
            assert entry.cells[column].verdict == "better"


def test_turned_round_it_is_the_same_difference(folder):
    """Random masks on either side are compared draw by draw."""
    there, back = board_of(folder, "own, heads 0.3, FFNs 0"), board_of(folder, "random")
    assert back.reference == "random, heads 0.5, FFNs 0 (3 seeds)"
    for shots in (0, 5):
        (first,) = (e for e in there.entries if e.ranking == "random" and e.num_fewshot == shots)
        (second,) = (e for e in back.entries if e.prune_heads == "0.3" and e.num_fewshot == shots)
        for column in there.columns:
            one, other = first.cells[column].difference, second.cells[column].difference
            expected = [changes(column.task, shots, variant, VARIANTS[0]) for variant in RANDOM]
            assert one.value == pytest.approx(sum(gained - lost for gained, lost in expected) / COUNT / 3)
            assert (other.value, other.low, other.high) == pytest.approx((-one.value, -one.high, -one.low))
            assert other.p == pytest.approx(one.p)


def test_against_dense_is_what_is_done_without(folder):
    plain, named = board_of(folder, None), board_of(folder, "dense")
    for one, other in zip(plain.entries, named.entries, strict=True):
        assert one.label == other.label
        assert [cell.difference for cell in one.cells.values()] == [cell.difference for cell in other.cells.values()]


def test_no_decline_from_dense_is_told_of_another_row(folder):
    assert board_of(folder, "aggregate").declines == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("own", "against own: several rows have these words; expected one of: own, heads 0.3, FFNs 0; own, heads 0.9"),
        ("agregate, heads 0.5, FFNs 0", "no row is called so; expected one of: aggregate, heads 0.5, FFNs 0"),
        ("", "against : several rows have these words"),
    ],
)
def test_a_name_that_means_no_one_row_is_refused(folder, name, line):
    with pytest.raises(ArgumentError, match="against") as error:
        board_of(folder, name)
    assert line in str(error.value)


def test_a_row_that_is_not_at_every_number_of_shots_is_said(tmp_path):
    skip = {(VARIANTS[0], task, 5) for task in TASKS}
    folder = sweep(tmp_path / "sweep", VARIANTS[:2], TASKS, (0, 5), skip=skip)
    board = board_of(folder, "own, heads 0.3, FFNs 0")
    assert any("own, heads 0.3, FFNs 0: none at 5-shot" in problem.message for problem in board.problems)
    assert all(not entry.average.difference for entry in board.entries if entry.num_fewshot == 5 and entry.average)


def test_the_command_prints_it_and_writes_it_beside_the_leaderboard(folder, tmp_path):
    done = CliRunner().invoke(
        cli, ["leaderboard", str(folder), "-o", str(tmp_path), "--against", "own, heads 0.3, FFNs 0"]
    )
    assert done.exit_code == 0, done.output
    assert "to own, heads 0.3, FFNs 0, margin 0.01" in done.output
    content = json.loads((tmp_path / "against.json").read_text())
    assert content["reference"] == "own, heads 0.3, FFNs 0"
    assert json.loads((tmp_path / "leaderboard.json").read_text())["reference"] == "dense"
    assert (tmp_path / "against.csv").read_text().count("\n") == 1 + len(content["entries"])
    refused = CliRunner().invoke(cli, ["leaderboard", str(folder), "-o", str(tmp_path / "no"), "--against", "nobody"])
    assert isinstance(refused.exception, ArgumentError)
    assert not (tmp_path / "no").exists()
