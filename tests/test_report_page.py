"""The page: its numbers are those of the other formats, strange names are text, and nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser

import pytest
import yaml
from full_grid import full_grid
from sweep_folders import grid, harness_run, sweep

from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.page.provenance import board_command, run_commands
from lm_eval_prune.report.page.render import in_script, render_page
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.records import nested
from lm_eval_prune.sweep.folder import Variant, plan_paths, read_plan

STRANGE = [
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror='window.hacked = 1'>",
    "\"quotes\" & 'apostrophes' {{ 7 * 7 }} {% raw %} <!-- -->",
    "emoji 🦙🧠 \u2028 \u202e right to left",
    "long" * 125,
]


class Page(HTMLParser):
    """The page's tables, scripts and elements, read without the code under test."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tables, self.scripts, self.elements, self.text = {}, {}, [], []
        self._table = self._script = self._cell = None
        self.feed(html)
        self.text = "".join(self.text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "table":
            self._table = self.tables.setdefault(attributes.get("id", len(self.tables)), [])
        elif tag == "tr" and self._table is not None:
            self._table.append((attributes, []))
        elif tag in ("td", "th") and self._table is not None:
            self._cell = {**attributes, "text": ""}
            self._table[-1][1].append(self._cell)
        elif tag == "script":
            self._script = attributes.get("id", f"script {len(self.scripts)}")
            self.scripts[self._script] = ""

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None
        elif tag == "table":
            self._table = None
        elif tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] += data
        else:
            self.text.append(data)
            if self._cell is not None:
                self._cell["text"] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    own = grid(heads=("0.3", "0.7"))
    random = [Variant("random", "0.5", "0", seed=seed) for seed in (0, 1)]
    skip = [(own[1], "copa", 5)]
    oracle = [Variant("own", "0.5", "0.25", oracle=True)]
    folder = tmp_path_factory.mktemp("sweep")
    return sweep(folder, [*own, *random, *oracle], shots=(0, 5), losses={own[1]: 0.5}, skip=skip)


@pytest.fixture(scope="module")
def board(folder):
    return compare(read_collection([folder]))


@pytest.fixture(scope="module")
def page(board):
    return Page(render_page(board, []))


def test_every_number_is_that_of_the_board(board, page):
    heading, *rows = page.tables["board"]
    names = [cell["data-sort"] for cell in heading[1]]
    assert len(rows) == len(board.entries)
    for (_, cells), entry in zip(rows, board.entries, strict=True):
        shown = dict(zip(names, cells, strict=True))
        expected = {
            "heads": entry.prune_heads,
            "ffns": entry.prune_ffns,
            "parameters": entry.parameters_left,
            "flops": entry.flops_left,
            "average": entry.average and entry.average.value,
            **{str(column): column in entry.cells and entry.cells[column].value for column in board.columns},
        }
        for name, value in expected.items():
            shots, _, number = shown[name]["data-order"].split("|")
            assert int(shots) == entry.num_fewshot
            assert (float(number) if number else False) == (float(value) if value is not None else False), name
        assert shown["variant"]["text"].strip() == entry.label
        assert shown["rank"]["text"] == ("–" if entry.rank is None else str(entry.rank))
        assert f"{entry.cost.parameters:,}" in shown["parameters"]["text"]
        for column, cell in entry.cells.items():
            text = shown[str(column)]["text"]
            error = cell.stderr if cell.spread is None else cell.spread
            assert text.startswith(f"{cell.value:.4f} ±{error:.4f}")
            if cell.difference is not None:
                assert f"{cell.difference.value:+.4f}" in text
                assert text.count(cell.verdict) == 1
                assert f"Holm {cell.difference.p_holm:.2g}" in shown[str(column)]["title"]
                assert f"[{cell.difference.low:+.4f}, {cell.difference.high:+.4f}]" in shown[str(column)]["title"]


def test_the_page_holds_the_json_of_the_leaderboard(board, page):
    expected = {key: value for key, value in nested(board).items() if key != "flips"}
    assert json.loads(page.scripts["numbers"]) == json.loads(json.dumps(expected))


def test_warnings_declines_and_oracles_are_there_to_be_seen(board, page):
    assert board.problems
    for problem in board.problems:
        assert problem.message in page.text
    for decline in board.declines:
        assert decline.sentence in page.text
    assert any("oracle" in cells[1]["text"] for _, cells in page.tables["board"][1:])
    assert "missing" in " ".join(cell["text"] for _, cells in page.tables["board"] for cell in cells)


