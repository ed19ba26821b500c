"""Deciding sweeps: cells grow until a question is answered, whoever computes them and however often they stop."""

from __future__ import annotations

import io
import itertools
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from rich.console import Console

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.harness import cells as harness_cells
from lm_eval_prune.report.areas import areas
from lm_eval_prune.report.board import VERDICTS
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.findings import decline_note, decline_rows, findings
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.terminal import print_board
from lm_eval_prune.sequential import looks
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep import ray_executor, setup
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.sweep.run import run_sweep, run_sweeps
from tests import processes, sweep_folders
from tests.small_sweep import cells, leftovers, samples, settings

GRID = {"num_fewshot": [1], "prune_heads": ["0", "0.1", "0.3", "0.6", "0.9"], "ranking": ["random:0"], "limit": 50}
LOOKS = 3
"""Of two tasks of so many documents; smaller sweeps here have as many by force."""

CHANGED = {*GRID, "decide", "margin"}


@pytest.fixture(autouse=True)
def _few_looks(monkeypatch):
    monkeypatch.setattr(setup, "looks_for", lambda documents: LOOKS)


def decided(folder, **changes):
    return settings(folder, **{**GRID, "decide": "walk", "margin": 0.1, **changes})


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixed") / "sweep"
    run_sweep(settings(folder, **GRID), progress=False)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Every row decided, by one process without interruption."""
    folder = tmp_path_factory.mktemp("rows") / "sweep"
    run_sweep(decided(folder, decide="rows"), progress=False)
    return folder


def same(folder, whole):
    assert cells(folder) == cells(whole)
    assert samples(folder) == samples(whole)
    assert leftovers(folder) == []


def blocks(folder):
    """(task, heads pruned) -> the cell's content."""
    found = [disk.read_cell(path) for path in (folder / "cells").glob("*.json")]
    return {(next(iter(one["results"])), one["pruning"]["heads_pruned"]): one for one in found}


def cell_of(folder, task, heads):
    """The path of a task's cell with so many heads pruned."""
    paths = {path: disk.read_cell(path) for path in (folder / "cells").glob("*.json")}
    own = [(path, one["pruning"]["heads_pruned"]) for path, one in paths.items() if task in one["results"]]
    (found,) = [path for path, pruned in own if pruned == heads]
    return found


def by_id(lines):
    return {line["doc_id"]: line for line in lines}


@pytest.fixture
def asked(monkeypatch):
    """Documents that a model was asked about, one entry for each mask."""
    found = []
    original = harness_cells.packed.answers_under
    trie_of = harness_cells.packed.trie_of

    def noted(lm, trie, masks, progress):
        found.extend((task, mask.num_pruned_heads, number) for mask in masks for task, number in tries[id(trie)])
        return original(lm, trie, masks, progress)

    tries, kept = {}, []

    def made(lm, instances):
        trie = trie_of(lm, instances)
        kept.append(trie)
        tries[id(trie)] = sorted({(one.task_name, one.doc_id) for one in instances})
        return trie

    monkeypatch.setattr(harness_cells.packed, "answers_under", noted)
    monkeypatch.setattr(harness_cells.packed, "trie_of", made)
    return found


def test_cells_grow_and_those_with_all_documents_are_those_of_a_sweep_without_deciding(asked, tmp_path, fixed):
    run_sweep(decided(tmp_path / "sweep", decide="rows"), progress=False)
    assert len(asked) == len(set(asked))  # no document twice
    whole = blocks(fixed)
    found = blocks(tmp_path / "sweep")
    assert found.keys() == whole.keys()
    grown = [key for key, one in found.items() if one["cell"]["decide"]["documents"] == GRID["limit"]]
    assert grown
    for key in grown:
        task = key[0]
        assert found[key]["results"][task] == whole[key]["results"][task]
        assert found[key]["n-samples"] == whole[key]["n-samples"]
    for (task, _), one in found.items():
        block = one["cell"]["decide"]
        number = block["documents"]
        assert number == math.ceil(GRID["limit"] * 2.0 ** (block["look"] + 1 - LOOKS))
        assert block["planned"] == GRID["limit"]
        assert one["n-samples"][task]["effective"] == number
    assert not leftovers(tmp_path / "sweep")


