"""Every format has the numbers of the result files, and what other programs read is what they ask for."""

from __future__ import annotations

import csv
import io
import json
from hashlib import sha256
from pathlib import Path

import jsonschema
import lm_eval
import pyarrow.parquet
import pytest
import yaml
from click.testing import CliRunner
from lm_eval.loggers import EvaluationTracker
from lm_eval.loggers.trackio_logger import TrackioLogger
from lm_eval.loggers.wandb_logger import WandbLogger
from lm_eval.utils import make_table
from rich.console import Console
from sweep_folders import grid, harness_run, results, samples, sweep

from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.exports import SCHEMA_VERSION, write_exports
from lm_eval_prune.report.leaderboard import leaderboard
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.tables import harness_table, markdown
from lm_eval_prune.report.terminal import print_board
from lm_eval_prune.sweep.folder import cell_path, read_cell, read_rows
from lm_eval_prune.variants import Variant

VARIANTS = [*grid(heads=("0.3", "0.7")), *(Variant("random", "0.5", "0", seed=seed) for seed in (0, 1))]
TASKS = ("piqa", "copa")
ODD = 'x<script>alert("1")</script>\'&😀|*_`[a](b) ' + "long" * 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    losses = dict.fromkeys(VARIANTS, 0.2)
    return sweep(tmp_path_factory.mktemp("sweep"), VARIANTS, TASKS, shots=(0, 5), losses=losses)


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("board")
    made = leaderboard([folder], output, exports=("model-index", "eval_results", "every_eval_ever"))
    return made.board, output


@pytest.fixture(scope="module")
def files(folder):
    """(ranking, heads, seed, task, shots) -> (value, standard error, documents), from the cells' own JSON."""
    found = {}
    for row in read_rows(folder):
        content = read_cell(cell_path(folder, row.cell))["results"][row.task]
        key = (row.variant.ranking, float(row.variant.prune_heads), row.variant.seed, row.task, row.num_fewshot)
        found[key] = (content["acc,none"], content["acc_stderr,none"], content["sample_len"])
    return found


def expected(files, ranking, heads, task, shots):
    """What a row shows: the file's value, or the mean over seeds."""
    values = [value[0] for key, value in files.items() if key[:2] == (ranking, heads) and key[3:] == (task, shots)]
    return sum(values) / len(values)


def test_tables_read_back_are_the_numbers_of_the_files(written, files):
    _, output = written
    tables = {
        "csv": list(csv.DictReader(io.StringIO((output / "leaderboard.csv").read_text()))),
        "parquet": pyarrow.parquet.read_table(output / "leaderboard.parquet").to_pylist(),
    }
    for rows in tables.values():
        assert len(rows) == 8
        for row in rows:
            for task in TASKS:
                where = row["ranking"], float(row["prune_heads"]), task, int(row["num_fewshot"])
                assert float(row[f"{task} acc"]) == expected(files, *where)
                if row["ranking"] != "random":
                    value, error, _ = files[(*where[:2], None, *where[2:])]
                    assert (float(row[f"{task} acc"]), float(row[f"{task} acc stderr"])) == (value, error)
    for entry in json.loads((output / "leaderboard.json").read_text())["entries"]:
        for task in TASKS:
            where = entry["ranking"], entry["prune_heads"], task, entry["num_fewshot"]
            assert entry["tasks"][f"{task} acc"]["value"] == expected(files, *where)


def test_markdown_and_terminal_show_the_same_numbers(written, files):
    board, output = written
    console = Console(width=400, record=True, file=io.StringIO())
    print_board(board, board.entries, console)
    for text in ((output / "leaderboard.md").read_text(), console.export_text()):
        for ranking, heads in (("dense", 0.0), ("own", 0.3), ("own", 0.7), ("random", 0.5)):
            for task in TASKS:
                assert f"{expected(files, ranking, heads, task, 5):.2f} ±" in text  # 60 documents


def table_rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip().replace("\\", "") for cell in line.strip("|").split("|")] for line in lines]


def as_number(text):
    try:
        return float(text)
    except ValueError:
        return text


