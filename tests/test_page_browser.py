"""The page in Chromium: sorted, filtered, read with the keyboard, on a phone, in the dark, and asking for nothing."""

from __future__ import annotations

import pytest
from browser import Opened, chromium
from sweep_folders import grid, importance, sweep
from test_report_page import STRANGE

from lm_eval_prune.report.leaderboard import leaderboard
from lm_eval_prune.variants import Variant

pytestmark = pytest.mark.slow

OWN = grid(("own", "aggregate"), heads=("0.3", "0.5", "0.9"))
FOCUSED = """() => {
    const it = document.activeElement, both = [it, it.closest('.segments') || it].map(one => getComputedStyle(one));
    const seen = both.some(style => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0);
    return [it.name || it.className || it.id || it.tagName, it.closest('th')?.dataset.sort || it.ariaLabel || '', seen];
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    variants = [*OWN, Variant("random", "0.5", "0", seed=0), Variant("random", "0.5", "0", seed=1)]
    losses = {variant: float(variant.prune_heads) / 2 for variant in OWN}
    skip = [(OWN[3], "copa", 5)]
    sweep(folder, variants, tasks=("piqa", "copa", "rte"), shots=(0, 5), losses=losses, count=40, skip=skip)
    for task in ("piqa", "copa", "rte"):
        importance(folder, f"{task}-5shot-heads-gradient", "heads", "gradient", task, 5)
    return leaderboard([folder], tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    variants = [Variant(f"{name}.json", "0.5", "0") for name in STRANGE]
    tasks = [STRANGE[1], STRANGE[3], STRANGE[4]]
    sweep(folder, variants, tasks=tasks, shots=(0, 5), count=6, model=STRANGE[0])
    for number, task in enumerate(tasks):
        importance(folder, f"{number}-5shot-heads-gradient", "heads", "gradient", task, 5)
    return leaderboard([folder], tmp_path_factory.mktemp("out"))


@pytest.fixture
def opened(browser, made):
    with Opened(browser, made.page) as opened:
        yield opened
        assert opened.complaints == []
        assert opened.requests == [opened.url]


def sort_button(name):
    return f'#board th[data-sort="{name}"] .dt-column-order'


def labels(entries):
    return [entry.label for entry in entries]


def by_value(made, name, direction, shots=(0, 5)):
    """Labels sorted by a column within each number of shots, missing values last, otherwise in order of rank."""

    def value(entry):
        return next((cell.value for column, cell in entry.cells.items() if str(column) == name), None)

    found = []
    for number in shots:
        entries = [entry for entry in made.board.entries if entry.num_fewshot == number]
        there = sorted((e for e in entries if value(e) is not None), key=lambda e: direction * value(e))
        found += labels(there) + labels(e for e in entries if value(e) is None)
    return found


def test_columns_sort_by_click_best_first_and_the_other_way(opened, made):
    assert opened.rows(place=2) == labels(made.board.entries)
    for direction, aria in ((-1, "descending"), (1, "ascending")):
        opened.page.click('#board th[data-sort="copa acc"]')
        opened.become(by_value(made, "copa acc", direction))
        assert opened.page.get_attribute('#board th[data-sort="copa acc"]', "aria-sort") == aria
    assert opened.page.locator("#board [aria-sort]").count() == 1
    opened.page.click('#board th[data-sort="parameters"]')
    smallest = min(entry.parameters_left for entry in made.board.entries)
    opened.become([f"{100 * smallest:.1f} %"] * 2, place=6, first=2)
    opened.page.click('#board th[data-sort="variant"]')
    names = [sorted(labels(e for e in made.board.entries if e.num_fewshot == shots)) for shots in (0, 5)]
    opened.become([*names[0], *names[1]])


def test_filters_are_those_of_the_command(opened, made):
    page, entries = opened.page, made.board.entries
    page.check('input[name="shots"][value="5"]', force=True)
    assert opened.rows(place=2) == labels(e for e in entries if e.num_fewshot == 5)
    page.select_option('select[name="ranking"]', "aggregate")
    assert opened.rows(place=2) == labels(e for e in entries if e.num_fewshot == 5 and e.ranking == "aggregate")
    page.check('input[name="shots"][value=""]', force=True)
    page.select_option('select[name="ranking"]', "")
    page.fill('input[name="text"]', "OWN  5-shot worse")
    worse = [e for e in entries if e.ranking == "own" and e.num_fewshot == 5]
    worse = [e for e in worse if any(cell.verdict == "worse" for cell in e.cells.values())]
    assert worse
    assert opened.rows(place=2) == labels(worse)
    assert page.text_content("#count") == f"{len(worse)} of {len(entries)} rows"
    page.fill('input[name="text"]', "nothing of the kind")
    assert page.text_content("#board tbody") == "No row fits these filters"


def test_shots_stand_side_by_side(opened, made):
    opened.page.check('input[name="shots"][value="beside"]', force=True)
    assert not opened.page.is_visible("#all")
    assert sorted(opened.rows("sides", 1)) == sorted({entry.label for entry in made.board.entries})
    opened.page.click('#sides th[data-sort="5"]')
    ranked = [e for e in made.board.entries if e.num_fewshot == 5 and e.average is not None]
    expected = [f"{e.average.value:.4f}" for e in ranked]
    opened.become(expected, table="sides", place=3, first=len(expected))
    assert opened.rows("sides", 3)[-1] == "missing"


def test_the_page_opens_as_the_command_was_asked(browser, made, tmp_path):
    (source,) = {run.source for entry in made.board.entries for run in entry.runs}
    again = leaderboard([source], tmp_path, sort="rte", text="own")
    with Opened(browser, again.page) as opened:
        expected = [label for label in by_value(made, "rte acc", -1) if "own" in label]
        assert opened.rows(place=2) == expected


def test_everything_is_reached_and_worked_with_the_keyboard(opened, made):
    page, reached = opened.page, []
    page.evaluate("document.body.focus()")
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    names = [name for name, _, _ in reached]
    assert {"shots", "ranking", "text", "differences", "p", "more"} <= set(names)
    sortable = [sort for name, sort, _ in reached if "dt-column-order" in name]
    assert set(sortable) >= {"rank", "variant", "average", *map(str, made.board.columns)}
    assert all(seen for name, _, seen in reached if name != "BODY"), reached
    for key, direction in (("Enter", -1), (" ", 1)):
        page.focus(sort_button("piqa acc"))
        page.keyboard.press(key)
        opened.become(by_value(made, "piqa acc", direction))


def test_a_row_opens_with_every_number_in_full(opened, made):
    entry = next(entry for entry in made.board.entries if entry.ranking == "own")
    button = opened.page.locator("#board .more", has_text=entry.label).first
    button.focus()
    opened.page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    text = opened.page.text_content("#board .details")
    for column, cell in entry.cells.items():
        assert str(column) in text
        assert f"{cell.value:.4f}" in text
        assert f"Holm {cell.difference.p_holm:.2g}" in text
    opened.page.keyboard.press("Enter")
    assert opened.page.locator("#board .details").count() == 0


def test_masks_open_at_the_end(opened, made):
    entry = next(entry for entry in made.board.entries if entry.ranking == "own")
    assert not opened.page.locator("[data-masks] dl").count()
    masks = opened.page.locator("[data-masks]", has_text=entry.label)
    masks.locator("summary").focus()
    opened.page.keyboard.press("Enter")
    masks.locator("dl").wait_for()
    texts = masks.locator("dd").all_text_contents()
    assert {run.mask for run in entry.runs} <= set(texts)
    assert all(text.startswith("heads ") for text in texts)
    opened.page.keyboard.press("Enter")
    assert not masks.locator("dl").is_visible()


def test_differences_and_p_values_are_shown_on_demand(opened):
    page = opened.page
    assert page.locator("#board .difference").first.is_visible()
    assert not page.locator("#board .p").first.is_visible()
    page.check('input[name="p"]')
    page.uncheck('input[name="differences"]')
    assert not page.locator("#board .difference").first.is_visible()
    assert page.locator("#board .p").first.is_visible()


def test_figures_are_drawn_and_have_tooltips(opened):
    assert opened.page.evaluate("typeof vegaEmbed") == "undefined"  # not before a figure is seen
    opened.draw_all()
    chart = opened.page.locator('figure[id*="importance"] canvas').first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    for share in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6):
        opened.page.mouse.move(box["x"] + share * box["width"] * 0.8, box["y"] + share * box["height"])
        opened.page.wait_for_timeout(100)
        if opened.page.locator("#vg-tooltip-element.visible").count():
            break
    text = opened.page.text_content("#vg-tooltip-element.visible")
    assert "layer" in text
    assert "head" in text


def test_on_a_phone_nothing_but_the_table_and_the_figures_scrolls_sideways(browser, made):
    with Opened(browser, made.page, width=360, height=740) as opened:
        opened.draw_all()
        assert opened.page.evaluate("document.documentElement.scrollWidth") == 360
        wide = opened.page.evaluate("""() => [...document.querySelectorAll('main > section, form, figure, header')]
            .filter(it => it.getBoundingClientRect().right > 361).map(it => it.id || it.tagName)""")
        assert wide == []
        name = opened.page.locator("#board tbody th").first
        before = name.bounding_box()["x"]
        opened.page.evaluate("document.getElementById('all').scrollLeft = 400")
        assert name.bounding_box()["x"] <= before  # the names stay while the numbers move
        assert name.bounding_box()["x"] >= 0
        assert opened.complaints == []


def test_dark_and_light_follow_the_system(browser, made):
    with Opened(browser, made.page, scheme="dark") as opened:
        opened.draw_all()
        colour = "getComputedStyle(document.body).backgroundColor"
        picture = "document.querySelector('[data-chart] canvas').toDataURL()"
        dark = opened.page.evaluate(colour), opened.page.evaluate(picture)
        opened.page.emulate_media(color_scheme="light")
        opened.page.wait_for_function(f"was => {picture} !== was", arg=dark[1])
        light = opened.page.evaluate(colour)
        assert (dark[0], light) == ("rgb(22, 22, 22)", "rgb(255, 255, 255)")
        assert opened.complaints == []


@pytest.mark.parametrize("width", [1280, 360])
def test_strange_names_break_nothing(browser, strange, width):
    with Opened(browser, strange.page, width=width) as opened:
        opened.draw_all()
        assert sorted(opened.rows(place=2)) == sorted(labels(strange.board.entries))
        opened.page.locator("#board .more").nth(1).click()
        opened.page.select_option('select[name="ranking"]', f"{STRANGE[2]}.json")
        assert set(opened.rows(place=2)) == {e.label for e in strange.board.entries if STRANGE[2] in e.ranking}
        assert opened.page.evaluate("window.hacked") is None
        assert opened.page.locator("img").count() == 0
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        assert opened.complaints == []
        assert opened.requests == [opened.url]
