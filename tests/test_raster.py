"""Maps of large models as pictures: read back pixel by pixel, by a reader of its own, and drawn in a browser."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Opened, chromium
from sweep_folders import grid, importance, sweep

from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.figures.files import write_figures
from lm_eval_prune.report.figures.raster import ENLARGED, percentiles, png
from lm_eval_prune.report.figures.scores import score_figures
from lm_eval_prune.report.leaderboard import leaderboard
from lm_eval_prune.report.score_sets import score_sets

TASKS = ("a", "b", "c")


def pixels(data):
    """(height, width, 4) of an indexed PNG whose lines have no filter: red, green, blue, opacity."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + content)
        chunks[kind], place = content, place + 12 + size
    assert list(chunks) == [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, width + 1)
    assert (lines[:, 0] == 0).all()
    palette = np.frombuffer(chunks[b"PLTE"], dtype=np.uint8).reshape(-1, 3)
    opacity = np.full(len(palette), 255, dtype=np.uint8)
    opacity[: len(chunks[b"tRNS"])] = list(chunks[b"tRNS"])
    index = lines[:, 1:]
    assert index.max() < len(palette)
    return np.dstack([palette[index], opacity[index]])


def cells(data):
    """(rows, columns, 4): one pixel of each cell, all of whose pixels are alike."""
    found = pixels(data)
    small = found[::ENLARGED, ::ENLARGED]
    assert (np.kron(small, np.ones((ENLARGED, ENLARGED, 1), dtype=np.uint8)) == found).all()
    return small


def test_the_lowest_is_dark_the_highest_bright_and_the_first_row_at_the_bottom():
    levels = np.array([[0.0, 100.0, np.nan], [50.0, 10.0, 90.0]])
    shown = cells(png(levels))
    assert shown.shape == (2, 3, 4)
    assert shown[1, 0].tolist() == [0x44, 0x01, 0x54, 255]
    assert shown[1, 1].tolist() == [0xFD, 0xE7, 0x25, 255]
    assert shown[1, 2, 3] == 0  # no value: the page shows through
    assert shown[0, 0].tolist() == [0x21, 0x91, 0x8C, 255]
    assert shown[0, 1].tolist() == pytest.approx([0x48, 0x24, 0x75, 255], abs=2)
    assert (cells(png(levels, upwards=False)) == shown[::-1]).all()


def test_colours_grow_brighter_with_the_rank():
    shown = cells(png(np.linspace(0, 100, 101)[None]))[0, :, :3].astype(float)
    brightness = shown @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) > 0).all()


@pytest.mark.parametrize("shape", [(3, 4), (64, 72), (1, 1), (2, 1)])
def test_percentiles_count_the_cells_that_are_lower(shape):
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 7, shape).astype(float)
    found = percentiles(scores)
    for place in np.ndindex(shape):
        lower = int((scores < scores[place]).sum())
        assert found[place] == pytest.approx(100 * lower / max(1, scores.size - 1))


def test_cells_without_a_value_do_not_count():
    assert percentiles(np.array([[np.nan, 1.0], [3.0, 2.0]])).tolist()[1] == [100, 50]
    assert np.isnan(percentiles(np.full((2, 2), np.nan))).all()


def scored(layers, heads, tasks=TASKS):
    draw = np.random.default_rng(1)
    return [
        (
            Path(task),
            ImportanceScores.from_tensor(
                torch.tensor(draw.random((layers, heads))),
                num_attention_heads=heads,
                settings={"model": "m", "method": "gradient", "task": task, "num_fewshot": 0},
            ),
        )
        for task in tasks
    ]


def test_maps_of_every_task_of_the_papers_model_are_pictures_of_their_scores(tmp_path):
    tasks = [f"task{number}" for number in range(14)]
    files = scored(64, 72, tasks)
    (found,) = score_sets(files)
    made = {figure.name: figure for figure in score_figures(found, tasks, [0])}
    figure = made["importance-heads-gradient-0shot"]
    rows = figure.chart.to_dict()["data"]["values"]
    assert [row["panel"] for row in rows] == tasks
    for row, (_, scores) in zip(rows, files, strict=True):
        kind, _, text = row["picture"].partition(",")
        assert kind == "data:image/png;base64"
        shown = cells(base64.b64decode(text))[::-1]  # layer 0 at the bottom
        values = np.asarray(scores)
        assert shown.shape[:2] == values.shape == (64, 72)
        brightness = shown[..., :3].astype(float) @ [0.2126, 0.7152, 0.0722]
        order = np.argsort(values, axis=None)
        assert (np.diff(brightness.ravel()[order]) > -1).all()  # parts of a colour are whole numbers
    assert len(str(rows)) < 14 * 14_000  # characters: a few kilobytes a panel, of scores that are noise
    (path,) = write_figures([figure], tmp_path, ("svg",))
    assert path.read_text().count("data:image/png;base64,") == 14


def test_small_models_keep_marks_with_tooltips():
    (found,) = score_sets(scored(4, 4))
    made = {figure.name: figure for figure in score_figures(found, TASKS, [0])}
    rows = made["importance-heads-gradient-0shot"].chart.to_dict()["data"]["values"]
    assert all("value" in row and "picture" not in row for row in rows)


@pytest.mark.slow
def test_pictures_are_drawn_on_the_page_and_ask_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("lm_eval_prune.report.figures.scores.MOST_CELLS", 10)
    folder = sweep(tmp_path / "sweep", grid(("own",)), TASKS, count=10)
    for task in TASKS:
        importance(folder, f"{task}-0shot", "heads", "gradient", task, 0)
    made = leaderboard([folder], tmp_path / "out")
    with chromium() as browser, Opened(browser, made.page) as opened:
        figure = opened.page.locator("#figure-importance-heads-gradient-0shot")
        figure.scroll_into_view_if_needed()
        opened.page.wait_for_selector("#figure-importance-heads-gradient-0shot .drawn canvas", timeout=60_000)
        # The brightest and the darkest colour of the map, counted in what was drawn: 3 heads of each, at least.
        counts = """() => {
            const canvas = document.querySelector('#figure-importance-heads-gradient-0shot canvas');
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            const found = [0, 0], wanted = [[0x44, 0x01, 0x54], [0xfd, 0xe7, 0x25]];
            for (let at = 0; at < data.length; at += 4) wanted.forEach((colour, n) => {
                if (colour.every((part, i) => Math.abs(part - data[at + i]) < 3)) found[n] += 1;
            });
            return found;
        }"""
        opened.page.wait_for_function(f"() => ({counts})().every((number) => number >= 12)", timeout=30_000)
        assert opened.complaints == []
        assert [url for url in opened.requests if not url.startswith("data:")] == [opened.url]