def test_the_harnesss_table_is_the_harnesss(folder):
    board = compare(read_collection([folder]))
    header, *ours = table_rows(harness_table(board))
    for row in read_rows(folder):
        theirs = table_rows(make_table(read_cell(cell_path(folder, row.cell))))
        assert header[1:] == theirs[0]
        seed = "" if row.variant.seed is None else f" (seed {row.variant.seed})"
        (mine,) = (
            line[1:]
            for line in ours
            if line[0].endswith(seed)
            and line[0].startswith(str(row.variant._replace(seed=None)))
            and (line[1], line[4]) == (row.task, str(row.num_fewshot))
        )
        assert [as_number(cell) for cell in mine] == [as_number(cell) for cell in theirs[1]]


def test_odd_names_are_text_in_markdown_csv_and_terminal(tmp_path):
    variant = Variant(ODD, "0.5", "0")
    folder = sweep(tmp_path / "sweep", [variant], (ODD,), model=ODD)
    board = leaderboard([folder], tmp_path / "board", exports=("model-index", "every_eval_ever")).board
    with (tmp_path / "board" / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["ranking"] for row in rows} == {"dense", ODD}
    assert all(f"{ODD} acc" in row for row in rows)
    text = markdown(board)
    assert "<script" not in text.replace("\\<script", "")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in lines[:4]}) == 1
    console = Console(width=200, record=True, file=io.StringIO())
    print_board(board, board.entries, console)
    assert "x<script>alert" in console.export_text()
    for path in (tmp_path / "board" / "exports").rglob("*.*"):
        assert len(path.name) < 120
    for path in (tmp_path / "board" / "exports" / "every_eval_ever").rglob("*.json"):
        assert json.loads(path.read_text())["model_info"]["id"] == ODD


def test_model_cards_hold_every_metric(written, files):
    from huggingface_hub import ModelCard

    _, output = written
    folder = output / "exports" / "model-index"
    assert len(list(folder.iterdir())) == 5  # dense, own twice, random twice
    card = ModelCard((folder / "own-heads-0-3-ffns-0.md").read_text())
    found = {(r.metric_args["task"], r.metric_args["num_fewshot"]): r for r in card.data.eval_results}
    assert len(found) == 4
    for (task, shots), result in found.items():
        value, error, _ = files["own", 0.3, None, task, shots]
        assert (result.metric_value, result.metric_args["stderr"]) == (value, error)
        assert (result.metric_type, result.metric_name) == ("acc", f"{task} acc ({shots}-shot)")
        assert (result.task_type, result.dataset_type) == ("text-generation", "org/data")


def test_eval_results_files_are_what_the_hubs_client_reads(written, files):
    from huggingface_hub import parse_eval_result_entries

    _, output = written
    path = output / "exports" / "eval_results" / "random-seed-1-heads-0-5-ffns-0-5shot" / ".eval_results"
    entries = parse_eval_result_entries(yaml.safe_load((path / "lm-eval-prune.yaml").read_text()))
    assert {entry.notes.split(",")[0]: entry.value for entry in entries} == {
        task: files["random", 0.5, 1, task, 5][0] for task in TASKS
    }
    assert {(entry.dataset_id, entry.task_id) for entry in entries} == {("org/data", "default")}
    assert entries[0].date == "1970-01-01T00:00:01Z"


def test_every_eval_ever_records_are_valid_and_hold_the_numbers(written, files):
    _, output = written
    schema = json.loads((Path(__file__).parent / "every_eval_ever" / "eval.schema.json").read_text())
    assert schema["version"] == SCHEMA_VERSION
    paths = list((output / "exports" / "every_eval_ever").rglob("*.json"))
    found = {}
    for path in paths:
        record = json.loads(path.read_text())
        jsonschema.validate(record, schema)
        details = record["model_info"]["additional_details"]
        for result in record["evaluation_results"]:
            seed = int(details["seed"]) if "seed" in details else None
            shots = int(result["generation_config"]["additional_details"]["num_fewshot"])
            key = details["ranking"], float(details["prune_heads"]), seed, result["evaluation_name"], shots
            score = result["score_details"]
            uncertainty = score["uncertainty"]
            found[key] = (score["score"], uncertainty["standard_error"]["value"], uncertainty["num_samples"])
    assert found == files
    assert len(paths) == 10


