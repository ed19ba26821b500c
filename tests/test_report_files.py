"""Files of old releases, of other tools and with what cannot be: each is named in a line, and the rest is shown."""

from __future__ import annotations

import copy
import gzip
import io
import json
import math
import os
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from sweep_folders import grid, harness_run, pruning, results, samples, sweep

from lm_eval_prune import json_lines
from lm_eval_prune.cli.main import main as entry_point
from lm_eval_prune.errors import ArgumentError, FileFormatError
from lm_eval_prune.report.board import Column
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.leaderboard import leaderboard
from lm_eval_prune.report.metrics import known_direction
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.runs import OWN_SHOTS
from lm_eval_prune.report.sample_files import read_columns
from lm_eval_prune.report.terminal import print_board
from lm_eval_prune.sweep.folder import cell_path, read_cell, read_rows, read_samples
from lm_eval_prune.variants import Variant

OWN = grid(heads=("0.5",))[0]


def written(folder, content, name="results_odd.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def file_of(metrics=("acc",), **changes):
    """A good results file, a key such as `results.piqa.acc,none` set to another value."""
    content = results("piqa", 0, samples("piqa", 0, "x", 10, metrics=metrics), metrics=metrics)
    content["pruning"] = pruning(OWN)
    content = copy.deepcopy(content)
    for place, value in changes.items():
        *parts, last = place.split("/")
        holder = content
        for part in parts:
            holder = holder[part]
        holder[last] = value
    return content


def board_with(folder, content):
    """The board of an odd file among good ones, which are all there."""
    harness_run(folder / "good", tasks=("piqa", "copa"), count=10)
    board = compare(read_collection([written(folder, content)]))
    assert {run.task for entry in board.entries for run in entry.runs if run.backend == "hf"} == {"piqa", "copa"}
    return board


CANNOT_BE = {
    "results/piqa/acc,none": [7.5, -0.1, math.nan, math.inf, 10**200, -(10**400), "0.5x", True, [0.5], {"a": 1}],
    "results/piqa/acc_stderr,none": [-0.1, math.inf, 2**70, 10**1000, "x", [0.1]],
    "n-shot/piqa": [-3, 1.5, "five", [0, 5], True, 10**30, "²"],
    "n-samples/piqa": [{"original": 10, "effective": 0}, {"effective": -1}, {"effective": "10"}, 1838, []],
    "higher_is_better/piqa": [True, ["acc"], {"acc": "yes"}],
    "configs/piqa": [5, "piqa", {"num_fewshot": -1}],
    "results/piqa": [None, 0.5, [1], "text"],
    "versions/piqa": [{}, [1]],
    "pruning/heads_pruned": [99, -1, 1.5, "8", None, [8]],
    "pruning/ffns_pruned": [5, -1, 2**80],
    "pruning/flops_per_token_left": [10**15, -1],
    "pruning/num_parameters_left": ["1", -1, 10**30],
    "pruning/mask": [[], "m.json", {"pruned_heads": [[0, 1]]}, {"pruned_heads": {"0": [-1]}, "pruned_ffns": []}],
    "pruning": ["wanda 0.5", 0.5, ["x"], {"method": "wanda", "sparsity": 0.5}],
    "config": [[1], "x", 6, {"fewshot_seed": [1, 2]}, {"model": 5}, {"limit": -1}, {"model_args": 5}],
    "date": [1e300, -5, "yesterday", math.nan],
    "n-shot": [[], "0"],
}


@pytest.mark.parametrize(
    ("place", "value"), [(place, value) for place, values in CANNOT_BE.items() for value in values]
)
def test_what_cannot_be_is_named_and_the_rest_shown(place, value, tmp_path):
    board = board_with(tmp_path, file_of(**{place: value}))
    assert not any(run.path.name == "results_odd.json" for entry in board.entries for run in entry.runs) or (
        place == "pruning/heads_pruned" and value is None
    )
    named = [problem.message for problem in board.problems if "results_odd.json" in problem.message]
    assert len(named) == 1 or value is None
    assert all("\n" not in message and len(message) < 400 for message in named)


UNKNOWN = {
    "results/piqa/acc_stderr,none": [None, "N/A", "", math.nan],
    "n-shot/piqa": [None, "N/A", 0.0],
    "n-samples/piqa": [None, {"original": 10, "effective": 10.0}, {"effective": None}],
    "higher_is_better/piqa": [None, {}, {"acc": None}],
    "higher_is_better": [None, {}],
    "versions/piqa": ["Yaml", None, 1],
    "versions": [None, {}],
    "groups": [None, {}],
    "date": [None],
    "config": [
        {"model": "hf", "model_args": form} for form in ("pretrained=x", {"pretrained": "x"}, '{"pretrained": "x"}')
    ],
}


@pytest.mark.parametrize(("place", "value"), [(place, value) for place, values in UNKNOWN.items() for value in values])
def test_what_the_harness_leaves_out_or_writes_otherwise_is_read(place, value, tmp_path):
    collection = read_collection([written(tmp_path, file_of(**{place: value}))])
    assert not collection.problems
    (run,) = collection.runs
    assert run.values["acc"].value == file_of()["results"]["piqa"]["acc,none"]
    assert (run.num_fewshot, run.num_documents) == (0, 10)
    if place == "config":
        assert run.model == "x"


def test_a_metric_that_is_no_number_leaves_the_others(tmp_path):
    content = file_of(("acc", "acc_norm", "f1"))
    content["results"]["piqa"] |= {"acc,none": math.nan, "f1,none": 10**400}
    board = board_with(tmp_path, content)
    (run,) = {id(run): run for entry in board.entries for run in entry.runs if run.backend != "hf"}.values()
    assert list(run.values) == ["acc_norm"]
    (named,) = (problem.message for problem in board.problems if problem.kind == "results that cannot be")
    assert "piqa: acc: value is NaN" in named
    assert "piqa: f1: value is Infinity" in named


def test_a_task_that_cannot_be_leaves_the_others(tmp_path):
    content = json.loads(harness_run(tmp_path / "made", tasks=("piqa", "copa", "rte"), count=10).read_text())
    content["n-samples"]["copa"]["effective"] = 0
    content["results"]["rte"] = None
    collection = read_collection([written(tmp_path / "odd", content)])
    assert [run.task for run in collection.runs] == ["piqa"]
    (problem,) = collection.problems
    assert "copa: n-samples.effective is 0" in problem.message
    assert "rte: results is null" in problem.message


@pytest.mark.parametrize("name", ["1/3", "pica", ""])
def test_a_task_that_the_file_says_nothing_else_of_is_named(name, tmp_path):
    content = json.loads(harness_run(tmp_path / "made", tasks=("piqa", "copa"), count=10).read_text())
    content["results"][name] = content["results"].pop("piqa")  # its shots, version and data set are not known
    collection = read_collection([written(tmp_path / "odd", content)])
    assert [run.task for run in collection.runs] == ["copa"]
    (problem,) = collection.problems
    assert f"{name}: neither configs nor n-shot has a task of this name" in problem.message


def test_alone_what_cannot_be_is_an_error_that_says_why(tmp_path):
    written(tmp_path, file_of(**{"results/piqa/acc,none": 7.5}))
    with pytest.raises(
        ArgumentError, match=r"nothing evaluated.*acc: value is 7\.5; expected a number between 0 and 1"
    ):
        read_collection([tmp_path])
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(FileFormatError, match=r"list\.json: expected a JSON object"):
        read_collection([tmp_path / "list.json"])


def test_files_named_outright_are_named_too_where_others_are_good(tmp_path):
    good = harness_run(tmp_path / "good", count=10)
    written(tmp_path, {"results": [1]})
    (tmp_path / "cut.json").write_text('{"results": ')
    collection = read_collection([good, tmp_path / "results_odd.json", tmp_path / "cut.json", tmp_path / "absent.json"])
    assert len(collection.runs) == 2
    assert [problem.message.split(": ")[0].split("/")[-1] for problem in collection.problems] == [
        "results_odd.json", "cut.json", "absent.json",
    ]  # fmt: skip


# -- old releases -------------------------------------------------------------------------------------------------


def of_release(release, model, date, **values):
    """A results file of wikitext and piqa as harness `release` wrote it."""
    if release == "0.3":
        found = {name: {metric: value, f"{metric}_stderr": 0.01} for name, (metric, value) in values.items()}
        config = {"model": "hf", "model_args": f"pretrained={model}", "num_fewshot": 5, "limit": None}
        return {"results": found, "versions": dict.fromkeys(values, 0), "config": config}
    found = {name: {f"{m},none": v, f"{m}_stderr,none": "N/A", "alias": name} for name, (m, v) in values.items()}
    content = {
        "results": found,
        "configs": {name: {"task": name, "metric_list": [{"metric": m}]} for name, (m, _) in values.items()},
        "versions": dict.fromkeys(values, 2.0),
        "n-shot": dict.fromkeys(values, 5),
        "config": {"model": "hf", "model_args": f"pretrained={model}"},
        "date": date,
    }
    if release == "new":
        content["higher_is_better"] = {name: {m: False} for name, (m, _) in values.items()}
    return content


LOWER = ["word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity", "ppl", "brier_score", "ter", "mae", "wer"]


@pytest.mark.parametrize("metric", LOWER)
@pytest.mark.parametrize("releases", [("0.3", "0.3"), ("old", "old"), ("old", "new"), ("new", "old"), ("0.3", "new")])
def test_lower_is_better_whatever_release_wrote_the_file(metric, releases, tmp_path):
    for number, (release, value) in enumerate(zip(releases, (0.9, 1.2), strict=True)):
        written(tmp_path / str(number), of_release(release, f"m{number}", 1.0, wikitext=(metric, value)))
    board = compare(read_collection([tmp_path]))
    assert board.columns == [Column("wikitext", metric, higher_is_better=False)]
    assert {entry.model: entry.rank for entry in board.entries} == {"m0": 1, "m1": 2}


def test_a_metric_of_any_name_goes_the_way_that_a_file_says(tmp_path):
    written(tmp_path / "0", of_release("old", "m0", 1.0, own=("my_distance", 3.0)))
    written(tmp_path / "1", of_release("new", "m1", 1.0, own=("my_distance", 5.0)))
    assert compare(read_collection([tmp_path])).columns == [Column("own", "my_distance", higher_is_better=False)]
    assert compare(read_collection([tmp_path / "0"])).columns == [Column("own", "my_distance", higher_is_better=True)]


def test_files_that_contradict_one_another_on_the_direction_are_named(tmp_path):
    for number, said in enumerate((True, False, False)):
        content = of_release("new", f"m{number}", 1.0, own=("score", float(number)))
        content["higher_is_better"]["own"]["score"] = said
        written(tmp_path / str(number), content)
    collection = read_collection([tmp_path])
    assert {run.values["score"].higher_is_better for run in collection.runs} == {False}
    assert [problem.kind for problem in collection.problems] == ["different directions"]


def test_directions_are_those_of_the_harness():
    from lm_eval.api import metrics  # noqa: F401  # registers them
    from lm_eval.api.registry import higher_is_better_registry

    theirs = {name: higher_is_better_registry.get(name) for name in higher_is_better_registry.keys()}  # noqa: SIM118
    assert len(theirs) > 15
    wrong = {name: said for name, said in theirs.items() if known_direction(name) not in (said, None)}
    assert not wrong
    assert not {name for name, said in theirs.items() if said is False and known_direction(name) is None}


@pytest.mark.parametrize(
    ("backend", "model_args"),
    [
        ("vllm", "pretrained=m,tensor_parallel_size=2,gpu_memory_utilization=0.8"),
        ("vllm", {"pretrained": "m", "tensor_parallel_size": 2}),
        ("sglang", {"pretrained": "m", "tp_size": 2, "dtype": "auto"}),
        ("local-completions", {"model": "m", "base_url": "http://localhost:8000/v1/completions"}),
        ("openai-chat-completions", "model=m"),
    ],
)
def test_results_of_any_backend_are_read_beside_hf(backend, model_args, tmp_path):
    written(tmp_path / "0", of_release("new", "m", 1.0, piqa=("acc", 0.6)))
    content = of_release("new", "m", 2.0, piqa=("acc", 0.7))
    content["config"] = {"model": backend, "model_args": model_args}
    written(tmp_path / "1", content)
    collection = read_collection([tmp_path])
    assert sorted(run.values["acc"].value for run in collection.runs) == [0.6, 0.7]
    assert {run.model for run in collection.runs} == {"m"}


def test_results_of_harness_0_3_are_read(tmp_path):
    values = {"piqa": ("acc", 0.63), "lambada_openai": ("ppl", 26.0)}
    collection = read_collection([written(tmp_path, of_release("0.3", "facebook/opt-125m", 0, **values))])
    assert not collection.problems
    found = {run.task: run for run in collection.runs}
    assert found["piqa"].values["acc"][:2] == (0.63, 0.01)
    assert found["lambada_openai"].values["ppl"].higher_is_better is False
    assert {(run.model, run.num_fewshot) for run in collection.runs} == {("facebook/opt-125m", 5)}


@pytest.mark.parametrize(
    "content", [{"results": {"a": {"acc": 1}}}, {"results": [], "configs": {}}, {"results": {}, "config_general": {}}]
)
def test_what_looks_like_results_and_is_none_is_named(content, tmp_path):
    harness_run(tmp_path / "good", count=10)
    collection = read_collection([written(tmp_path, content, "evals.json")])
    (problem,) = collection.problems
    assert "evals.json: no results of the harness" in problem.message


# -- samples ------------------------------------------------------------------------------------------------------


def paired(folder, *left_out, change=None):
    """Documents paired between a dense and a pruned run whose lines lack some keys."""
    for name, loss in (("dense", 0.0), ("pruned", 0.3)):
        path = harness_run(folder / name, tasks=("piqa",), count=30, name=name, loss=loss)
        if name == "pruned":
            path.write_text(json.dumps({**json.loads(path.read_text()), "pruning": pruning(OWN)}))
        for file in path.parent.glob("samples_*.jsonl"):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            lines = [{key: value for key, value in line.items() if key not in left_out} for line in lines]
            text = "".join(json.dumps({**line, **(change or {})}) + "\n" for line in lines)
            file.write_text(text)
    board = compare(read_collection([folder]))
    (cell,) = (entry.cells[Column("piqa", "acc")] for entry in board.entries if not entry.is_dense)
    return cell.difference.paired, board


@pytest.mark.parametrize(
    ("left_out", "documents"),
    [
        (("metrics", "filter"), 30),  # 0.4.3 to 0.4.5
        (("metrics",), 30),
        (("filter",), 30),
        (("doc_hash", "prompt_hash", "target_hash", "metrics", "filter"), 0),  # before
        (("doc_id",), 0),
        (("acc",), 0),
    ],
)
def test_samples_of_older_releases_are_paired_where_they_have_hashes(left_out, documents, tmp_path):
    found, board = paired(tmp_path, *left_out)
    assert found == documents
    assert not [problem for problem in board.problems if problem.kind == "damaged samples"]


@pytest.mark.parametrize(
    "change",
    [{"doc_id": "7"}, {"doc_hash": 5}, {"metrics": "acc"}, {"filter": None}, {"metrics": [1]}, {"prompt_hash": {}}],
)
def test_samples_that_cannot_be_are_named_and_not_paired(change, tmp_path):
    found, board = paired(tmp_path, change=change)
    assert found == 0
    named = [problem.message for problem in board.problems if problem.kind == "damaged samples"]
    assert len(named) == 2
    assert all(f"jsonl: line 1: {next(iter(change))}" in message for message in named)


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, "0.5", None, [1]])
def test_outcomes_that_are_no_numbers_are_not_paired(value, tmp_path):
    assert paired(tmp_path, change={"acc": value})[0] == 0