def test_a_walk_ends_at_the_first_share_that_is_not_within_the_margin(tmp_path):
    said = []
    run_sweep(decided(tmp_path / "sweep"), progress=False, say=said.append)
    found = blocks(tmp_path / "sweep")
    by_share = {}
    for (_, heads), one in found.items():
        by_share.setdefault(heads, set()).add(one["cell"]["decide"]["look"])
    shares = sorted(by_share)
    assert all(len(looks_of) == 1 for looks_of in by_share.values())
    assert Sweep(tmp_path / "sweep").status().missing == 0
    assert by_share[shares[-1]] == {0}  # the walk has ended before
    assert max(by_share[0]) == max(max(of) for of in by_share.values())  # the dense model is there for all
    # What is said of a cell is of its own documents, however many the dense model has.
    lines = disk.read_samples(cell_of(tmp_path / "sweep", "demo_recall", shares[-1]))
    dense = by_id(disk.read_samples(cell_of(tmp_path / "sweep", "demo_recall", 0)))
    own, there = (sum(of[line["doc_id"]]["acc"] for line in lines) / len(lines) for of in (by_id(lines), dense))
    (line,) = [one for one in said if "heads 0.9, FFNs 0 on demo_recall" in one]
    assert line.endswith(f"1-shot, 13 documents: acc {own:.4f} ({own - there:+.4f} to dense)")
    assert len(dense) > len(lines) == 13


@pytest.mark.parametrize(
    "mode", [pytest.param("walk", marks=pytest.mark.slow), pytest.param("halving", marks=pytest.mark.slow), "rows"]
)
def test_stopped_anywhere_and_started_again_it_ends_with_the_same_cells(tmp_path, mode, request):
    whole = request.getfixturevalue("rows") if mode == "rows" else tmp_path / "whole"
    run_sweep(decided(whole, decide=mode), progress=False)

    class StopError(Exception):
        pass

    def stopping(after):
        left = [after]

        def say(line):
            left[0] -= 1
            if not left[0]:
                raise StopError

        return say

    for after in (1, 2, 3, 5):
        with pytest.raises(StopError):
            run_sweep(decided(tmp_path / "parts", decide=mode, masks_at_once=2), progress=False, say=stopping(after))
    run_sweep(decided(tmp_path / "parts", decide=mode, masks_at_once=3), progress=False)
    same(tmp_path / "parts", whole)


@pytest.mark.slow
def test_four_processes_two_of_which_are_killed_end_with_the_cells_of_one(tmp_path, rows):
    folder, forking = tmp_path / "robbed", Path(__file__).parent / "forking_sweeps.py"
    changes = decided(folder, decide="rows").model_dump(mode="json", include=CHANGED)
    done = processes.run(forking, folder, torch.get_num_threads(), "robbed", json.dumps(changes), timeout=600)
    assert done.returncode == 0, done.stderr
    same(folder, rows)


def test_batches_that_travel_end_with_the_cells_of_one_process(tmp_path, rows):
    """As on Ray: a worker that never sees the folder, and jobs and outcomes that are copied on their way."""
    config = decided(tmp_path / "sent", decide="rows")
    worker = ray_executor._Worker(config.model_dump(mode="json"), str(tmp_path / "not there"))

    class Sent:
        def __init__(self):
            self.jobs = []

        def free(self):
            return int(not self.jobs)

        def start(self, job):
            self.jobs.append(pickle.loads(pickle.dumps(job)))

        def outcomes(self):
            yield from pickle.loads(pickle.dumps(worker.run(self.jobs.pop())))

    executor = Sent()
    run_sweeps([config], progress=False, executor=executor)
    assert not executor.jobs
    same(config.output_path, rows)