def test_every_eval_ever_has_each_documents_answer_beside_the_record(tmp_path):
    folder = sweep(tmp_path / "sweep", VARIANTS[:1], ("piqa", "copa"), count=20, text="Is the water cold?")
    runs = tmp_path / "runs"
    harness_run(runs, tasks=("boolq",), count=8, identity={})
    (samples_file,) = runs.glob("samples_*.jsonl")
    arguments = {f"gen_args_{at}": {"arg_0": "Is it?", "arg_1": choice} for at, choice in enumerate((" no", " yes"))}
    asked = [{**json.loads(line), "arguments": arguments} for line in samples_file.read_text().splitlines()]
    samples_file.write_text("".join(f"{json.dumps(line)}\n" for line in asked))
    output = tmp_path / "board"
    leaderboard([folder, runs], output, exports=("every_eval_ever",))
    home = output / "exports" / "every_eval_ever"
    schemas = Path(__file__).parent / "every_eval_ever"
    schema, instance = (
        json.loads((schemas / f"{name}.schema.json").read_text()) for name in ("eval", "instance_level_eval")
    )
    seen = {}
    for path in home.rglob("*.json"):
        record = json.loads(path.read_text())
        jsonschema.validate(record, schema)
        said = record["detailed_evaluation_results"]
        file = home / said["file_path"]
        assert file.parent == path.parent
        assert sha256(file.read_bytes()).hexdigest() == said["checksum"]
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(lines) == said["total_rows"]
        results = {result["evaluation_result_id"]: result for result in record["evaluation_results"]}
        for line in lines:
            jsonschema.validate(line, instance)
            assert (line["evaluation_id"], line["model_id"]) == (record["evaluation_id"], record["model_info"]["id"])
            assert line["evaluation"]["is_correct"] == (line["evaluation"]["score"] == 1)
            assert line["input"]["raw"]
        for name, result in results.items():
            scores = [line["evaluation"]["score"] for line in lines if line["evaluation_result_id"] == name]
            assert sum(scores) / len(scores) == pytest.approx(result["score_details"]["score"])
            seen[record["model_info"]["name"], name] = len(scores)
    assert sorted(seen.values()) == [8, 20, 20, 20, 20]
    (text,) = (text for file in home.rglob("*.jsonl") if '"boolq"' in (text := file.read_text()))
    boolq = [json.loads(line) for line in text.splitlines()]
    assert boolq[0]["input"] == {"raw": "Is it?", "reference": [" no"], "choices": [" no", " yes"]}
    assert boolq[0]["output"] == {"raw": ["-1.5", "-2.5"]}
    assert [one["extracted_value"] for one in boolq[0]["answer_attribution"]] == [" no"]


def test_every_eval_ever_leaves_out_documents_whose_question_nobody_kept(written):
    _, output = written
    home = output / "exports" / "every_eval_ever"
    assert not list(home.rglob("*.jsonl"))
    assert all("detailed_evaluation_results" not in json.loads(path.read_text()) for path in home.rglob("*.json"))


def test_the_command_writes_figures_and_exports(folder, tmp_path):
    arguments = ["leaderboard", str(folder), "--shots", "5", "--output_path", str(tmp_path), "--harness_table"]
    found = CliRunner().invoke(cli, [*arguments, "--figures", "svg", "--export", "model-index"], catch_exceptions=False)
    assert found.exit_code == 0
    assert found.output.startswith("| Variant | Tasks | Version | Filter | n-shot | Metric |")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "heads-rankings.svg", "heads-tasks-own.svg",
        "pareto-flops.svg", "pareto-parameters.svg",
    }  # fmt: skip
    assert (tmp_path / "exports" / "model-index" / "dense.md").exists()
    for wrong in (("--figures", "gif"), ("--export", "csv")):
        with pytest.raises(ArgumentError, match=f"{wrong[1]}': unknown"):
            CliRunner().invoke(cli, [*arguments, *wrong], catch_exceptions=False)


