"""The page: its numbers are those of the other formats, strange names are text, and nothing is fetched."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shlex
import time
import zlib
from html.parser import HTMLParser

import pytest
import yaml
from full_grid import full_grid
from sweep_folders import HEADS, LAYERS, grid, harness_run, sweep

from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.page.provenance import board_command, run_commands
from lm_eval_prune.report.page.render import render_page
from lm_eval_prune.report.page.templates import in_script
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.tables import write_tables
from lm_eval_prune.sweep.folder import cell_path, plan_paths, read_cell, read_plan, read_rows
from lm_eval_prune.variants import Variant

STRANGE = [
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror='window.hacked = 1'>",
    "\"quotes\" & 'apostrophes' {{ 7 * 7 }} {% raw %} <!-- -->",
    "emoji 🦙🧠 \u2028 \u202e right to left \x1b[31m",
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


def unpacked(page, name):
    """What the page's scripts read, unpacked without the code under test."""
    return json.loads(zlib.decompress(base64.b64decode(page.scripts[f"data-{name}"])))


def test_every_number_is_that_of_the_board(board, page):
    table = unpacked(page, "table")
    assert [column["name"] for column in table["columns"]] == [board.average_name, *map(str, board.columns)]
    assert len(table["rows"]) == len(board.entries)
    for row, entry in zip(table["rows"], board.entries, strict=True):
        assert (row["label"], row["rank"], row["shots"]) == (entry.label, entry.rank, entry.num_fewshot)
        assert row["n"] == sum(cell.num_documents for cell in entry.cells.values())
        left = {name: shown["order"] for name, shown in row["left"].items()}
        assert left == {
            "parameters": entry.parameters_left,
            "flops": entry.flops_left,
            "heads": pytest.approx(1 - float(entry.prune_heads)),
            "ffns": pytest.approx(1 - float(entry.prune_ffns)),
        }
        assert f"{entry.cost.parameters:,} of {entry.cost.parameters_total:,}" == row["left"]["parameters"]["explained"]
        assert row["cells"][0]["order"] == (entry.average and entry.average.value)
        for column, shown in zip(board.columns, row["cells"][1:], strict=True):
            if column not in entry.cells:
                assert (shown["order"], shown["text"]) == (None, "missing")
                continue
            cell = entry.cells[column]
            assert shown["order"] == cell.value
            assert float(shown["text"]) == pytest.approx(cell.value, abs=0.005)
            if cell.difference is not None:
                assert shown["verdict"] == cell.verdict
                assert float(shown["difference"]) == pytest.approx(cell.difference.value, abs=0.005)
                assert f"Holm {cell.difference.p_holm:.2g}" in shown["explained"]


def test_what_is_saved_has_the_names_and_numbers_of_the_csv(folder, tmp_path):
    board = compare(read_collection([folder]))
    table = unpacked(Page(render_page(board, [])), "table")
    write_tables(board, tmp_path)
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert table["keys"] == header
    assert [["" if value is None else str(value) for value in row] for row in table["records"]] == lines


def test_warnings_declines_and_oracles_are_there_to_be_seen(board, page):
    assert board.problems
    for problem in board.problems:
        assert problem.message in page.text
    for decline in board.declines:
        assert decline.sentence in page.text
    rows = unpacked(page, "table")["rows"]
    assert any("oracle" in row["label"] for row in rows)
    assert any(cell["text"] == "missing" for row in rows for cell in row["cells"])


def listed_masks(page):
    """Row -> its masks as the page has them: (where, what is pruned)."""
    data = unpacked(page, "masks")
    return {
        row: [(where, "; ".join(data["parts"][n] for n in own)) for where, own, *_ in masks]
        for row, masks in data["rows"].items()
    }


def components(text):
    """Pruned heads as (layer, head) and pruned FFNs, of a text such as `heads 0: 1, 3-4 | 2: 0; FFNs 5`."""

    def numbers(listed):
        ends = [part.split("-") for part in listed.split(", ")]
        return [number for pair in ends for number in range(int(pair[0]), int(pair[-1]) + 1)]

    heads, ffns = re.fullmatch(r"(?:heads ([^;]*))?(?:; )?(?:FFNs (.*))?", text).groups()
    layers = [part.split(": ") for part in heads.split(" | ")] if heads else []
    return {(int(layer), head) for layer, found in layers for head in numbers(found)}, set(
        numbers(ffns) if ffns else ()
    )


