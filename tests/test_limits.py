"""One meaning of `limit`, wherever it comes from: a whole number of documents, or a share of all below 1."""

import math
from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner

from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.limits import checked_limit, number_limited

BAD = [
    "2.5", "1.0000001", "nan", "inf", "-inf", "-1", "0", "-0.5", "1e300", "1e13", "²", "1_000", "ten", "", "0x10",
    "1/2", "0.5\x1d", "5\u3000", "\x1f5",
]  # fmt: skip
BAD_VALUES = [
    2.5,
    math.nan,
    math.inf,
    -3,
    0,
    True,
    False,
    10**5000,
    -(10**5000),
    Fraction(7, 2),
    1j,
    [5],
    b"5",
    np.float32(2.5),
]
GOOD = [
    ("5", 5), (" 200 ", 200), ("5.0", 5), ("2e2", 200), (".25", 0.25), ("1", 1), ("1.0", 1), ("0.999", 0.999),
    (5, 5), (5.0, 5), (0.25, 0.25), (10**12, 10**12), (np.int64(7), 7), (np.float32(0.5), 0.5), (Fraction(1, 4), 0.25),
]  # fmt: skip


@pytest.mark.parametrize(("given", "found"), GOOD)
def test_whole_numbers_become_int_and_shares_float(given, found):
    checked = checked_limit(given)
    assert checked == found
    assert type(checked) is (int if found >= 1 else float)


@pytest.mark.parametrize("given", [*BAD, *BAD_VALUES], ids=lambda given: type(given).__name__)
def test_everything_else_is_one_short_line(given):
    with pytest.raises(ArgumentError, match=r"^importance_limit=.*: expected a whole number of documents") as error:
        checked_limit(given, "importance_limit")
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("total", "limit", "found"), [(100, None, 100), (100, 7, 7), (5, 7, 5), (100, 0.125, 13), (3, 0.9, 3)]
)
def test_the_number_of_documents_is_the_harness_s(total, limit, found):
    from lm_eval.evaluator_utils import get_sample_size

    class Task:
        eval_docs = range(total)

    assert number_limited(total, limit) == found
    asked = get_sample_size(Task, limit)
    assert found == (total if asked is None else min(asked, total))


@pytest.mark.parametrize("value", ["2.5", "nan", "-1", "²", "1e300"])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["importance", "--tasks", "demo_facts", "-o", "x"], "--limit"),
        (["sweep", "--tasks", "demo_facts", "-o", "x"], "--limit"),
        (["sweep", "--tasks", "demo_facts", "-o", "x"], "--importance_limit"),
        (["plan", "125m"], "--limit"),
        (["plan", "125m"], "--importance_limit"),
        (["demo", "-o", "x"], "--limit"),
    ],
)
def test_every_command_refuses_it_in_the_same_words(tmp_path, monkeypatch, command, option, value):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(cli, [*command, f"{option}={value}"])
    assert isinstance(found.exception, ArgumentError)  # one line and exit code 2, as tests/test_cli.py shows
    expected = f"{option[2:]}={value}: expected a whole number of documents, at least 1, or a share below 1"
    assert str(found.exception) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [2.5, math.nan, -1, True, 10**5000], ids=["half", "nan", "minus", "true", "huge"])
def test_python_refuses_it_too(tmp_path, value):
    from lm_eval_prune.costs.study import Grid
    from lm_eval_prune.harness.cells import TaskRun
    from lm_eval_prune.harness.importance import ImportanceConfig
    from lm_eval_prune.harness.tasks import Seeds
    from lm_eval_prune.sweep.config import make_config
    from lm_eval_prune.sweep.demo import run_demo

    settings = {"component": "heads", "method": "random", "output_path": tmp_path / "out"}
    for call in (
        lambda: ImportanceConfig(**settings, limit=value),
        lambda: Grid(workloads=(), limit=value),
        lambda: Grid(workloads=(), importance_limit=value),
        lambda: TaskRun(None, "demo_facts", num_fewshot=0, limit=value, seeds=Seeds()),
        lambda: run_demo(tmp_path / "out", limit=value),
        lambda: make_config({"output_path": "x", "tasks": "a", "limit": value}),
        lambda: make_config({"output_path": "x", "tasks": "a", "importance_limit": value}),
    ):
        with pytest.raises(ArgumentError, match=r"limit"):
            call()
    assert list(tmp_path.iterdir()) == []
    assert ImportanceConfig(**settings, limit=np.int64(3)).limit == 3


@pytest.mark.parametrize("value", ["2.5", ".nan", "-1", "true", "1.e+300", "ten"])
def test_a_settings_file_names_its_line(tmp_path, value):
    from lm_eval_prune.sweep.config import load_configs

    path = tmp_path / "sweep.yaml"
    path.write_text(f"tasks: [piqa]\noutput_path: x\nlimit: {value}\n")
    with pytest.raises(ArgumentError, match=rf"^{path}, line 3: limit: "):
        load_configs(path)


def test_a_share_for_importance_reaches_the_plan(tmp_path):
    from lm_eval_prune.costs.plan import make_plan

    path = tmp_path / "sweep.yaml"
    path.write_text("tasks: [piqa]\nnum_fewshot: [0]\nimportance_limit: 0.5\n")
    whole, half = (
        make_plan("125m", **options) for options in ({"tasks": ("piqa",), "num_fewshot": (0,)}, {"config": path})
    )

    def documents(plan):
        return next(stage["work"] for stage in plan["stages"] if stage["name"] == "head importance (gradient)")

    assert documents(whole) == "200 documents"
    assert documents(half) == f"{math.ceil(16113 / 2):,} documents"
