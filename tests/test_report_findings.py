"""What a board found, in a sentence and as a table, and how many digits its numbers have."""

import json
import math

import pytest
from rich.console import Console

from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.findings import decline_rows, findings
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.records import nested
from lm_eval_prune.report.tables import markdown
from lm_eval_prune.report.terminal import print_board
from lm_eval_prune.report.wording import digits_of, value_text
from lm_eval_prune.variants import Variant
from tests.sweep_folders import sweep

HEADS = ("0.3", "0.5", "0.7", "0.8")


def board_of(folder, rankings=("own",), *, losses=(0, 0, 0, 0.6), count=500, shots=(0,), margin=0.01, **more):
    variants = [Variant(ranking, heads, "0") for ranking in rankings for heads in HEADS]
    harm = {variant: dict(zip(HEADS, losses, strict=True))[variant.prune_heads] for variant in variants}
    sweep(folder, variants, ("piqa", "copa"), shots, count=count, losses=harm, **more)
    return compare(read_collection([folder]), BoardConfig(margin=margin))


def average(board, heads):
    (entry,) = (e for e in board.entries if e.prune_heads == heads and e.num_fewshot == max(board.shots))
    return entry.average.value


def test_what_can_go_and_what_falls(tmp_path):
    board = board_of(tmp_path, shots=(0, 5))
    found = findings(board)
    assert [one.num_fewshot for one in found] == [5, 0]
    dense, kept, after = average(board, "0"), average(board, "0.7"), average(board, "0.8")
    assert kept == dense
    assert found[0].sentence == (
        f"5-shot: 70 % of the heads can go (ranking own, average {dense:.2f} to {dense:.2f}); "
        f"at 80 % the average falls from {dense:.2f} to {after:.2f}"
    )
    assert (found[0].fraction, found[0].next_fraction, found[0].enough) == ("0.7", "0.8", True)
    assert (found[0].dense, found[0].kept, found[0].after) == (pytest.approx(dense), kept, after)


def test_too_few_documents_promise_nothing(tmp_path):
    (found,) = findings(board_of(tmp_path, count=60))
    begin = "0-shot: it is unclear whether up to 70 % of the heads can go (ranking own, average "
    assert found.sentence.startswith(begin)
    assert "; 120 documents are too few to exclude a loss of 0.01); at 80 % the average falls from " in found.sentence
    assert not found.enough


def test_where_the_smallest_share_is_worse_none_can_go(tmp_path):
    (found,) = findings(board_of(tmp_path, losses=(0.3, 0.4, 0.5, 0.6)))
    assert found.sentence.startswith("0-shot: no share of the heads that was tried can go (ranking own); at 30 % ")
    assert (found.fraction, found.next_fraction) == ("0", "0.3")


def test_where_nothing_is_worse_nothing_is_said_to_fall(tmp_path):
    (found,) = findings(board_of(tmp_path, losses=(0, 0, 0, 0)))
    assert found.sentence.endswith(")")
    assert (found.fraction, found.next_fraction, found.after) == ("0.8", "", None)


def test_a_dense_model_at_chance_has_nothing_to_lose(tmp_path):
    level = {"level": 0.7, "by": "choices", "choices": [2, 2]}
    board = board_of(tmp_path, losses=(0, 0, 0, 0.001), chance={task: {"acc": level} for task in ("piqa", "copa")})
    (found,) = findings(board)
    assert found.sentence.endswith("is not shown to be above chance: no loss can show")


def test_the_ranking_is_chosen_by_name_and_not_by_how_far_it_goes(tmp_path):
    for number, (rankings, chosen) in enumerate(
        ((("task:piqa", "own"), "own"), (("random", "aggregate"), "aggregate"), (("task:piqa", "mine"), "mine"))
    ):
        (found,) = findings(board_of(tmp_path / str(number), rankings))
        assert found.ranking == chosen


def test_numbers_that_differ_are_written_to_differ(tmp_path):
    board = board_of(tmp_path, losses=(0, 0, 0.006, 0.006), count=5000)
    sentence = findings(board)[0].sentence
    dense, kept = average(board, "0"), average(board, "0.8")
    assert f"{dense:.3f} to {kept:.3f}" in sentence or f"{dense:.2f} to {kept:.2f}" in sentence
    assert f"{dense:.3f} to {dense:.3f}" not in sentence