def test_every_mask_is_there_for_its_row(folder, page):
    listed = listed_masks(page)
    for row in read_rows(folder):
        path = cell_path(folder, row.cell)
        if row.variant.ranking == "dense" or not path.exists():
            continue
        mask = read_cell(path)["pruning"]["mask"]
        expected = (
            {(int(layer), head) for layer, heads in mask["pruned_heads"].items() for head in heads},
            set(mask["pruned_ffns"]),
        )
        label = f"{row.num_fewshot}:{row.variant._replace(seed=None)}"
        (masks,) = (masks for name, masks in listed.items() if name.startswith(label))
        seed = "" if row.variant.seed is None else f", seed {row.variant.seed}"
        texts = [text for where, text in masks if re.fullmatch(f"(all tasks|.*{row.task}.*?){seed}", where)]
        assert [components(text) for text in texts] == [expected], row
    assert all("dense" not in name for name in listed)
    shapes = {tuple(mask[2:]) for masks in unpacked(page, "masks")["rows"].values() for mask in masks}
    assert shapes == {(LAYERS, HEADS)}


def test_only_the_pages_own_scripts_may_run_and_nothing_may_be_fetched(page):
    (policy,) = (
        attributes["content"]
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    directives = {part.split()[0]: part.split()[1:] for part in policy.split(";")}
    assert directives["default-src"] == directives["connect-src"] == ["'none'"]
    runs = [source for name, source in page.scripts.items() if name.startswith("script ")]
    assert len(runs) == 1
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
    rows = unpacked(page, "table")["rows"]
    assert [row["label"] for row in rows] == [entry.label for entry in board.entries]
    assert {row["model"] for row in rows} == {STRANGE[0]}
    assert json.loads(page.scripts["opening"])["text"] == STRANGE[2]
    assert "<" not in page.scripts["opening"]


def test_scripts_cannot_end_early():
    source = 'a = "</script><!--"; b = /<\\/SCRIPT/; c = x </d/.source.length'
    assert in_script(source) == 'a = "<\\/script><\\!--"; b = /<\\/SCRIPT/; c = x </d/.source.length'


@pytest.mark.parametrize("text", ["END" + "_" * 2_000_000, "END\nEND_\nrm -rf", "END"], ids=["long", "lines", "short"])
def test_nothing_in_a_sweeps_settings_ends_its_file_early(text, tmp_path):
    folder = sweep(tmp_path / "sweep", grid(heads=("0.3",)), ("piqa",), count=10)
    (path,) = plan_paths(folder)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "config": {**content["config"], "model_args": text}}))
    collection = read_collection([folder])
    start = time.process_time()
    (command,) = run_commands(compare(collection), collection)
    assert time.process_time() - start < 5
    marker, settings = re.fullmatch(r"cat > sweep.yaml <<'(END_*)'\n(.*?)\n\1\n.*", command.text, re.DOTALL).groups()
    assert marker not in settings.split("\n")
    assert yaml.safe_load(settings)["model_args"].split() == text.split()


def test_commands_repeat_what_was_run(folder, tmp_path):
    run = harness_run(tmp_path / "other run", batch_size=16, limit=60, random_seed=0, numpy_seed=1234, torch_seed=1234)
    collection = read_collection([folder, run])
    board = compare(collection, BoardConfig(margin=0.02))
    first, second = run_commands(board, collection)
    settings, command = re.fullmatch(r"cat > sweep.yaml <<'END'\n(.*)END\n(.*)", first.text, re.DOTALL).groups()
    (plan,) = plan_paths(folder)
    assert yaml.safe_load(settings)["tasks"] == read_plan(plan).config["tasks"]
    assert shlex.split(command.replace("\\\n", "")) == [  # a long folder is broken over lines
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
    maps = {f"importance-heads-gradient-{shots}shot" for shots in (0, 1, 5)}  # 14 tasks x 64 x 72 heads each
    assert {"importance-heads-gradient", "combined-own", *maps} <= {figure.name for figure in made}
    html = render_page(board, made, run_commands(board, collection))
    assert len(html.encode()) < 6_000_000