def test_a_raised_limit_grows_what_is_not_answered_and_asks_nothing_twice(tmp_path, asked):
    folder = tmp_path / "sweep"
    run_sweep(decided(folder, limit=20, decide="rows"), progress=False)
    before = blocks(folder)
    with pytest.raises(ArgumentError, match=r"decided with limit=20, now 10: fewer; give another --output_path"):
        run_sweep(decided(folder, limit=10, decide="rows"), progress=False)
    run_sweep(decided(folder, limit=40, decide="rows"), progress=False)
    assert len(asked) == len(set(asked))
    found = blocks(folder)
    assert found.keys() == before.keys()
    more = [key for key in found if found[key]["cell"]["decide"]["documents"] > 20]
    assert more
    planned = looks(LOOKS, 2)
    for key in more:
        assert found[key]["cell"]["decide"]["z"] == pytest.approx(planned[found[key]["cell"]["decide"]["look"]].z)
        assert found[key]["cell"]["decide"]["look"] >= LOOKS


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"decide": "rows"}, "decide=walk, now rows"),
        ({"margin": 0.02}, "margin=0.1, now 0.02"),
        ({"seed": 7}, "seed=1234, now 7"),
    ],
)
def test_one_folder_is_decided_in_one_way(tmp_path, change, told):
    small = {"tasks": ["demo_recall"], "prune_heads": ["0", "0.9"], "limit": 4}
    run_sweep(decided(tmp_path / "sweep", **small), progress=False)
    with pytest.raises(ArgumentError, match=told):
        run_sweep(decided(tmp_path / "sweep", **small, **change), progress=False)


def test_the_board_judges_each_row_at_its_look_and_says_so(rows, fixed):
    folder = rows
    board = compare(read_collection([folder]))
    assert not board.problems
    planned = looks(LOOKS)
    for entry in board.entries:
        for column, cell in entry.cells.items():
            own = blocks(folder)[column.task, entry.cost.heads_pruned]["cell"]["decide"]
            assert cell.sequential[1:5] == (own["z"], own["factor"], own["documents"], own["planned"])
            assert cell.num_documents == own["documents"]
            assert own["z"] == planned[own["look"]].z
            assert own["verdict"] in (*VERDICTS, "")
            if not entry.is_dense:
                assert cell.difference.paired == own["documents"]
                assert cell.difference.low <= cell.difference.value <= cell.difference.high
    assert board.margin == 0.1  # what they were decided with
    both = compare(read_collection([folder, fixed]))
    names = {entry.label for entry in both.entries}
    assert sum("decide=rows, margin 0.1" in name for name in names) == len(board.entries)
    assert len(both.entries) == 2 * len(board.entries)
    told = "rows whose documents were decided with margin 0.1 are judged with 0.01; margin=0.1 asks"
    for other in (both, compare(read_collection([folder]), BoardConfig(margin=0.01, strict=True))):
        assert other.margin == 0.01
        assert [one.message.startswith(told) for one in other.problems if one.kind == "another margin"] == [True]
    assert not compare(read_collection([folder, fixed]), BoardConfig(margin=0.1)).problems
    said = io.StringIO()
    print_board(board, board.entries, Console(file=said, width=80))
    assert "Decided as documents came (rows, margin 0.1): n is how many a row took" in said.getvalue()


def as_decided(folder, mode, reached):
    """Cells of a sweep as one that decides would have them, with margin 0.05; reached: share of heads -> look."""
    planned = looks(LOOKS)
    for row in disk.read_rows(folder):
        path = disk.cell_path(folder, row.cell)
        look = planned[reached[row.variant.prune_heads]]
        content, lines = disk.read_cell(path), disk.read_samples(path)
        kept = [{**line, "look": look.number} for line in lines[: math.ceil(look.share * len(lines))]]
        del content["cell"]["sha256"]
        content["cell"]["decide"] = {
            **{"mode": mode, "margin": 0.05, "look": look.number, "z": look.z, "factor": look.factor},
            **{"documents": len(kept), "planned": len(lines), "verdict": ""},
        }
        content["results"][row.task]["acc,none"] = sum(line["acc"] for line in kept) / len(kept)
        disk.write_cell(folder, row.cell, content, kept)
    return compare(read_collection([folder]))


REACHED = {"0": 2, "0.1": 0, "0.3": 0, "0.5": 2, "0.7": 2, "0.9": 0}