@pytest.mark.parametrize("bound", ["MAX_BYTES", "MAX_LINE_BYTES", "MAX_LINES"])
def test_samples_beyond_the_bounds_are_refused_and_never_cut(bound, tmp_path, monkeypatch):
    folder = sweep(tmp_path / "sweep", [OWN], ("piqa",), count=30)
    path = cell_path(folder, read_rows(folder)[0].cell)
    packed = path.with_suffix(".samples.jsonl.gz").read_bytes()
    unpacked = gzip.decompress(packed)
    whole = {"MAX_BYTES": len(unpacked), "MAX_LINE_BYTES": max(map(len, unpacked.splitlines(True))), "MAX_LINES": 30}
    monkeypatch.setattr(json_lines, bound, whole[bound])
    assert len(read_samples(path)) == len(read_columns(path).doc_id) == 30
    monkeypatch.setattr(json_lines, bound, whole[bound] - 1)
    for read in (read_samples, read_columns):
        with pytest.raises(FileFormatError, match=r"samples\.jsonl\.gz: .*not read"):
            read(path)
    board = compare(read_collection([folder]))
    assert {problem.kind for problem in board.problems} == {"damaged samples", "unpaired documents"}


@pytest.mark.parametrize("spread", ["in one line", "over lines", "named by nobody"])
def test_samples_of_a_thousand_metrics_are_refused(spread, tmp_path):
    keys = {"doc_hash": "a", "prompt_hash": "b"}
    names = [f"m{number}" for number in range(1001)]
    lines = {
        "in one line": [{"metrics": names}],
        "over lines": [{"metrics": [name]} for name in names],
        "named by nobody": [dict.fromkeys(names, 0.5)],
    }[spread]
    path = tmp_path / "samples_t_1.jsonl"
    path.write_text("".join(json.dumps({"doc_id": number, **keys, **line}) + "\n" for number, line in enumerate(lines)))
    with pytest.raises(FileFormatError, match="more than 1,000 metrics"):
        read_columns(path)


