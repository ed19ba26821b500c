"""docs/touching.md is what the code touches of other projects: no name more, no name less, and each is there."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "touching.md").read_text(encoding="utf-8")
LIBRARIES = ("lm_eval", "transformers", "accelerate", "torch")
PUBLIC_MODULES = re.compile(
    r"(lm_eval\.(api\.(instance|model|task|registry|metrics)|evaluator|evaluator_utils|loggers|loggers\.utils|models(\.huggingface)?"
    r"|tasks|tasks\.manager|utils)|torch(\.nn(\.functional)?)?|transformers|transformers\.utils(\.hub)?|accelerate|accelerate\.utils"
    r"|transformers\.models\.auto\.(modeling|configuration)_auto)(\.[A-Za-z][A-Za-z_0-9]*)?"
)
"""Documented, or modules of which the table names what we use."""
NO_LIBRARIES = {"_asdict", "_replace", "_fields"}
"""Of named tuples: public, whatever their names."""
ROWS = [
    line.split("|")[1:-1]
    for line in TEXT.splitlines()
    if re.match(r"\| `(lm_eval|transformers|accelerate|torch)\.", line)
]
NAMES = {row[0].strip(" `"): row for row in ROWS}
ATTRIBUTES = set(re.findall(r"^\| `\.(_\w+)` \|", TEXT, re.MULTILINE))
SOURCES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("lm_eval_prune", "cli", "tasks")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imported():
    """Every name that our code imports from the libraries."""
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
                yield from (f"{node.module}.{each.name}" for each in node.names)
            elif isinstance(node, ast.Import):
                yield from (each.name for each in node.names if each.name.split(".")[0] in LIBRARIES)


def private_attributes():
    """Private attributes of anything but ourselves; of `super()` too."""
    own = {
        name
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        for name in (
            [node.attr]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            else [node.name] if isinstance(node, ast.FunctionDef) else []
        )
    }  # fmt: skip
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.fullmatch("_[a-z]\\w*", node.attr):
                of = node.value
                theirs = isinstance(of, ast.Call) and getattr(of.func, "id", "") == "super"
                mine = isinstance(of, ast.Name) and of.id in ("self", "cls")
                if (theirs and node.attr != "_take_configuration") or (not mine and node.attr not in own):
                    yield node.attr


def found(name):
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


def test_every_name_that_is_no_public_one_is_in_the_table():
    missing = {name for name in imported() if not PUBLIC_MODULES.fullmatch(name)} - NAMES.keys()
    assert not missing


def test_every_private_attribute_is_in_the_table():
    assert set(private_attributes()) - NO_LIBRARIES - ATTRIBUTES == set()


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there_is_used_where_it_says_and_is_tested(name):
    assert found(name) is not None
    _, where, _, _, test = (cell.strip(" `") for cell in NAMES[name])
    assert name.rpartition(".")[2] in (ROOT / where).read_text(encoding="utf-8")
    assert (ROOT / test).is_file()


def test_attributes_in_the_table_are_used():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    assert {name for name in ATTRIBUTES if f".{name}" not in sources and f"def {name}" not in sources} == set()
    assert len(NAMES) > 40
    assert len(ATTRIBUTES) > 20


def test_templates_are_compiled_once_where_the_harness_has_one_environment(monkeypatch):
    import jinja2
    import lm_eval.utils

    from lm_eval_prune.harness.templates import compile_once

    monkeypatch.setattr(lm_eval.utils, "env", jinja2.Environment())
    compile_once()
    one = lm_eval.utils.env.from_string("{{a}}")
    assert lm_eval.utils.env.from_string("{{a}}") is one
    monkeypatch.delattr(lm_eval.utils, "env")
    compile_once()


def test_names_of_both_releases_of_the_harness_are_found(monkeypatch):
    import lm_eval.evaluator

    from lm_eval_prune.harness.releases import answer_prefix, sample_size

    function = lm_eval.evaluator.get_sample_size
    monkeypatch.delattr(lm_eval.evaluator, "get_sample_size")
    monkeypatch.setattr(lm_eval.evaluator, "_get_sample_size", function, raising=False)
    assert sample_size(None, 7) == 7
    assert answer_prefix(object(), {}) is None


def test_requests_are_made_as_either_release_of_the_harness_takes_them(monkeypatch):
    """0.5 names the task and the document in fields, and hands `doc_id` to `construct_requests`."""
    from lm_eval_prune.harness import releases

    def of_next(request_type, doc, arguments, task_name, *, doc_id, idx=0):
        return request_type, arguments, task_name, doc_id, idx

    class Task:
        task_name = "toy"

        def construct_requests(self, doc, ctx, **said):
            return releases.request("loglikelihood", doc, (ctx, doc["answer"]), 3, task=self.task_name, **said)

    made = releases.requests_of(Task(), {"answer": " b"}, "a", 7)
    assert (made.request_type, made.args, made.task_name, made.doc_id, made.idx) == (
        "loglikelihood", ("a", " b"), "toy", 7, 3,
    )  # fmt: skip
    monkeypatch.setattr(releases, "Instance", of_next)
    assert releases.requests_of(Task(), {"answer": " b"}, "a", 7) == ("loglikelihood", ("a", " b"), "toy", 7, 3)
    monkeypatch.setattr("lm_eval.api.metrics.acc_all", None)
    assert releases.share_of_questions() is None


def test_a_release_without_trackio_is_one_line(monkeypatch):
    from lm_eval_prune.errors import ArgumentError
    from lm_eval_prune.harness.releases import trackio_logger

    monkeypatch.setitem(sys.modules, "lm_eval.loggers.trackio_logger", None)
    with pytest.raises(ArgumentError, match=r"--trackio_args: this release of lm_eval does not log to trackio"):
        trackio_logger()


def test_no_class_of_transformers_takes_another_number_of_heads_in_one_layer():
    """Why compacted checkpoints say it in fields of ours: see docs/compaction.md. Fails when transformers can."""
    from transformers import AutoModelForCausalLM

    from tests import families

    for family, name in (("llama", "num_attention_heads"), ("qwen3", "num_attention_heads"), ("opt", "ffn_dim")):
        settings = families.config_of(family).to_dict()
        with pytest.raises(Exception, match=f"'{name}' is a per-layer attribute"):
            AutoModelForCausalLM.from_config(
                type(families.config_of(family))(**settings, per_layer_config={1: {name: settings[name] // 2}})
            )
        skipping = type(families.config_of(family))(**settings, per_layer_config={1: {"skip": ["attention", "mlp"]}})
        whole = AutoModelForCausalLM.from_config(families.config_of(family)).num_parameters()
        assert AutoModelForCausalLM.from_config(skipping).num_parameters() == whole
