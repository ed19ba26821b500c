"""The page compares any two rows by the statistics of the command: its scripts against statistics.py."""

from __future__ import annotations

import json
import math
from importlib import resources

import numpy as np
import pytest
from browser import Opened, chromium
from scipy.special import ndtr
from sweep_folders import grid, sweep

from lm_eval_prune.report.averages import average_estimate, verdict_of
from lm_eval_prune.report.cells import CellMaker
from lm_eval_prune.report.leaderboard import leaderboard
from lm_eval_prune.report.page.rows import row_id
from lm_eval_prune.report.parts import paired_part, student_quantile
from lm_eval_prune.report.statistics import Estimate
from lm_eval_prune.variants import Variant

pytestmark = pytest.mark.slow

NUMBERS = ("value", "low", "high", "p", "least")
ESTIMATES = """cases => cases.map(parts => {
    const made = parts.map(([weight, ...part]) => [weight, pairedPart(...part)]);
    const found = estimate(made);
    return ['value', 'low', 'high', 'p', 'least', 'changed'].map(name => found[name]);
})"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def scripts(browser):
    """Evaluates JavaScript in the scope of the page's statistics."""
    source = (
        resources.files("lm_eval_prune.report.page").joinpath("assets", "scripts", "statistics.js").read_text("utf-8")
    )
    page = browser.new_page()
    yield lambda function, argument: page.evaluate(
        f"argument => {{ {source}\nreturn ({function})(argument); }}", argument
    )
    page.close()


def table(draw, documents, draws=1, kind="outcomes"):
    if kind == "none changed":
        return np.zeros((documents, draws))
    if kind == "all lost":
        return -np.ones((documents, draws))
    if kind == "unbounded":
        return draw.normal(0.1, 2, (documents, draws))
    if kind == "shares":
        return draw.integers(0, 5, (documents, draws)) / 4 - draw.integers(0, 5, (documents, draws)) / 4
    return draw.choice([-1.0, 0.0, 1.0], (documents, draws), p=[0.12, 0.8, 0.08])