def test_models_that_differ_in_thousands_of_settings_have_short_names(tmp_path):
    odd = file_of()
    odd["config"] |= {f"setting{number}": "unknown" for number in range(20_000)}
    start = time.process_time()
    board = compare(read_collection([written(tmp_path / "a", odd).parent, written(tmp_path / "b", file_of())]))
    names = {entry.model for entry in board.entries}
    assert len(names) == 2
    assert max(map(len, names)) < 1500
    assert time.process_time() - start < 10


# -- what is no file ----------------------------------------------------------------------------------------------


def fifo(path):
    os.mkfifo(path)


def listening(path):
    socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))  # a socket's path has 107 characters at most


STRANGE = {
    "pipe": fifo,
    "folder": lambda path: path.mkdir(),
    "socket": listening,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a pipe": lambda path: (fifo(path.with_name("pipe")), path.symlink_to("pipe")),
}


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_is_named_and_not_waited_for(kind, tmp_path, monkeypatch):
    harness_run(tmp_path / "good", tasks=("piqa",), count=10)
    monkeypatch.chdir(tmp_path)
    STRANGE[kind](tmp_path / "results_x.json")
    STRANGE[kind](tmp_path / "good" / "samples_copa_2026-01-01T00-00-00.000001.jsonl")
    collection = read_collection([tmp_path])
    assert len(collection.runs) == 1
    assert ["results_x.json" in problem.message for problem in collection.problems] == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="no such links there")
