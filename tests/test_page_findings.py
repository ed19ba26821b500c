"""What the page says was found, in Chromium: the sentence, minimal decline, chance, and rows without their answers."""

from __future__ import annotations

import re

import pytest
from browser import Opened, chromium
from sweep_folders import grid, harness_run, sweep

from lm_eval_prune.report.leaderboard import leaderboard

pytestmark = pytest.mark.slow

TASKS = ("piqa", "copa")
LEVELS = {"piqa": 0.5, "copa": 0.55}
CHANCE = {
    "piqa": {"acc": {"level": 0.5, "by": "choices", "choices": [2, 2]}},
    "copa": {"acc": {"level": 0.55, "by": "majority class", "choices": [2, 2]}},
}
OWN = grid(("own", "aggregate"), heads=("0.3", "0.5", "0.9"))


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    losses = {variant: 0.9 if variant.prune_heads == "0.9" else 0.0 for variant in OWN}
    folder = tmp_path_factory.mktemp("sweep")
    sweep(folder, OWN, TASKS, (0, 5), losses=losses, count=600, chance=CHANCE)
    return leaderboard([folder], tmp_path_factory.mktemp("out"))


@pytest.fixture
def opened(browser, made):
    with Opened(browser, made.page) as opened:
        yield opened
        assert opened.complaints == []


def cells(row):
    """The texts of a row's cells by column."""
    return row.evaluate(
        """row => {
            const heads = [...document.querySelectorAll('#board thead th')].map(th => th.dataset.sort);
            return Object.fromEntries(heads.map((name, place) => [name, row.cells[place].innerText.trim()]));
        }"""
    )


def test_the_sentence_on_top_says_what_can_go_and_what_falls(opened, made):
    sentence = opened.page.text_content(".finding")
    assert opened.page.locator(".finding").bounding_box()["y"] < 200
    dense, half, most = (
        next(e for e in made.board.entries if e.label.startswith(name) and e.num_fewshot == 5).average.value
        for name in ("dense", "own, heads 0.5", "own, heads 0.9")
    )
    assert re.fullmatch(
        rf"5-shot: 50 % of the heads can go \(ranking own, average {dense:.2f} to {half:.2f}\); "
        rf"at 90 % the average falls from {dense:.2f} to {most:.2f}",
        sentence,
    )


def test_minimal_decline_is_a_table_of_rankings_by_shots(opened):
    table = opened.page.locator("#declines table")
    assert table.locator("thead th").all_text_contents() == ["ranking", "pruned", "0-shot", "5-shot"]
    rows = [row.locator("td").all_text_contents() for row in table.locator("tbody tr").all()]
    assert sorted(rows) == [["aggregate", "heads", "50 %", "50 %"], ["own", "heads", "50 %", "50 %"]]
    opened.page.click('nav.parts a[href="#declines"]')
    box = table.bounding_box()
    assert 0 <= box["y"] < 900
    assert opened.page.text_content("#declines h2") == "Minimal decline: the share that can go"
    assert "neither that nor a loss is shown" in opened.page.text_content("#declines > p")


def test_the_last_row_is_chance_with_where_it_is_from(opened):
    row = opened.page.locator("#board tfoot tr.chance")
    found = cells(row)
    assert found["variant"] == "chance"
    assert found["rank"] == found["n"] == found["parameters"] == ""
    assert found["piqa acc"].split() == ["0.500", "2", "choices"]
    assert found["copa acc"].split()[:3] == ["0.550", "majority", "class:"]
    assert found["average"].split()[0] == f"{(LEVELS['piqa'] + LEVELS['copa']) / 2:.3f}"
    opened.sort("piqa acc")  # it is no variant: it stays the last, is not counted and cannot be chosen
    assert opened.page.locator("#board tr").last.text_content().startswith("chance")
    assert row.locator("input, button").count() == 0
    assert opened.page.text_content("#count").startswith("7 of 14 rows")
    opened.page.click(".menu summary")
    opened.page.uncheck('input[name="column"][value="copa acc"]')
    assert "copa acc" not in cells(opened.page.locator("#board tfoot tr.chance"))
    opened.page.check('input[name="shots"][value="beside"]', force=True)
    assert opened.page.locator("#board tfoot").count() == 0


def test_where_no_chance_level_is_known_there_is_no_such_row(browser, tmp_path):
    page = leaderboard([sweep(tmp_path / "sweep", OWN, TASKS)], tmp_path / "out").page
    with Opened(browser, page) as opened:
        assert opened.page.locator("#board tbody tr").count() == 7
        assert opened.page.locator("#board tfoot").count() == 0


def test_two_rows_without_answers_show_their_difference_and_no_verdict(browser, tmp_path):
    """Runs without --log_samples, of any backend: nothing is paired, and that is said."""
    for name, loss in (("hf", 0.0), ("vllm", 0.3)):
        changes = {"model": name, "model_args": "pretrained=facebook/opt-125m,dtype=float32"}
        harness_run(tmp_path / name, name=name, loss=loss, logged=False, **changes)
    made = leaderboard([tmp_path / "hf", tmp_path / "vllm"], tmp_path / "out")
    with Opened(browser, made.page) as opened:
        for box in opened.page.locator('#board input[name="compare"]').all():
            box.check()
        opened.page.wait_for_selector("#compared")
        names = opened.page.text_content("#comparison h3").split(" minus ")
        first, second = (next(e for e in made.board.entries if e.label == name) for name in names)
        lines = opened.page.locator("#compared tbody tr").all()
        holders = [(e.average, *(e.cells[column] for column in made.board.columns)) for e in (first, second)]
        assert len(lines) == len(holders[0])
        for line, one, other in zip(lines, *holders, strict=True):
            *_, difference, said = line.locator("td").all_text_contents()
            assert float(difference.replace("−", "-")) == pytest.approx(one.value - other.value, abs=5e-5)
            assert said == "not paired"
        assert "no interval and no verdict" in opened.page.text_content("#comparison .hint")
        opened.page.click("#end-comparison")
        assert not opened.page.is_visible("#comparison")
        assert opened.complaints == []