@pytest.mark.parametrize(
    ("mode", "fraction", "cell"), [("halving", "0.5", "50 % (halved)"), ("walk", "0", "0 %, unclear to 50 %")]
)
def test_a_halving_answers_for_the_share_it_has_shown_and_a_walk_for_all_smaller_ones(tmp_path, mode, fraction, cell):
    variants = sweep_folders.grid(heads=[share for share in REACHED if share != "0"])
    losses = {one: 0.3 for one in variants if one.prune_heads in ("0.7", "0.9")}
    folder = sweep_folders.sweep(tmp_path / "made", variants, count=300, losses=losses)
    board = as_decided(folder, mode, REACHED)
    assert not board.problems
    (decline,), (row,), (found,) = board.declines, decline_rows(board), findings(board)
    assert (decline.fraction, decline.halved, row.cells) == (fraction, mode == "halving", (cell,))
    assert ("found by halving" in found.sentence) == ("found by halving" in decline.sentence) == (mode == "halving")
    assert ("which it did not ask about, lose no more is assumed" in decline_note(board)) == (mode == "halving")
    frame = Sweep(folder).to_frame()
    assert set(frame["decide"]) == {f"{mode}, margin 0.05"}
    assert {tuple(pair) for pair in frame[["documents", "planned"]].values.tolist()} == {(75, 300), (300, 300)}


def test_an_area_takes_what_rows_lost_on_their_own_documents(tmp_path):
    variants = sweep_folders.grid(heads=["0.1", "0.3", "0.5"])
    chance = {"piqa": {"acc": {"level": 0.25, "by": "choices"}}}
    folder = sweep_folders.sweep(
        tmp_path / "made", variants, tasks=("piqa",), losses=dict.fromkeys(variants, 0.2), chance=chance
    )
    board = as_decided(folder, "rows", {"0": 2, "0.1": 0, "0.3": 1, "0.5": 2})
    dense = next(entry for entry in board.entries if entry.is_dense).average.value
    losses = {float(e.prune_heads): e.average.difference.value for e in board.entries if not e.is_dense}
    kept = {1 - share: 1 + loss / (dense - 0.25) for share, loss in losses.items()}
    kept |= {0.0: 0.0, 1.0: 1.0}
    shares = sorted(kept)
    area = sum((b - a) * (kept[a] + kept[b]) / 2 for a, b in itertools.pairwise(shares))
    found = next(one for one in areas(board) if one.column == board.average_name)
    assert found.cpr == pytest.approx(area)


def test_several_processes_launched_together_are_refused(tmp_path, monkeypatch):
    from lm_eval_prune.sweep import run

    class Two:
        rank, world_size = 0, 2

    monkeypatch.setattr(run, "joined_processes", lambda: Two)
    with pytest.raises(ArgumentError, match="decide: start the sweep as one process, or as several on one folder"):
        run_sweep(decided(tmp_path / "sweep"), progress=False)


@pytest.mark.parametrize("part", ["development", "test"])
def test_a_part_of_the_documents_is_not_decided(tmp_path, part):
    with pytest.raises(ArgumentError, match=f"^decide=walk and part={part} exclude one another; leave one"):
        decided(tmp_path / "sweep", part=part)


def test_a_folder_may_hold_both_kinds_of_cells(tmp_path):
    folder, small = tmp_path / "sweep", {"tasks": ["demo_recall"], "prune_heads": ["0", "0.9"], "limit": 4}
    run_sweep(settings(folder, **{**GRID, **small}), progress=False)
    run_sweep(decided(folder, **small), progress=False)
    run_sweep(settings(folder, **{**GRID, **small}), progress=False)
    found = [disk.read_cell(path) for path in (folder / "cells").glob("*.json")]
    assert sorted("decide" in one["cell"] for one in found) == [False, False, True, True]
    status = Sweep(folder).status()
    assert (status.done, status.missing, status.failed) == (4, 0, 0)


def test_a_folder_without_deciding_says_nothing_of_it(fixed):
    assert "decide" not in json.loads((fixed / "setup.json").read_text())
    assert all("decide" not in one["cell"] for one in blocks(fixed).values())