@pytest.mark.parametrize("place", ["", "deeper", "sweep/importance"])
@pytest.mark.parametrize("target", ["elsewhere", "..", "/", "link"], ids=["folder", "above", "everything", "itself"])
def test_links_to_folders_are_not_followed(tmp_path, place, target):
    """In whatever depth: they lead to other people's files, in circles, or to the whole disk."""
    harness_run(tmp_path / "mine" / "good", tasks=("piqa",), count=10)
    sweep(tmp_path / "mine" / "sweep", [OWN], ("piqa",), count=10)
    harness_run(tmp_path / "elsewhere" / "results", tasks=("copa",), count=10)
    sweep(tmp_path / "elsewhere" / "sweep", [OWN], ("copa",), count=10)
    before = read_collection([tmp_path / "mine"])
    (tmp_path / "mine" / place).mkdir(parents=True, exist_ok=True)
    link = tmp_path / "mine" / place / "link"
    link.symlink_to(tmp_path / "elsewhere" if target == "elsewhere" else target)
    after = read_collection([tmp_path / "mine"])
    assert [(run.path, run.task) for run in after.runs] == [(run.path, run.task) for run in before.runs]
    assert len(before.runs) > 1
    assert after.importance == before.importance
    named = read_collection([link]) if target == "elsewhere" else None  # a link that is named is followed
    assert named is None or {run.task for run in named.runs} == {"copa"}


