"""The page: its numbers are those of the other formats, strange names are text, and nothing is fetched."""

from __future__ import annotations

import base64
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
from sweep_folders import grid, harness_run, sweep

from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.page.provenance import board_command, run_commands
from lm_eval_prune.report.page.render import in_script, render_page
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.records import nested
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
        self.tables, self.scripts, self.elements, self.text, self.summaries = {}, {}, [], [], []
        self._table = self._script = self._cell = None
        self._in_summary = False
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
        elif tag == "summary":
            self._in_summary = True
            self.summaries.append("")
        elif tag == "script":
            self._script = attributes.get("id", f"script {len(self.scripts)}")
            self.scripts[self._script] = ""

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None
        elif tag == "table":
            self._table = None
        elif tag == "summary":
            self._in_summary = False
        elif tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] += data
        else:
            self.text.append(data)
            if self._cell is not None:
                self._cell["text"] += data
            if self._in_summary:
                self.summaries[-1] += data


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


def listed_masks(page):
    """Variant -> its masks as the page has them: (where, what is pruned)."""
    unpacked = json.loads(zlib.decompress(base64.b64decode(page.scripts["masks"])))
    parts = unpacked["parts"]
    lists = [[(where, "; ".join(parts[n] for n in own)) for where, own in masks] for masks in unpacked["masks"]]
    places = [a["data-masks"] for tag, a in page.elements if tag == "details" and "data-masks" in a]
    names = [name.partition(" · ")[0] for name in page.summaries[: len(places)]]
    return {name: lists[int(place)] for name, place in zip(names, places, strict=True)}


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


def test_every_mask_is_listed_at_the_end(folder, page):
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
        (masks,) = (masks for name, masks in listed.items() if name.startswith(str(row.variant._replace(seed=None))))
        seed = "" if row.variant.seed is None else f", seed {row.variant.seed}"
        texts = [
            text
            for where, text in masks
            for place in where.split("; ")
            if re.match(f"(all tasks|.*{row.task}.*?){seed}, ", place) and f"{row.num_fewshot}-shot" in place
        ]
        assert [components(text) for text in texts] == [expected], row
    assert all("dense" not in name for name in listed)


def test_flipped_documents_are_in_the_opened_rows(folder):
    board = compare(read_collection([folder]), BoardConfig(flips=True))
    page = Page(render_page(board, []))
    for (attributes, _), entry in zip(page.tables["board"][1:], board.entries, strict=True):
        about = dict(json.loads(attributes["data-about"]))
        for column in board.columns:
            here = entry.label, column.task, entry.num_fewshot
            flips = [flip for flip in board.flips if (flip.label, flip.task, flip.num_fewshot) == here]
            lost = sorted({flip.doc_id for flip in flips if flip.variant < flip.dense})
            text = about.get(f"{column} flipped", "")
            assert bool(text) == bool(flips)
            if lost and not entry.seeds:
                assert f"lost {', '.join(map(str, lost))}" in text
    assert "flipped" not in render_page(compare(read_collection([folder])), [])


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
    assert {name.partition(" · ")[0] for name in page.summaries} >= {e.label for e in board.entries if not e.is_dense}
    assert {attributes["value"] for tag, attributes in page.elements if attributes.get("type") == "search"} == {
        STRANGE[2]
    }
    assert json.loads(page.scripts["numbers"])["entries"][0]["model"] == STRANGE[0]
    assert "\u2028" not in page.scripts["numbers"]


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