def test_minimal_decline_is_a_row_a_ranking_and_a_column_a_number_of_shots(tmp_path):
    board = board_of(tmp_path / "many", ("own", "aggregate"), shots=(0, 5))
    assert {(row.ranking, row.component, row.cells) for row in decline_rows(board)} == {
        ("own", "heads", ("70 %", "70 %")),
        ("aggregate", "heads", ("70 %", "70 %")),
    }
    (few,) = decline_rows(board_of(tmp_path / "few", count=60))
    assert few.cells == ("0 %, unclear to 70 %",)
    (none,) = decline_rows(board_of(tmp_path / "none", losses=(0.3, 0.4, 0.5, 0.6)))
    assert none.cells == ("0 %",)
    part = board_of(tmp_path / "part", losses=(0, 0.004, 0.004, 0.6), margin=0.005, count=900)
    (row,) = decline_rows(part)
    shown = next(iter(part.declines)).fraction
    assert row.cells == ("30 %, unclear to 70 %",)
    assert shown == "0.3"


def test_files_hold_the_sentence_and_the_table(tmp_path):
    board = board_of(tmp_path)
    (found,) = findings(board)
    content = json.loads(json.dumps(nested(board), allow_nan=False))
    assert content["findings"][0]["sentence"] == found.sentence
    assert content["decline_table"]["rows"][0]["cells"] == ["70 %"]
    assert list(content["verdicts"]) == [
        "worse", "better", "identical", "within the margin", "not shown", "too few documents", "dense is at chance",
    ]  # fmt: skip
    text = markdown(board)
    assert found.sentence.split(" (")[0] in text
    assert "| own | heads | 70 % |" in text


@pytest.mark.parametrize("width", [100, 80, 60])
def test_what_is_unclear_is_never_read_as_what_can_go(tmp_path, width, capsys):
    """Random masks with a large loss, of too few draws to show it: their share stands nowhere without its word."""
    variants = [Variant("random", "0.5", "0", seed) for seed in (1, 2)]
    harm = dict(zip(variants, (0.0, 0.9), strict=True))
    sweep(tmp_path, variants, ("piqa", "copa"), (0, 1, 5), count=60, losses=harm)
    board = compare(read_collection([tmp_path]), BoardConfig(margin=0.01))
    (row,) = decline_rows(board)
    assert row.cells == ("0 %, unclear to 50 %",) * 3
    sentence = findings(board)[0].sentence
    assert sentence.startswith("5-shot: it is unclear whether up to 50 % of the heads can go (ranking random, average ")
    assert "; 120 documents and 2 draws are too few to exclude a loss of 0.01)" in sentence
    print_board(board, board.entries, Console(width=width))
    shown = capsys.readouterr().out
    table = shown[shown.index("Minimal decline: the share that can go") :]
    assert max(map(len, table.splitlines())) <= width
    table = table.partition("The share")[0]
    assert table.count("0 %,") == table.count("unclear") == table.count("to 50 %") == 3
    assert "(" not in table
    assert "Minimal decline: the share that can go" in markdown(board)
    assert "| random | heads | 0 %, unclear to 50 % |" in markdown(board)


@pytest.mark.parametrize(
    ("documents", "digits"), [(None, 4), (1, 2), (60, 2), (100, 2), (101, 3), (1000, 3), (1838, 4), (10_042, 4)]
)
def test_digits_are_those_that_one_document_moves(documents, digits):
    assert digits_of(documents) == digits
    if documents:
        assert digits == 2 or digits == 4 or 10**-digits <= 1 / documents < 10 ** -(digits - 1)


def test_a_value_has_as_many_digits_as_its_documents_fill(tmp_path):
    for count, digits in ((60, 2), (500, 3)):
        board = board_of(tmp_path / str(count), count=count)
        cell = next(iter(board.entries[0].cells.values()))
        assert value_text(cell) == f"{cell.value:.{digits}f} ±{cell.stderr:.{digits}f}"
        assert board.entries[0].num_documents == board.entries[0].average.num_documents == 2 * count
        assert f"| {2 * count:,} |" in markdown(board)
        assert math.isclose(nested(board)["entries"][0]["documents"], 2 * count)