@pytest.mark.skipif(sys.platform == "win32", reason="no such links there")
def test_a_link_in_the_place_of_a_sweeps_importance_is_not_followed(tmp_path):
    folder = sweep(tmp_path / "sweep", [OWN], ("piqa",), count=10)
    shutil.rmtree(folder / "importance", ignore_errors=True)
    (folder / "importance").symlink_to("/")
    assert read_collection([folder]).importance == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
@pytest.mark.parametrize("kind", STRANGE)
def test_a_cells_samples_that_are_no_file_are_damage(kind, tmp_path, monkeypatch):
    folder = sweep(tmp_path / "sweep", [OWN], ("piqa",), count=10)
    path = cell_path(folder, read_rows(folder)[0].cell)
    samples = path.with_suffix(".samples.jsonl.gz")
    samples.unlink()
    monkeypatch.chdir(samples.parent)  # a socket's path is short
    STRANGE[kind](Path(samples.name))
    for read in (read_cell, read_samples, read_columns):
        with pytest.raises(FileFormatError, match=r"samples\.jsonl\.gz: "):
            read(path)


@pytest.mark.parametrize("name", ["org/task", "../../etc/passwd", "a\x00b", "x" * 300, "..", ""])
def test_a_tasks_name_need_not_be_a_files(name, tmp_path):
    content = file_of()
    for key in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        content[key] = {name: content[key]["piqa"]}
    (run,) = read_collection([written(tmp_path, content)]).runs
    assert run.samples is None
    assert compare(read_collection([tmp_path]), BoardConfig()).entries
    assert Variant(*run.variant)


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes there")
@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff\xfe", b"a\x80\x1b[31m"])
def test_folders_whose_names_are_no_utf_8(name, tmp_path):
    folder = tmp_path / os.fsdecode(name)
    harness_run(folder, tasks=("piqa",), count=10)
    written(folder, file_of(**{"results/piqa/acc,none": 7.5}))
    made = leaderboard([folder], folder / "out")
    assert all(path.exists() for path in made.paths)
    (problem,) = made.board.problems
    assert problem.message.isprintable()
    for path in made.paths:
        if path.suffix != ".parquet":
            path.read_text(encoding="utf-8")


# -- shots of their own -------------------------------------------------------------------------------------------

SUITE = {"arc_challenge": 25, "hellaswag": 10, "winogrande": 5}


def suite(folder, shots=SUITE, count=40):
    """A dense and a pruned run on tasks that each have a number of shots of their own."""
    for name, loss in (("dense", 0.0), ("pruned", 0.3)):
        merged = None
        for task, number in shots.items():
            path = harness_run(folder / name, tasks=(task,), shots=number, count=count, name=name, loss=loss)
            one = json.loads(path.read_text())
            merged = merged or one
            for key in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
                merged[key] |= one[key]
        path.write_text(json.dumps({**merged, **({"pruning": pruning(OWN)} if name == "pruned" else {})}))
    return folder


@pytest.mark.parametrize("asked", ["own", ()])
def test_a_suite_with_shots_of_its_own_is_one_row_a_variant(asked, tmp_path):
    board = compare(read_collection([suite(tmp_path)]), BoardConfig(shots=asked, flips=True))
    assert [str(column) for column in board.columns] == [f"{task} acc ({n}-shot)" for task, n in SUITE.items()]
    assert len(board.entries) == 2
    for entry in board.entries:
        values = [run.values["acc"].value for run in entry.runs]
        assert entry.average.value == pytest.approx(sum(values) / 3)
        assert {run.task: run.num_fewshot for run in entry.runs} == SUITE
        assert entry.rank in (1, 2)
    (pruned,) = (entry for entry in board.entries if not entry.is_dense)
    assert pruned.average.difference.paired == 3 * 40
    assert {flip.num_fewshot for flip in board.flips} == set(SUITE.values())


def test_own_shots_are_shown_in_every_form(tmp_path):
    suite(tmp_path / "runs", count=10)
    config = BoardConfig(shots="own", flips=True)
    made = leaderboard([tmp_path / "runs"], tmp_path / "out", config, exports=["every_eval_ever", "model-index"])
    nested = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert [entry["num_fewshot"] for entry in nested["entries"]] == [None, None]
    assert [column["num_fewshot"] for column in nested["columns"]] == [25, 10, 5]
    page, text = (
        made.page.read_text(encoding="utf-8"),
        (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8"),
    )
    assert "## own shots" in text
    assert "-1-shot" not in text
    assert " own shots " in page
    assert "-1-shot" not in page
    assert "--shots own" in page
    exported = "".join(path.read_text() for path in (tmp_path / "out" / "exports").rglob("*") if path.is_file())
    assert "25-shot" in exported
    assert "-1-shot" not in exported
    assert "own shots" in printed(made.board)


def printed(board):
    console = Console(file=io.StringIO(), width=200)
    print_board(board, board.entries, console)
    return console.file.getvalue()


@pytest.mark.parametrize("asked", [(5,), (25, 5), (10,)])
def test_numbers_of_shots_are_still_chosen_by_number(asked, tmp_path):
    board = compare(read_collection([suite(tmp_path, count=10)]), BoardConfig(shots=asked))
    assert {entry.num_fewshot for entry in board.entries} == set(asked)


def test_a_task_at_two_numbers_of_shots_has_none_of_its_own(tmp_path):
    suite(tmp_path / "one", count=10)
    suite(tmp_path / "two", {**SUITE, "hellaswag": 0}, count=10)
    collection = read_collection([tmp_path])
    with pytest.raises(ArgumentError, match="hellaswag was evaluated at 0 and 10 shots; expected one number a task"):
        compare(collection, BoardConfig(shots="own"))
    assert {entry.num_fewshot for entry in compare(collection).entries} == {0, 5, 10, 25}
    board = compare(collection, BoardConfig(shots="own", tasks=("arc_challenge", "winogrande")))
    assert {entry.num_fewshot for entry in board.entries} == {OWN_SHOTS}


def test_one_number_of_shots_for_all_tasks_is_no_own(tmp_path):
    board = compare(read_collection([suite(tmp_path, dict.fromkeys(SUITE, 5), count=10)]))
    assert {entry.num_fewshot for entry in board.entries} == {5}
    assert [column.num_fewshot for column in board.columns] == [None] * 3


@pytest.mark.parametrize(("given", "code"), [("own", 0), ("25", 0), ("their own", 2), ("OWN", 2), ("5,own", 2)])
def test_the_commands_shots_are_numbers_or_own(given, code, tmp_path, monkeypatch, capsys):
    suite(tmp_path / "runs", count=10)
    command = ["lm-eval-prune", "leaderboard", str(tmp_path / "runs"), "-o", str(tmp_path / "out"), "--shots", given]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        entry_point()
    assert ended.value.code == code
    said = capsys.readouterr()
    assert "own" in said.err if code else ("own shots" in said.out) == (given == "own")


@pytest.mark.parametrize(
    "changes",
    [
        {"configs": {"piqa": {"task": "piqa", "dataset_path": "\ud800", "num_fewshot": 0}}},
        {"pruning": {"heads_pruned": 1, "heads_total": 4, "mask": {"pruned_heads": {"\ud800": [0]}}}},
        {"config": {"model": "hf", "model_args": "pretrained=\udfff"}},
        {"versions": {"piqa": "\udc00"}},
    ],
    ids=["a data set", "a mask", "a model", "a version"],
)
def test_half_a_surrogate_pair_costs_no_file_and_breaks_none(changes, tmp_path):
    path = harness_run(tmp_path / "runs", tasks=("piqa",), count=10)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    exports = ["every_eval_ever", "model-index", "eval_results"]
    made = leaderboard([tmp_path / "runs"], tmp_path / "out", BoardConfig(), exports=exports)
    assert len(made.board.entries) == 1
    for written in (
        path for path in (tmp_path / "out").rglob("*") if path.suffix in (".html", ".json", ".md", ".yaml")
    ):
        written.read_text(encoding="utf-8")
