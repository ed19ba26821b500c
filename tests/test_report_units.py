"""Documents that share a passage count as one, wherever the passage is written, and the table says what is one."""

from __future__ import annotations

import gzip
import hashlib
import json

import numpy as np
import pytest
import scipy.stats
from click.testing import CliRunner
from sweep_folders import harness_run, results

from lm_eval_prune.cli.main import cli
from lm_eval_prune.report.board import Column
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.tables import markdown
from lm_eval_prune.units import unit_field, unit_of

PASSAGES, SIZE = 20, 12
LOST = {0, 1, 2, 3, 4, 5, 6}
"""Passages all of whose answers one run loses."""


def run(folder, task, name, *, lost=(), field=None, metadata=None, unit=False):
    """A results file with samples: 20 passages of 12 questions; `field` names the passage in the documents."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for document in range(PASSAGES * SIZE):
        passage = document // SIZE
        doc = {"question": document, **({field: f"text {passage}"} if field else {})}
        lines.append(
            {
                "doc_id": document, "doc": doc, "doc_hash": f"{document:04}", "prompt_hash": f"{document:04}",
                "target": "0", "filter": "none", "metrics": ["acc"], "acc": float(passage not in lost),
                **({"unit": f"passage {passage}"} if unit else {}),
            }
        )  # fmt: skip
    config = {"model": name, "model_args": "pretrained=x"}
    content = results(task, 0, lines, config=config)
    content["configs"][task]["metadata"] = metadata
    (folder / f"results_{name}.json").write_text(json.dumps(content))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"samples_{task}_{name}.jsonl").write_text(text)


def board_of(folder, task, cluster=(), **given):
    run(folder, task, "hf", **given)
    run(folder, task, "vllm", lost=LOST, **given)
    return compare(read_collection([folder]), BoardConfig(cluster=cluster))


def compared(board, task):
    (cell,) = (e.cells[Column(task, "acc")] for e in board.entries if e.cells[Column(task, "acc")].difference)
    return cell


CLUSTERED = [
    ("multirc", (), {"field": "paragraph"}),
    ("boolq", (), {"field": "passage"}),
    ("icl14_record", (), {"field": "passage"}),
    ("wsc", (), {"field": "text"}),
    ("mine", (), {"field": "story", "metadata": {"cluster": "story", "version": 1.0}}),
    ("mine", ("story",), {"field": "story"}),
    ("mine", ("question", "mine=story"), {"field": "story"}),
    ("multirc", (), {"unit": True}),
]


@pytest.mark.parametrize(("task", "cluster", "given"), CLUSTERED)
def test_a_passages_answers_are_one_unit(tmp_path, task, cluster, given):
    cell = compared(board_of(tmp_path, task, cluster, **given), task)
    assert cell.num_units == PASSAGES
    # 7 passages of 20 changed, all one way: McNemar's test, as of 7 documents.
    assert cell.difference.p == pytest.approx(scipy.stats.chi2.sf((7 - 3 / 16) ** 2 / 7, 1))
    least = cell.difference.least
    assert PASSAGES * least - 3 / 16 == pytest.approx(1.959964 * np.sqrt(PASSAGES * least * (1 - least)))
    by_passage = [float(passage not in LOST) for passage in range(PASSAGES)]
    assert cell.stderr in (pytest.approx(0), pytest.approx(scipy.stats.sem(by_passage)))


@pytest.mark.parametrize(("task", "cluster"), [("piqa", ()), ("arc_easy", ()), ("multirc", ("question",))])
def test_documents_are_their_own_units_elsewhere(tmp_path, task, cluster):
    cell = compared(board_of(tmp_path, task, cluster, field="paragraph"), task)
    assert cell.num_units is None
    assert cell.difference.p == pytest.approx(scipy.stats.chi2.sf(7 * SIZE, 1))


def test_the_columns_note_names_the_units(tmp_path):
    board = board_of(tmp_path, "multirc", field="paragraph")
    about = board.about[Column("multirc", "acc")]
    assert (about.units, about.unit_field, about.documents) == (20, "paragraph", 240)
    assert "20 x paragraph, 240 documents" in markdown(board)


def test_samples_without_the_passage_are_said_to_be(tmp_path):
    board = board_of(tmp_path, "boolq")
    assert compared(board, "boolq").num_units is None
    assert "no passage in the samples: documents count one by one" in markdown(board)


def test_the_command_takes_a_field(tmp_path):
    board_of(tmp_path / "runs", "mine", field="story")
    arguments = ["leaderboard", str(tmp_path / "runs"), "-o", str(tmp_path / "out"), "--cluster", "mine=story"]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.output
    assert "20 x story, 240 documents" in shown.output
    content = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert content["columns"][0]["units"] == 20
    assert "20 x story" in (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")
    assert "mine acc units" in (tmp_path / "out" / "leaderboard.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("task", "metadata", "field"),
    [("multirc", None, "paragraph"), ("piqa", None, ""), ("piqa", {"cluster": "goal"}, "goal"),
     ("boolq", {"cluster": "title"}, "title"), ("boolq", {"cluster": 3}, "passage"), ("boolq", "text", "passage")],
)  # fmt: skip
def test_a_task_says_what_its_unit_is(task, metadata, field):
    assert unit_field(task, metadata) == field


@pytest.mark.parametrize("document", [{"a": "x\ud800"}, {"a": {"b": [1, None]}}, {"a": 3}])
def test_units_are_hashes_of_whatever_the_field_holds(document):
    assert unit_of(document, "a") == unit_of(dict(document), "a") != unit_of({"a": "y"}, "a")
    assert unit_of(document, "b") is None
    assert unit_of("no document", "a") is None


def test_runs_of_old_samples_stay_comparable(tmp_path):
    path = harness_run(tmp_path / "old", tasks=("boolq",), name="hf")
    run(tmp_path / "new", "boolq", "vllm", field="passage")
    board = compare(read_collection([path, tmp_path / "new"]))
    assert len(board.entries) == 2


@pytest.mark.slow
def test_a_sweep_writes_what_its_documents_were_drawn_with(tmp_path, checkpoint):
    """A task of ours with a declared field, swept: its samples name the unit, and the board counts it."""
    rows = [{"text": f"story {n // 3}", "question": f"what {n}", "answer": n % 2} for n in range(12)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'data.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{text}} {{question}}'\n"
        "doc_to_target: answer\ndoc_to_choice: ['no', 'yes']\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        "metadata: {version: 1.0, cluster: text}\n"
    )
    arguments = ["sweep", "--model_args", f"pretrained={checkpoint}", "--tasks", "mine", "--include_path",
                 str(tmp_path), "--num_fewshot", "0", "--prune_heads", "0,0.5", "--ranking", "random:0",
                 "--output_path", str(tmp_path / "sweep"), "--device", "cpu"]  # fmt: skip
    swept = CliRunner().invoke(cli, arguments)
    assert swept.exit_code == 0, swept.output
    for path in (tmp_path / "sweep" / "cells").glob("*.samples.jsonl.gz"):
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        expected = [hashlib.sha256(json.dumps(row["text"]).encode()).hexdigest()[:16] for row in rows]
        assert [line["unit"] for line in sorted(lines, key=lambda line: line["doc_id"])] == expected
    board = compare(read_collection([tmp_path / "sweep"]))
    assert board.about[Column("mine", "acc")].units == 4
