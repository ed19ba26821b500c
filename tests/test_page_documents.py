"""Documents that flipped, on the page: which, what was asked and answered; escaped, cut, and beside a large page."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode

import pytest
from browser import Opened, chromium
from sweep_folders import asked, grid, pruning, results, samples, sweep

from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.leaderboard import leaderboard
from lm_eval_prune.report.page import documents, render
from lm_eval_prune.report.page.documents import documents_of
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.sweep.folder import cell_path, read_rows, read_samples, write_cell
from lm_eval_prune.variants import Variant

NASTY = "</script><img src=x onerror='window.hacked = 1'>\u202e{{ 7 * 7 }} "
OWN = grid(heads=("0.3", "0.9"))
LOSSES = {OWN[1]: 0.6}
CONFIG = {"model": "hf", "model_args": "pretrained=facebook/opt-125m,dtype=float32", "identity": {"weights": "f00d"}}


def rewritten(folder, change):
    """Every cell with its samples changed."""
    for row in read_rows(folder):
        path = cell_path(folder, row.cell)
        content = json.loads(path.read_text(encoding="utf-8"))
        block = {key: value for key, value in content["cell"].items() if key not in ("samples", "sha256")}
        write_cell(folder, row.cell, {**content, "cell": block}, [change(row, line) for line in read_samples(path)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("sweep"), OWN, shots=(0, 5), losses=LOSSES, text=NASTY)


def test_documents_are_those_whose_outcome_differs(folder):
    board = compare(read_collection([folder]), BoardConfig(flips=True))
    found = documents_of(board)
    assert found.rows
    for place, entry in enumerate(board.entries):
        row = found.rows.get(f"{entry.num_fewshot}:{entry.label}", [])
        for column in board.columns:
            here = (entry.label, column.task, entry.num_fewshot)
            flips = [flip for flip in board.flips if (flip.label, flip.task, flip.num_fewshot) == here]
            (task,) = [task for task in row if task["column"] == str(column)] or [{"lost": 0, "gained": 0, "shown": []}]
            assert task["lost"] == sum(flip.variant < flip.dense for flip in flips)
            assert task["gained"] == sum(flip.variant > flip.dense for flip in flips)
            shown = [one["document"] for one in task["shown"]]
            assert shown == sorted(flip.doc_id for flip in flips)[: len(shown)]
            assert len(shown) == min(len(flips), documents.MOST_SHOWN)
            for one in task["shown"]:
                text = found.texts[one["text"]]
                expected = asked(column.task, one["document"], NASTY.replace("\u202e", "<U+202E>"))
                assert (text["prompt"], text["choices"]) == (expected["prompt"], expected["choices"])
                assert (text["answers"], one["answers"], text["right"]) == ([-1.5, -2.5], [-1.5, -2.5], 0)
        assert place >= 0


def test_files_of_the_harness_show_what_they_hold(tmp_path):
    for name, variant_loss in (("dense", 0.0), ("pruned", 0.7)):
        lines = samples("piqa", 0, name, 60, loss=variant_loss)
        for line in lines:
            pairs = [("Q " + "x" * 5000 + f" {line['doc_id']}", " yes"), ("ignored", " no")]
            line["arguments"] = {f"gen_args_{i}": {"arg_0": a, "arg_1": b} for i, (a, b) in enumerate(pairs)}
            line["filtered_resps"] = (
                [["-0.25", "False"], ["-3.5", "True"]] if name == "dense" else [[-1.0, True], [-2.0, False]]
            )
        _harness_files(tmp_path / name, name, lines)
    board = compare(read_collection([tmp_path / "dense", tmp_path / "pruned"]))
    found = documents_of(board)
    (task,) = next(iter(found.rows.values()))
    text = found.texts[task["shown"][0]["text"]]
    assert text["prompt"].startswith("…")
    assert text["prompt"].endswith(f" {task['shown'][0]['document']}")
    assert len(text["prompt"]) <= 700
    assert text["choices"] == [" yes", " no"]
    assert text["answers"] == ["-0.25", "-3.5"] or text["answers"] == [-0.25, -3.5]


def _harness_files(folder, name, lines):
    folder.mkdir()
    content = results("piqa", 0, lines, config=CONFIG)
    if name != "dense":
        content["pruning"] = pruning(Variant("own", "0.5", "0"))
    (folder / "results_2026-01-01T00-00-00.000001.json").write_text(json.dumps(content))
    text = "".join(json.dumps({**line, "doc": {}, "resps": []}) + "\n" for line in lines)
    (folder / "samples_piqa_2026-01-01T00-00-00.000001.jsonl").write_text(text)


@pytest.mark.parametrize(
    "strange",
    [
        {"prompt": 3, "choices": "none", "target": [1], "filtered_resps": {}},
        {"prompt": None, "choices": [1, None, {}], "target": 10**300, "filtered_resps": [[10**400]]},
        {"prompt": ["x"], "arguments": {"gen_args_0": [3]}, "filtered_resps": [[True], [], None]},
        {"prompt": "\x1b[31mred\x00", "choices": ["\u2028"] * 3, "target": "\u202e", "filtered_resps": [["a"], [[]]]},
    ],
    ids=["kinds", "numbers", "holes", "signs"],
)
def test_anything_in_a_sample_leaves_the_page_whole(strange, tmp_path):
    folder = sweep(tmp_path / "sweep", OWN, ("piqa",), losses=LOSSES, text="")
    rewritten(folder, lambda row, line: {**line, **strange})
    made = leaderboard([folder], tmp_path / "out")
    html = made.page.read_text(encoding="utf-8")
    packed = html.split('id="data-documents">')[1].split("<")[0]
    found = json.loads(zlib.decompress(b64decode(packed)))
    assert found["rows"]
    assert "\x1b" not in json.dumps(found, ensure_ascii=False)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.mark.slow
def test_an_opened_row_shows_them_with_both_log_likelihoods(browser, folder, tmp_path):
    made = leaderboard([folder], tmp_path)
    with Opened(browser, made.page) as opened:
        opened.page.locator("#board .more", has_text=str(OWN[1])).click()
        held = opened.page.locator(".documents details").first
        held.locator("summary").click()
        document = held.locator(".document").first
        assert (
            document.locator("pre")
            .inner_text()
            .startswith("</script><img src=x onerror='window.hacked = 1'><U+202E>{{ 7")
        )
        rows = document.locator("tbody tr").all_inner_texts()
        assert [row.split("\t")[1:] for row in rows] == [["-1.50", "-1.50"], ["-2.50", "-2.50"]]
        assert "(right)" in rows[0]
        assert held.locator(".document").count() <= documents.MOST_SHOWN
        assert opened.page.evaluate("window.hacked") is None
        assert opened.page.locator("img").count() == 0
        assert opened.complaints == []


@pytest.mark.slow
def test_too_many_for_the_page_lie_beside_it(browser, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "MOST_CHARACTERS", 100)
    made = leaderboard([folder], tmp_path)
    beside = [path for path in made.paths if path.parent.name == "documents"]
    assert len(beside) == sum(not entry.is_dense and entry.prune_heads == "0.9" for entry in made.board.entries)
    with Opened(browser, made.page) as opened:
        opened.page.locator("#board .more", has_text=str(OWN[1])).click()
        link = opened.page.locator(".documents a")
        assert (made.page.parent / link.get_attribute("href")) in beside
        link.click()
        opened.page.wait_for_selector(".document pre")
        text = opened.page.locator(".document").first.inner_text()
        assert "<U+202E>{{ 7 * 7 }}" in text
        assert "-1.50" in text
        assert opened.page.evaluate("window.hacked") is None
        assert opened.complaints == []
