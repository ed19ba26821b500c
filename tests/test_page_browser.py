"""The page in Chromium: sorted, filtered, read with the keyboard, on a phone, in the dark, and asking for nothing."""

from __future__ import annotations

import csv
import re

import pytest
from browser import Opened, axe_source, chromium
from full_grid import full_grid
from sweep_folders import HEADS, LAYERS, grid, importance, sweep
from test_report_page import STRANGE, components

from lm_eval_prune.report.leaderboard import leaderboard
from lm_eval_prune.report.page.render import write_page
from lm_eval_prune.variants import Variant

pytestmark = pytest.mark.slow

OWN = grid(("own", "aggregate"), heads=("0.3", "0.5", "0.9"))
FOCUSED = """() => {
    const it = document.activeElement, both = [it, it.closest('.segments') || it].map(one => getComputedStyle(one));
    const seen = both.some(style => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0);
    const name = it === document.body ? 'BODY' : it.name || it.id || it.className || it.tagName;
    return [name, it.closest('th')?.dataset.sort || it.ariaLabel || '', seen];
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
    sweep(folder, variants, tasks=("piqa", "copa", "rte"), shots=(0, 5), losses=losses, count=40, skip=skip, text="")
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


def labels(entries):
    return [entry.label for entry in entries]


def at(made, *shots):
    return [entry for entry in made.board.entries if entry.num_fewshot in shots]


def by_value(made, name, direction, shots=(5,)):
    """Labels sorted by a column within each number of shots, missing values last, otherwise in order of rank."""

    def value(entry):
        return next((cell.value for column, cell in entry.cells.items() if str(column) == name), None)

    found = []
    for number in shots:
        entries = at(made, number)
        there = sorted((e for e in entries if value(e) is not None), key=lambda e: direction * value(e))
        found += labels(there) + labels(e for e in entries if value(e) is None)
    return found


def number(text):
    """A cell of a CSV file; programs write the same small number in several ways."""
    try:
        return float(text)
    except ValueError:
        return text


def test_it_opens_at_the_most_shots_ranked_by_the_average_with_one_column_of_costs(opened, made):
    assert opened.rows() == labels(at(made, 5))
    assert opened.columns()[:5] == ["rank", "variant", "average", "parameters", "n"]
    assert opened.page.get_attribute('#board th[data-sort="rank"]', "aria-sort") == "ascending"
    assert opened.page.evaluate("location.hash") == ""
    assert opened.rows("n") == [str(sum(c.num_documents for c in entry.cells.values())) for entry in at(made, 5)]


def test_columns_sort_by_click_best_first_and_the_other_way(opened, made):
    opened.page.check('input[name="shots"][value=""]', force=True)
    for direction, aria in ((-1, "descending"), (1, "ascending")):
        opened.sort("copa acc")
        assert opened.rows() == by_value(made, "copa acc", direction, shots=(0, 5))
        assert opened.page.get_attribute('#board th[data-sort="copa acc"]', "aria-sort") == aria
    assert opened.page.locator("#board [aria-sort]").count() == 1
    opened.sort("parameters")
    smallest = min(entry.parameters_left for entry in made.board.entries)
    assert opened.rows("parameters")[:2] == [f"{100 * smallest:.1f} %"] * 2
    opened.sort("variant")
    assert opened.rows() == [*sorted(labels(at(made, 0))), *sorted(labels(at(made, 5)))]


def test_filters_are_those_of_the_command(opened, made):
    page, entries = opened.page, made.board.entries
    page.select_option('select[name="ranking"]', "aggregate")
    assert opened.rows() == labels(e for e in at(made, 5) if e.ranking == "aggregate")
    page.check('input[name="shots"][value=""]', force=True)
    page.select_option('select[name="ranking"]', "")
    page.fill('input[name="text"]', "OWN  5-shot worse")
    worse = [e for e in entries if e.ranking == "own" and e.num_fewshot == 5]
    worse = [e for e in worse if any(cell.verdict == "worse" for cell in e.cells.values())]
    assert worse
    assert opened.rows() == labels(worse)
    assert page.text_content("#count") == f"{len(worse)} of {len(entries)} rows"
    page.fill('input[name="text"]', "nothing of the kind")
    assert page.text_content("#board tbody") == "No row fits these filters"


def test_shots_stand_side_by_side(opened, made):
    opened.page.check('input[name="shots"][value="beside"]', force=True)
    assert sorted(opened.rows()) == sorted({entry.label for entry in made.board.entries})
    opened.sort("shots 5")
    averages = [e.average.value for e in at(made, 5) if e.average is not None]
    assert [float(text) for text in opened.rows("shots 5")[: len(averages)]] == pytest.approx(
        sorted(averages), abs=5e-3
    )
    opened.sort("shots 5")
    assert opened.rows("shots 5")[-1] == "missing"


def test_the_page_opens_as_the_command_was_asked(browser, made, tmp_path):
    (source,) = {run.source for entry in made.board.entries for run in entry.runs}
    again = leaderboard([source], tmp_path, sort="rte", text="own")
    with Opened(browser, again.page) as opened:
        assert opened.rows() == [label for label in by_value(made, "rte acc", -1) if "own" in label]


def test_costs_are_one_column_with_a_switch_and_columns_can_be_chosen(opened, made):
    page = opened.page
    page.select_option('select[name="left"]', "heads")
    assert opened.columns()[3] == "heads"
    assert opened.rows("heads") == [f"{100 - 100 * float(e.prune_heads):g} %" for e in at(made, 5)]
    page.select_option('select[name="left"]', "all")
    assert opened.columns()[3:7] == ["parameters", "flops", "heads", "ffns"]
    page.click(".menu summary")
    page.uncheck('input[name="column"][value="copa acc"]')
    page.uncheck('input[name="column"][value="n"]')
    assert not {"copa acc", "n"} & set(opened.columns())
    page.check('input[name="column"][value="copa acc"]')
    assert "copa acc" in opened.columns()


def test_what_is_looked_at_is_in_the_address(browser, opened, made):
    page = opened.page
    page.check('input[name="shots"][value=""]', force=True)
    page.select_option('select[name="ranking"]', "own")
    page.select_option('select[name="left"]', "ffns")
    page.fill('input[name="text"]', "heads")
    page.click(".menu summary")
    page.uncheck('input[name="column"][value="rte acc"]')
    page.check('input[name="p"]')
    page.keyboard.press("Escape")
    assert not page.is_visible("#columns")
    opened.sort("piqa acc")
    opened.page.locator("#board .more").nth(1).click()
    fragment = page.evaluate("location.hash")
    with Opened(browser, made.page, fragment=fragment) as again:
        for column in ("variant", "piqa acc", "ffns"):
            assert again.rows(column) == opened.rows(column)
        assert again.columns() == opened.columns()
        assert again.page.locator("#board .details").count() == 1
        assert again.page.evaluate("location.hash") == fragment
        assert again.page.is_checked('input[name="p"]')
        assert again.page.input_value('select[name="ranking"]') == "own"
        assert again.complaints == []
    page.click('nav.parts a[href="#run"]')  # to a part of the page, and the address stays
    assert page.evaluate("location.hash") == fragment


@pytest.mark.parametrize(
    "fragment",
    [
        "#shots=7&ranking=none&left=x&page=0&sort=nothing&direction=up", "#open=a&compare=b&hide=%ff&p=1", "#run",
        "#" + "x=1&" * 9999,
    ],
    ids=["values", "lists", "anchor", "long"],
)  # fmt: skip
def test_addresses_that_name_nothing_open_the_page_as_it_is(browser, made, fragment):
    with Opened(browser, made.page, fragment=fragment) as opened:
        assert opened.rows() == labels(at(made, 5))
        assert opened.complaints == []


def test_everything_is_reached_and_worked_with_the_keyboard(opened, made):
    page, reached = opened.page, []
    page.evaluate("document.body.focus()")
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    names = [name for name, _, _ in reached]
    assert {"shots", "ranking", "text", "left", "csv", "latex", "more", "compare"} <= set(names)
    sortable = [sort for name, sort, _ in reached if name == "sort"]
    assert set(sortable) >= {"rank", "variant", "average", *map(str, made.board.columns)}
    assert [name for name, _, seen in reached if not seen and name != "BODY"] == []
    for key, direction in (("Enter", -1), (" ", 1)):
        page.focus('#board th[data-sort="piqa acc"] .sort')
        page.keyboard.press(key)
        assert opened.rows() == by_value(made, "piqa acc", direction)
        assert page.evaluate("document.activeElement.closest('th').dataset.sort") == "piqa acc"  # the focus stays


def test_a_row_opens_with_every_number_in_full_and_its_masks(opened, made):
    entry = next(entry for entry in at(made, 5) if entry.ranking == "own" and len(entry.cells) == 3)
    button = opened.page.locator("#board .more", has_text=entry.label).first
    button.focus()
    opened.page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    text = opened.page.text_content("#board .details")
    for column, cell in entry.cells.items():
        assert str(column) in text
        assert f"Holm {cell.difference.p_holm:.2g}" in text
    pictures = opened.page.locator("#board .details canvas")
    pictures.first.wait_for()
    assert pictures.count() == len({run.mask for run in entry.runs})
    texts = opened.page.locator("#board .details .listing").all_text_contents()
    assert set(texts) == {run.mask for run in entry.runs}
    opened.page.keyboard.press("Enter")
    assert opened.page.locator("#board .details").count() == 0


def test_pictures_of_masks_are_dark_where_something_is_pruned(opened, made):
    entry = next(entry for entry in at(made, 5) if entry.ranking == "aggregate")
    opened.page.locator("#board .more", has_text=entry.label).first.click()
    picture = opened.page.locator("#board .details canvas").first
    picture.wait_for()
    dark = picture.evaluate(
        """(canvas, [layers, heads]) => {
            const side = canvas.height / layers, found = [];
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            for (let layer = 0; layer < layers; layer += 1) for (let head = 0; head < heads; head += 1) {
                const [x, y] = [Math.floor((head + 0.3) * side), Math.floor((layer + 0.3) * side)];
                if (data[4 * (y * canvas.width + x)] < 100) found.push([layer, head]);
            }
            return found;
        }""",
        [LAYERS, HEADS],
    )
    (mask,) = {run.mask for run in entry.runs}
    assert {tuple(place) for place in dark} == components(mask)[0]


def test_differences_and_p_values_are_shown_on_demand(opened):
    page = opened.page
    assert page.locator("#board .difference").first.is_visible()
    assert not page.locator("#board .p").first.is_visible()
    page.click(".menu summary")
    page.check('input[name="p"]')
    page.uncheck('input[name="differences"]')
    assert not page.locator("#board .difference").first.is_visible()
    assert page.locator("#board .p").first.is_visible()


def test_what_is_shown_is_saved_as_csv_with_the_numbers_of_the_files(opened, made):
    opened.page.select_option('select[name="ranking"]', "own")
    opened.page.click(".menu summary")
    opened.page.uncheck('input[name="column"][value="rte acc"]')
    opened.page.mouse.click(5, 5)
    opened.sort("piqa acc")
    shown = list(csv.DictReader(opened.saved("#csv").splitlines()))
    assert [row["variant"] for row in shown] == opened.rows()
    assert not [name for name in shown[0] if name.startswith("rte acc")]
    (path,) = (path for path in made.paths if path.name == "leaderboard.csv")
    whole = {(row["variant"], row["num_fewshot"]): row for row in csv.DictReader(path.read_text().splitlines())}
    for row in shown:
        of_file = whole[row["variant"], "5"]
        assert {name: number(text) for name, text in row.items()} == {name: number(of_file[name]) for name in row}
        assert {"piqa acc", "piqa acc difference low", "average acc", "parameters_left"} <= row.keys()


def test_what_is_shown_is_saved_as_latex(opened, made):
    text = opened.saved("#latex")
    lines = text.splitlines()
    assert lines[1].startswith(r"\begin{tabular}{rlrrrr")
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert len(body) == len(at(made, 5))
    assert {line.count(" & ") for line in body} == {len(opened.columns()) - 1}
    assert not re.search(r"(?<!\\)[%_#]", text.partition("\n")[2])


def test_large_tables_have_pages_of_forty_rows(browser, tmp_path):
    board, _ = full_grid()
    (page,) = write_page(tmp_path, board, [], [])
    with Opened(browser, page) as opened:
        ranked = labels(entry for entry in board.entries if entry.num_fewshot == 5)
        assert opened.rows() == ranked[:40]
        assert opened.page.text_content("#count") == "60 of 180 rows; here 1 to 40"
        opened.page.click("#on")
        assert opened.rows() == ranked[40:]
        assert opened.page.is_disabled("#on")
        assert "page=2" in opened.page.evaluate("location.hash")
        opened.page.emulate_media(media="print")
        opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert opened.rows() == ranked  # paper has no pages to turn to
        opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
        opened.page.emulate_media(media="screen")
        opened.page.click("#back")
        assert opened.rows() == ranked[:40]
        top = opened.page.locator("#board thead th").first
        opened.page.evaluate("document.querySelectorAll('#board tbody tr')[20].scrollIntoView()")
        opened.page.wait_for_timeout(200)
        assert abs(top.bounding_box()["y"]) < 2  # the head stays in sight
        assert opened.complaints == []


def test_figures_are_drawn_and_have_tooltips(opened):
    assert opened.page.locator("[data-chart].drawn").count() < opened.page.locator("[data-chart]").count() / 2
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


def test_on_a_phone_rows_are_cards_with_what_matters_on_the_first_screen(browser, made):
    with Opened(browser, made.page, width=390, height=844) as opened:
        entry = at(made, 5)[1]
        card = opened.page.locator("#board tbody tr").nth(1)
        box = card.bounding_box()
        assert box["y"] + box["height"] < 844
        text = card.inner_text()
        for part in (entry.label, f"{100 * entry.parameters_left:.1f} %", "parameters left"):
            assert part in text
        average = card.locator(".average")
        assert float(average.locator("b").inner_text()) == pytest.approx(entry.average.value, abs=5e-3)
        assert average.locator(".difference").is_visible()
        assert not card.locator("td.value:not(.average)").first.is_visible()
        opened.page.click("#more")
        opened.page.select_option('select[name="sort"]', "piqa acc")
        assert opened.rows() == by_value(made, "piqa acc", -1)
        opened.page.locator("#board .more").first.click()
        assert opened.page.locator("#board tbody tr").first.locator("td.value:not(.average)").first.is_visible()


@pytest.mark.parametrize("width", [390, 360])
def test_on_a_phone_nothing_but_the_figures_scrolls_sideways(browser, made, width):
    with Opened(browser, made.page, width=width, height=740) as opened:
        opened.draw_all()
        opened.page.locator("#board .more").nth(1).click()
        opened.page.click("#more")
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        wide = opened.page.evaluate("""() => {
            const all = document.querySelectorAll('main > section, form, figure, header, #board tbody tr');
            const beyond = it => it.getBoundingClientRect().right > innerWidth + 1;
            return [...all].filter(beyond).map(it => it.id || it.tagName);
        }""")
        assert wide == []
        assert opened.complaints == []


def test_names_stay_while_numbers_move(browser, made):
    with Opened(browser, made.page, width=700) as opened:
        name = opened.page.locator("#board tbody th").first
        before = name.bounding_box()["x"]
        opened.page.evaluate("document.getElementById('all').scrollLeft = 400")
        assert 0 <= name.bounding_box()["x"] <= before


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
        opened.page.check('input[name="shots"][value=""]', force=True)
        assert sorted(opened.rows()) == sorted(labels(strange.board.entries))
        opened.page.locator("#board .more").nth(1).click()
        opened.page.evaluate("document.getElementById('controls').classList.add('all')")
        opened.page.select_option('select[name="ranking"]', f"{STRANGE[2]}.json")
        assert set(opened.rows()) == {e.label for e in strange.board.entries if STRANGE[2] in e.ranking}
        assert opened.page.evaluate("window.hacked") is None
        assert opened.page.locator("img").count() == 0
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        assert opened.complaints == []
        assert opened.requests == [opened.url]


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    return axe_source(tmp_path_factory.mktemp("axe"))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_axe_finds_no_serious_fault(browser, made, axe, width, scheme):
    with Opened(browser, made.page, width=width, height=900, scheme=scheme) as opened:
        page = opened.page
        page.evaluate("document.getElementById('controls').classList.add('all')")
        for row in at(made, 5)[1:3]:
            page.check(f'#board input[value="5:{row.label}"]')
        page.wait_for_selector("#compared")
        worst = next(entry for entry in at(made, 5) if entry.average and entry.average.verdict == "worse")
        page.locator("#board .more", has_text=worst.label).click()
        page.wait_for_selector("#board canvas")
        page.locator(".documents summary").first.click()
        page.click(".menu summary")
        opened.draw_all()
        page.evaluate(axe)
        found = page.evaluate("""async () => {
            const { violations, passes } = await axe.run(document, { resultTypes: ['violations'] });
            const grave = violations.filter(one => ['serious', 'critical'].includes(one.impact));
            const where = one => one.nodes.slice(0, 3).map(node => node.html.slice(0, 200) + node.failureSummary);
            return { passes: passes.length, faults: grave.map(one => [one.id, where(one)]) };
        }""")
        assert found["passes"] > 20
        assert found["faults"] == []
