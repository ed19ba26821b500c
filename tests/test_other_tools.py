"""Results of lighteval and inspect_ai on the leaderboard: files that the tools wrote themselves (tests/data)."""

import json
import shutil
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.outcomes import OutcomeReader
from lm_eval_prune.report.reading import read_collection

DATA = Path(__file__).parent / "data"


@pytest.fixture
def lighteval(tmp_path):
    shutil.copytree(DATA / "lighteval", tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.parquet"):
        path.rename(path.with_name(path.name.replace("facts-0", "facts|0")))
    return tmp_path / "out"


def test_lightevals_results_are_rows_with_their_documents(lighteval):
    found = read_collection([lighteval])
    assert not found.problems
    assert {(run.model, run.task, run.num_fewshot, run.backend) for run in found.runs} == {
        ("tiny-opt", "facts (lighteval)", 0, "lighteval"),
        ("tiny-opt-zeroed", "facts (lighteval)", 0, "lighteval"),
    }
    for run in found.runs:
        file = json.loads(run.path.read_text())["results"]["facts|0"]
        assert (run.values["acc"].value, run.values["acc"].stderr) == (file["acc"], file["acc_stderr"])
        assert run.values["acc"].higher_is_better
        assert run.dtype is None or run.dtype == "float32"
        written = [row["metric"]["acc"] for row in pq.read_table(run.samples).to_pylist()]
        outcomes = OutcomeReader()(run)
        assert sorted(outcomes.values["acc"]) == sorted(written)
        assert outcomes.values["acc"].mean() == pytest.approx(run.values["acc"].value)


def test_documents_of_two_lighteval_runs_are_paired(lighteval):
    board = compare(read_collection([lighteval]), BoardConfig(baseline="tiny-opt"))
    zeroed = next(entry for entry in board.entries if entry.model == "tiny-opt-zeroed")
    (cell,) = zeroed.cells.values()
    assert cell.value == pytest.approx(11 / 12)
    assert cell.difference.value == pytest.approx(-1 / 12)
    assert (cell.difference.method, cell.difference.paired) == ("paired score", 12)


@pytest.mark.parametrize(("log", "task"), [("capitals_log.eval", "capitals"), ("choices_log.eval", "choices"),
                                           ("choices_log.json", "choices")])  # fmt: skip
def test_logs_of_inspect_ai_are_rows(log, task):
    (run,) = read_collection([DATA / "inspect" / log]).runs
    scorer = {"capitals": "match", "choices": "choice"}[task]
    assert (run.model, run.task, run.backend) == ("mockllm/model", f"{task} (inspect_ai)", "inspect_ai")
    assert (run.values[f"accuracy ({scorer})"].value, run.values[f"accuracy ({scorer})"].stderr) == (0.75, 0.25)
    assert run.num_documents == 4
    outcomes = OutcomeReader()(run)
    if log.endswith(".eval"):
        assert sorted(outcomes.values[f"accuracy ({scorer})"]) == [0, 1, 1, 1]
    else:
        assert outcomes is None


def test_all_of_them_stand_on_one_board_beside_one_another(lighteval):
    board = compare(read_collection([lighteval, DATA / "inspect"]))
    assert {column.task for column in board.columns} == {
        "facts (lighteval)", "capitals (inspect_ai)", "choices (inspect_ai)",
    }  # fmt: skip


def rewritten(path, name, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("header.json", '{"status": "error", "eval": {"task": "t", "model": "m"}}', "its status is 'error'"),
        ("header.json", '{"status": "success", "eval": {"task": 3, "model": "m"}}', "eval.task is 3"),
        ("header.json", '{"status": ', "header.json"),
        ("header.json", '{"status": "success"}', "no results"),
        ("_journal/start.json", "{}", "no header.json in it; expected a finished log"),
    ],
)
def test_a_log_that_is_none_is_one_line(name, content, message, tmp_path):
    path = rewritten(tmp_path / "a_log.eval", name, content)
    with pytest.raises(FileFormatError, match=message) as raised:
        read_collection([path])
    assert "\n" not in str(raised.value)


def test_what_is_unknown_among_files_of_tools_is_named_and_the_rest_shown(lighteval):
    (lighteval / "broken.eval").write_bytes(b"PK not a zip")
    odd = json.loads(next(lighteval.rglob("results_*.json")).read_text())
    odd["config_general"]["model_name"] = 7
    (lighteval / "results_odd.json").write_text(json.dumps(odd))
    next(lighteval.rglob("*.parquet")).write_bytes(b"PAR1 cut short")
    found = read_collection([lighteval])
    assert len(found.runs) == 2
    assert sorted(problem.message.rpartition("/")[2].split(":")[0] for problem in found.problems) == [
        "broken.eval", "results_odd.json",
    ]  # fmt: skip
    reader = OutcomeReader()
    assert [reader(run) is None for run in found.runs].count(True) == 1
    assert [problem.kind for problem in reader.problems] == ["damaged samples"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [("arc:challenge|25", ("arc:challenge", 25)), ("leaderboard|arc|25|0", ("leaderboard|arc", 25)), ("all", (None, 0)),
     ("lighteval|gsm8k|5|1", ("lighteval|gsm8k", 5)), ("", (None, 0))],
)  # fmt: skip
def test_lightevals_tasks_say_their_shots(key, expected):
    from lm_eval_prune.report.other_tools import _task_and_shots

    assert _task_and_shots(key) == expected