def test_averages_stand_side_by_side(board, page):
    (_, heading), *rows = page.tables["sides"]
    assert [cell["data-sort"] for cell in heading] == ["variant", "0", "5"]
    by_label = {cells[0]["text"].strip(): cells[1:] for _, cells in rows}
    for entry in board.entries:
        number = by_label[entry.label][board.shots.index(entry.num_fewshot)]["data-order"].split("|")[2]
        assert number == ("" if entry.average is None else repr(entry.average.value))


def test_only_the_pages_own_scripts_may_run_and_nothing_may_be_fetched(page):
    (policy,) = (
        attributes["content"]
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    directives = {part.split()[0]: part.split()[1:] for part in policy.split(";")}
    assert directives["default-src"] == directives["connect-src"] == ["'none'"]
    runs = [source for name, source in page.scripts.items() if name.startswith("script ")]
    hashes = [base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in runs]
    assert sorted(directives["script-src"]) == sorted(f"'sha256-{one}'" for one in hashes)
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")


def test_strange_names_are_text(tmp_path):
    variants = [Variant(f"{name}.json", "0.5", "0") for name in STRANGE]
    folder = sweep(tmp_path / "sweep", variants, tasks=STRANGE[:3], shots=(0, 5), count=4, model=STRANGE[0])
    collection = read_collection([folder])
    board = compare(collection)
    html = render_page(board, [], run_commands(board, collection), text=STRANGE[2])
    page = Page(html)
    plain = Page(render_page(compare(read_collection([sweep(tmp_path / "plain", grid(), count=4)])), []))
    assert [tag for tag, _ in page.elements].count("script") == [tag for tag, _ in plain.elements].count("script")
    assert not any(tag == "img" for tag, _ in page.elements)
    assert [cells[1]["text"].strip() for _, cells in page.tables["board"][1:]] == [e.label for e in board.entries]
    assert {attributes["value"] for tag, attributes in page.elements if attributes.get("type") == "search"} == {
        STRANGE[2]
    }
    assert json.loads(page.scripts["numbers"])["entries"][0]["model"] == STRANGE[0]
    assert "\u2028" not in page.scripts["numbers"]


def test_scripts_cannot_end_early():
    source = 'a = "</script><!--"; b = /<\\/SCRIPT/; c = x </d/.source.length'
    assert in_script(source) == 'a = "<\\/script><\\!--"; b = /<\\/SCRIPT/; c = x </d/.source.length'


def test_commands_repeat_what_was_run(folder, tmp_path):
    run = harness_run(tmp_path / "other run", batch_size=16, limit=60, random_seed=0, numpy_seed=1234, torch_seed=1234)
    collection = read_collection([folder, run])
    board = compare(collection, BoardConfig(margin=0.02))
    first, second = run_commands(board, collection)
    settings, command = re.fullmatch(r"cat > sweep.yaml <<'END'\n(.*)END\n(.*)", first.text, re.DOTALL).groups()
    (plan,) = plan_paths(folder)
    assert yaml.safe_load(settings)["tasks"] == read_plan(plan)[0]["config"]["tasks"]
    assert shlex.split(command) == [
        "lm-eval-prune", "sweep", "--config", "sweep.yaml", "--output_path", str(folder),
    ]  # fmt: skip
    name, line = second.text.split("\n", 1)
    assert name == f"# {run.name}"
    assert shlex.split(line.replace("\\\n", "")) == [
        "lm_eval", "run", "--model", "hf", "--model_args", "pretrained=facebook/opt-125m,dtype=float32",
        "--tasks", "piqa,copa", "--num_fewshot", "0", "--batch_size", "16", "--limit", "60",
        "--seed", "0,1234,1234,1234", "--output_path", str(run.parent), "--log_samples",
    ]  # fmt: skip
    assert board_command(["a b"], "out", BoardConfig(margin=0.02, shots=(0, 5))).text == (
        "lm-eval-prune leaderboard 'a b' --output_path out --shots 0,5 --margin 0.02"
    )


@pytest.mark.slow
def test_the_papers_full_grid_stays_below_six_megabytes():
    from lm_eval_prune.report.figures import figures

    board, collection = full_grid()
    made = figures(board, collection)
    assert len(board.entries) == 3 * 60
    assert {"importance-heads-gradient", "combined-own"} <= {figure.name for figure in made}
    html = render_page(board, made, run_commands(board, collection))
    assert len(html.encode()) < 6_000_000