def cases():
    """Lists of (weight, table, seeds, units, bounded) that are one estimate each."""
    draw = np.random.default_rng(0)
    one = [
        (documents, 1, kind, None)
        for documents in (1, 5, 60, 1838)
        for kind in ("outcomes", "none changed", "all lost")
    ]
    one += [(40, 3, "outcomes", None), (40, 2, "shares", None), (60, 1, "shares", 12), (200, 1, "outcomes", 20)]
    one += [(60, 5, "outcomes", 15), (50, 1, "none changed", 10), (30, 1, "unbounded", None), (30, 2, "unbounded", 6)]
    made = []
    for documents, draws, kind, number in one:
        units = None if number is None else np.sort(draw.integers(0, number, documents))
        units = None if units is None else np.unique(units, return_inverse=True)[1]
        seeds = [(seed, 1234) for seed in range(draws)]
        made.append([(1.0, table(draw, documents, draws, kind), seeds, units, kind != "unbounded")])
    seeds = [(seed, 1234) for seed in range(3)]
    made.append([(1 / 5, table(draw, 60), [(None, 1234)], None, True) for _ in range(5)])
    made.append([(1 / 3, table(draw, size, 3), seeds, None, True) for size in (56, 100, 277)])
    made.append(
        [
            (1 / 2, table(draw, 50, 3), [*seeds[:2], (9, 1234)], None, True),
            (1 / 2, table(draw, 80, 3), seeds, None, True),
        ]
    )
    made.append(
        [
            (1 / 2, table(draw, 60), [(None, 1)], np.arange(60) // 6, True),
            (1 / 2, table(draw, 60, kind="none changed"), [(None, 1)], None, True),
        ]
    )
    made.append(  # outcomes beside a metric without bounds
        [(1 / 2, table(draw, size, kind=kind), [(None, 1)], None, kind != "unbounded")
         for size, kind in ((70, "outcomes"), (40, "unbounded"))]
    )  # fmt: skip
    made.append([(1 / 2, table(draw, size, 2), seeds[:2], np.arange(size) // 4, True) for size in (60, 120)])
    made.append([(1 / 14, table(draw, size), [(None, 1)], None, True) for size in range(56, 1056, 72)])
    return made


def test_estimates_are_those_of_the_command(scripts):
    made = cases()
    sent = [
        [
            [
                weight,
                values.T.tolist(),
                [list(one) for one in seeds],
                None if units is None else units.tolist(),
                bounded,
            ]
            for weight, values, seeds, units, bounded in parts
        ]
        for parts in made
    ]
    for parts, found in zip(made, scripts(ESTIMATES, sent), strict=True):
        expected = Estimate(
            [
                (weight, paired_part(values, draws=seeds, units=units, bounded=bounded))
                for weight, values, seeds, units, bounded in parts
            ]
        )
        numbers = (expected.value, *expected.interval, expected.p, expected.least(), expected.changed)
        size = [values.shape for _, values, *_ in parts]
        for name, one, other in zip((*NUMBERS, "changed"), found, numbers, strict=True):
            assert (one if one is not None else math.inf) == pytest.approx(other, rel=1e-9, abs=1e-9), (name, size)


def test_distributions_are_right_far_out(scripts):
    pairs = [(freedom, z) for freedom in (1, 2, 3, 7, 60, 1837) for z in (0.5, 1.96, 4, 8, 20)]
    found = scripts("pairs => pairs.map(([freedom, z]) => studentQuantile(freedom, z))", [list(pair) for pair in pairs])
    assert found == pytest.approx([student_quantile(*pair) for pair in pairs], rel=1e-9)
    points = [0.0, 0.1, 1.0, 1.96, 5.0, 12.0, 30.0, -1.0]
    assert scripts("points => points.map(normalBeyond)", points) == pytest.approx(
        list(ndtr(-np.array(points))), rel=1e-12
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Rows that answer differently, some with seeds; and one that has fewer documents than the others."""
    folder = tmp_path_factory.mktemp("sweep")
    own = grid(("own", "aggregate"), heads=("0.3", "0.7"))
    random = [Variant("random", share, "0", seed=seed) for share in ("0.3", "0.7") for seed in (0, 1, 2)]
    losses = {variant: float(variant.prune_heads) / 2 for variant in (*own[1:], *random)}
    sweep(folder, [*own, *random], tasks=("piqa", "copa"), shots=(0, 5), losses=losses, count=70)
    return leaderboard([folder], tmp_path_factory.mktemp("out"))


def expected_of(board, first, second):
    """The first row minus the second by the command's own code, which takes the second for the dense model."""
    maker, rows = CellMaker(), {}
    for column in board.columns:
        runs = [[run for run in entry.runs if run.task == column.task] for entry in (first, second)]
        rows[column] = maker("first", runs[0], column, runs[1])
    return [average_estimate(rows, board.columns), *(rows[column].difference for column in board.columns)]


def compared(opened):
    opened.page.wait_for_selector("#compared")
    return opened.page.eval_on_selector_all(
        "#compared tbody tr", "rows => rows.map(row => [row.dataset.numbers || null, row.lastChild.textContent])"
    )


def test_two_rows_are_compared_as_the_command_compares_with_the_dense_model(browser, made):
    entries = {entry.label: entry for entry in made.board.entries if entry.num_fewshot == 5}
    names = ["own, heads 0.7, FFNs 0", "aggregate, heads 0.3, FFNs 0", "random, heads 0.7, FFNs 0 (3 seeds)", "dense"]
    pairs = [(names[0], names[1]), (names[2], names[0]), (names[1], names[3])]
    with Opened(browser, made.page) as opened:
        for first, second in pairs:
            for name in (first, second):
                opened.page.check(f'#board input[value="{row_id(entries[name])}"]')
            expected = expected_of(made.board, entries[first], entries[second])
            opened.page.wait_for_function(
                "name => document.querySelector('#comparison h3')?.textContent.startsWith(name)", arg=first
            )
            for (numbers, verdict), estimate in zip(compared(opened), expected, strict=True):
                found = dict(zip(NUMBERS, json.loads(numbers), strict=True))
                assert (found["value"], found["low"], found["high"]) == pytest.approx(
                    (estimate.value, *estimate.interval), abs=1e-9
                )
                assert found["p"] == pytest.approx(estimate.p, rel=1e-9)
                assert found["least"] == pytest.approx(estimate.least(), rel=1e-9)
                assert verdict.split(" ", 1)[1] in verdict_of.__doc__ or verdict.split(" ", 1)[1] == "identical"
            opened.page.click("#end-comparison")
            assert not opened.page.is_visible("#comparison")
        assert opened.complaints == []


def test_what_the_page_says_of_a_row_and_the_dense_model_is_what_the_table_says(browser, made):
    entry = next(e for e in made.board.entries if e.num_fewshot == 5 and e.label.startswith("own, heads 0.7"))
    with Opened(browser, made.page) as opened:
        for name in (row_id(entry), "5:dense"):
            opened.page.check(f'#board input[value="{name}"]')
        first, *rest = compared(opened)
        for (numbers, _), holder in zip((first, *rest), (entry.average, *entry.cells.values()), strict=True):
            difference = holder.difference
            assert json.loads(numbers)[:4] == pytest.approx(
                [difference.value, difference.low, difference.high, difference.p], abs=1e-9
            )


def test_rows_of_several_seeds_are_paired_seed_by_seed(browser, made):
    entries = [e for e in made.board.entries if e.num_fewshot == 5 and e.label.startswith("random")]
    with Opened(browser, made.page) as opened:
        for entry in entries:
            opened.page.check(f'#board input[value="{row_id(entry)}"]')
        _, (numbers, _), _ = compared(opened)
        column = made.board.columns[0]
        runs = [sorted((r for r in e.runs if r.task == column.task), key=lambda r: r.variant.seed) for e in entries]
        first, second = ([made.board.outcomes(run, column.metric).values[column.metric] for run in own] for own in runs)
        changes = np.array(first).T - np.array(second).T
        part = Estimate([(1.0, paired_part(changes, draws=[(seed, 1234) for seed in range(3)]))])
        assert json.loads(numbers)[:3] == pytest.approx([part.value, *part.interval], abs=1e-9)


def test_rows_that_cannot_be_paired_say_why(browser, made, tmp_path):
    with Opened(browser, made.page) as opened:
        opened.page.check('input[name="shots"][value=""]', force=True)
        for name in ("0:dense", "5:dense"):
            opened.page.check(f'#board input[value="{name}"]')
        opened.page.wait_for_selector("#comparison .bar + p")
        assert "other examples are other prompts" in opened.page.text_content("#comparison")
    own = grid(heads=("0.3", "0.7"))
    folder = sweep(tmp_path / "sweep", own, ("piqa", "copa"), shots=(0,), skip=[(own[1], "copa", 0)])
    page = leaderboard([folder], tmp_path / "out").page
    with Opened(browser, page) as opened:
        for variant in own:
            opened.page.check(f'#board input[value="0:{variant}"]')
        opened.page.wait_for_selector("#compared")
        texts = opened.page.locator("#compared tbody tr").all_text_contents()
        assert "a task is missing" in texts[0]
        assert "no answers by document" in texts[2]
        assert opened.complaints == []
