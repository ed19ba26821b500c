"""One metric's failure is that metric's: the others of its cell stay, and nothing is tried again and again."""

import json
import math

import pytest
from small_sweep import settings

from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.run import run_sweep

UTILS = """\
import math
import datasets
import numpy as np

def docs(**kw):
    rows = datasets.Dataset.from_list([{"q": "red blue", "choices": ["red", "blue"], "gold": i % 2} for i in range(4)])
    return datasets.DatasetDict({"test": rows})

def all_of_them(doc, results):
    right = int(results[0][0] > results[1][0])
    declared = "count mean large broken nan endless by_class named truth".split()
    values = {name: right for name in declared}
    return {**values, "undeclared": "text", "array": np.float32(right), "odd_value": float("nan"), "table": np.eye(2)}

def failing(doc, results): return {"broken": 0, "nan": 1}
def count(values): return sum(values)
def large(values): return math.exp(1e6)
def broken(values): raise ZeroDivisionError("no documents\\nof this kind")
def nan(values): return float("nan")
def endless(values): return math.inf
def by_class(values): return {"red": 0.5, "blue": float("nan")}
def named(values): return "good"
def truth(values): return True
def array(values): return np.float32(0.25)
def odd_value(values): return 0.75
def table(values): return np.eye(2).sum()
"""
METRICS = {
    "all": ["count", "large", "broken", "nan", "endless", "by_class", "named", "truth", "array", "odd_value", "table"],
    "failing": ["broken", "nan"],
}
TASK = """\
task: {name}
custom_dataset: !function utils.docs
output_type: multiple_choice
test_split: test
doc_to_text: q
doc_to_choice: choices
doc_to_target: gold
process_results: !function utils.{results}
metric_list:
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "utils.py").write_text(UTILS)
    for name, results in (("all", "all_of_them"), ("failing", "failing")):
        text = TASK.format(name=name, results=results)
        text += "  - {metric: mean, aggregation: mean, higher_is_better: true}\n" if name == "all" else ""
        for metric in METRICS[name]:
            text += f"  - {{metric: {metric}, aggregation: !function utils.{metric}, higher_is_better: true}}\n"
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def sweep(tasks, tmp_path_factory):
    said = []
    grid = {"tasks": ["all", "failing"], "num_fewshot": [0], "ranking": ["random:0"], "include_path": str(tasks)}
    config = settings(tmp_path_factory.mktemp("sweep"), **grid)
    return run_sweep(config, say=said.append, progress=False), said, config


def cell_of(sweep, task):
    row = next(row for row in sweep.rows if row.task == task)
    return disk.read_cell(disk.cell_path(sweep.folder, row.cell))


def test_metrics_that_are_numbers_stay_whatever_the_others_do(sweep):
    found = cell_of(sweep[0], "all")["results"]["all"]
    assert found["count,none"] in (0, 4)  # all documents are alike
    assert found["mean,none"] in (0.0, 1.0)
    assert found["mean_stderr,none"] == 0.0
    assert (found["array,none"], found["odd_value,none"], found["table,none"]) == (0.25, 0.75, 2.0)
    assert found["by_class,none"] == {"red": 0.5, "blue": None}
    assert (found["named,none"], found["truth,none"]) == ("good", True)
    columns = list(sweep[0].to_frame().columns)
    assert sorted(columns[columns.index("num_parameters_left") + 1 :]) == [
        "array", "count", "mean", "mean_stderr", "odd_value", "table",
    ]  # fmt: skip


def test_metrics_that_fail_are_named_with_why_in_the_cell_and_in_the_output(sweep):
    why = {
        "large,none": "OverflowError: math range error",
        "broken,none": "ZeroDivisionError: no documents of this kind",
        "nan,none": "NaN",
        "endless,none": "inf, not finite",
    }
    block = cell_of(sweep[0], "all")["cell"]["failed_metrics"]
    assert block.pop("undeclared,none").startswith("TypeError: unsupported operand")
    assert block == why
    lines = [line for line in sweep[1] if "on all, 0-shot" in line]
    assert len(lines) == 2
    for line in lines:
        assert all(f"; {metric}: {reason}" in line for metric, reason in why.items())
    assert not why.keys() & cell_of(sweep[0], "all")["results"]["all"].keys()


def test_values_of_documents_that_json_does_not_have_are_null(sweep):
    row = next(row for row in sweep[0].rows if row.task == "all")
    samples = sweep[0].samples(row.cell)
    assert len(samples) == 4
    assert {sample["odd_value"] for sample in samples} == {None}
    json.dumps(samples, allow_nan=False)


def test_a_cell_without_any_metric_fails_once_and_is_not_tried_again(sweep):
    found, _, config = sweep
    assert [line for line in found.status().failures if "failing" in line] == [
        f"{variant} on failing, 0-shot: ScoreError: task failing: broken,none: ZeroDivisionError: no documents of this "
        "kind"
        for variant in ("dense", "random (seed 0), heads 0.5, FFNs 0")
    ]
    said = []
    run_sweep(config, say=said.append, progress=False)
    assert said == []


@pytest.mark.parametrize("name", ["perplexity", "weighted_perplexity", "median"])
def test_the_harness_s_own_metrics_keep_value_and_error_or_fail_alone(name):
    from lm_eval import evaluator_utils
    from lm_eval.api import registry

    from lm_eval_prune.harness.metrics import guarded, take_failed

    class Task:
        task_name = "made"

        def aggregation(self):
            return {"m": registry.get_aggregation(name), "mean": registry.get_aggregation("mean")}

    good = {"perplexity": [-1.0, -2.0], "weighted_perplexity": [(-3.0, 2), (-1.0, 1)], "median": [1.0, 2.0, 4.0]}[name]
    bad = {"perplexity": [-1e6, -2e6], "weighted_perplexity": [(-1e6, 1), (-1e6, 1)], "median": [1.0, "a"]}[name]
    task, raw = Task(), {("m", "none"): good, ("mean", "none"): [0.0, 1.0]}
    plain, _ = evaluator_utils._compute_task_aggregations(task, raw, 200)
    with guarded(task) as failed:
        found, _ = evaluator_utils._compute_task_aggregations(task, raw, 200)
        assert (found, failed) == (plain, {"made": {}})
        broken, _ = evaluator_utils._compute_task_aggregations(task, {**raw, ("m", "none"): bad}, 200)
    assert not math.isfinite(broken["m,none"])
    assert list(take_failed(broken, failed["made"])) == ["m,none"]
    assert broken == {key: value for key, value in plain.items() if key.startswith("mean")}


def test_run_keeps_the_other_metrics_and_names_those_that_failed(tasks, caplog, monkeypatch):
    import lm_eval
    from lm_eval._cli import HarnessCLI
    from lm_eval.tasks import TaskManager

    from lm_eval_prune.harness.run import run_harness

    evaluated = []

    def execute(self, options):  # without the index of all tasks, which takes longer than everything else
        manager = TaskManager(include_defaults=False, include_path=options.include_path)
        settings = {"model": options.model, "device": "cpu", "limit": 4, "verbosity": None}
        evaluated.append(lm_eval.simple_evaluate(**settings, tasks=["all", "failing"], task_manager=manager))

    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda *args, **kwargs: None)
    monkeypatch.setattr(HarnessCLI, "execute", execute)
    run_harness(["--tasks=all,failing", f"--include_path={tasks}"])
    found = evaluated[0]["results"]
    assert found["all"]["count,none"] in (0, 4)
    assert (found["all"]["mean,none"], found["all"]["mean_stderr,none"]) in ((0.0, 0.0), (1.0, 0.0))
    assert found["all"]["large,none"] == math.inf
    assert math.isnan(found["all"]["broken,none"])
    assert math.isnan(found["failing"]["broken,none"])
    said = [record.getMessage() for record in caplog.records if record.name == "lm_eval_prune.harness.metrics"]
    assert sorted(line.partition(" unsupported")[0] for line in said) == [
        "task all: no broken: ZeroDivisionError: no documents of this kind; its other metrics hold",
        "task all: no large: OverflowError: math range error; its other metrics hold",
        "task all: no undeclared: TypeError:",
        "task failing: no broken: ZeroDivisionError: no documents of this kind; its other metrics hold",
    ]