def test_tasks_without_a_dataset_of_the_hub_say_so(tmp_path):
    lines = samples("own_task", 0, "hf", 20)
    content = results("own_task", 0, lines, config={"model": "hf", "model_args": "pretrained=org/model"})
    content["configs"]["own_task"]["dataset_path"] = "json"
    path = tmp_path / "results_2026.json"
    path.write_text(json.dumps(content))
    board = compare(read_collection([path]))
    assert write_exports(board, tmp_path / "exports", ("eval_results",)) == []
    arguments = ["leaderboard", str(path), "--output_path", str(tmp_path / "board"), "--export", "eval_results"]
    said = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert said.exit_code == 0
    assert "eval_results: nothing to write: no task's data set is one of the hub's" in said.stderr
    (record,) = write_exports(board, tmp_path / "exports", ("every_eval_ever",))
    found = json.loads(record.read_text())
    assert found["evaluation_results"][0]["source_data"] == {"dataset_name": "own_task", "source_type": "other"}
    assert found["model_info"]["developer"] == "org"
    with pytest.raises(ArgumentError, match="export 'csv': unknown; expected some of model-index, eval_results"):
        write_exports(board, tmp_path, ("csv",))


def test_metrics_of_several_filters_are_paired_apart(tmp_path):
    for name, loss in (("hf", 0.0), ("vllm", 0.3)):
        path = harness_run(tmp_path / name, name=name, tasks=("gsm8k",), loss=loss, model=name)
        content = json.loads(path.read_text())
        (file,) = path.parent.glob("samples_*.jsonl")
        plain = [json.loads(line) for line in file.read_text().splitlines()]
        strict = [{**line, "filter": "strict", "acc": 0.0} for line in plain]
        file.write_text("".join(json.dumps(line) + "\n" for line in [*plain, *strict]))
        content["results"]["gsm8k"] |= {"acc,strict": 0.0, "acc_stderr,strict": 0.0}
        path.write_text(json.dumps(content))
    collection = read_collection([tmp_path])
    for metric, same in (("acc", False), ("acc (strict)", True)):
        board = compare(collection, BoardConfig(metrics=(metric,)))
        (difference,) = (c.difference for e in board.entries for c in e.cells.values() if c.difference)
        assert (difference.method, difference.paired) == ("paired score", 60)
        assert (difference.value == 0) == same


def test_the_harnesss_loggers_take_our_results(checkpoint, mask, in_benchmarks, task_manager, tmp_path):
    mask.save(tmp_path / "mask.json")
    found = lm_eval.simple_evaluate(
        model="pruned-opt",
        model_args=f"pretrained={checkpoint},mask={tmp_path / 'mask.json'}",
        tasks=["copa"],
        batch_size=4,
        device="cpu",
        limit=2,
        task_manager=task_manager,
    )
    # What needs the services' own packages is left out: the rest of the two loggers runs as it is.
    wandb = object.__new__(WandbLogger)
    wandb.post_init(found)
    _, logged = wandb._sanitize_results_dict()
    assert logged["copa/acc"] == found["results"]["copa"]["acc,none"]
    assert wandb._get_config()["cli_configs"]["model"] == "pruned-opt"
    frame = wandb._generate_dataset(found["samples"]["copa"], found["configs"]["copa"])
    assert frame.acc.mean() == found["results"]["copa"]["acc,none"]
    trackio = object.__new__(TrackioLogger)
    trackio.post_init(found)
    assert trackio._flatten_results_for_log()["copa/acc"] == found["results"]["copa"]["acc,none"]
    tracker = EvaluationTracker(output_path=str(tmp_path / "tracked"))
    tracker.general_config_tracker.model_name_sanitized = "pruned"
    logged_samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=logged_samples)
    tracker.save_results_samples(task_name="copa", samples=logged_samples["copa"])
    board = compare(read_collection([tmp_path / "tracked"]))
    (entry,) = board.entries
    assert next(iter(entry.cells.values())).value == found["results"]["copa"]["acc,none"]
    assert entry.cost.flops < entry.cost.flops_total
    assert json.loads(next((tmp_path / "tracked").rglob("results_*.json")).read_text())["pruning"]["heads_pruned"] == 6
