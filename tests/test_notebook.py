"""The notebook of the docs: executed, cell by cell, as a notebook does; what is stored is what its code gives."""

import ast
import json
import re

import pytest
from docs_text import ROOT

NOTEBOOK = ROOT / "docs" / "study.ipynb"
NUMBER = re.compile(r"-?\d+\.\d*|-?\d+")

pytestmark = pytest.mark.skipif(not NOTEBOOK.exists(), reason="the tests run outside a checkout")


def cells():
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_it_is_short_small_and_has_its_outputs():
    lines = [line for cell in cells() for line in "".join(cell["source"]).splitlines() if line.strip()]
    assert len(lines) <= 30
    assert NOTEBOOK.stat().st_size < 100_000
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    outputs = [output for cell in cells() for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"execute_result"}  # no errors, no progress bars
    assert any("image/png" in output["data"] for output in outputs)


@pytest.mark.slow
def test_its_outputs_are_those_of_its_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    compared = 0
    for number, cell in enumerate(cells(), start=1):
        tree = ast.parse("".join(cell["source"]), f"cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names) if last else None
        for output in cell["outputs"]:
            if "image/png" not in output["data"]:
                require_alike("".join(output["data"]["text/plain"]), repr(value))
                compared += 1
            else:
                assert value.to_dict()["mark"]["type"] == "line"
    assert compared >= 4


def require_alike(stored, now):
    """The same words, and numbers that differ by no more than another processor's rounding may turn an answer."""
    ours, theirs = ([float(number) for number in NUMBER.findall(text)] for text in (stored, now))
    assert ours == pytest.approx(theirs, abs=0.06), f"{stored}\n{now}"
    words = [re.sub(r"[\s-]+", " ", NUMBER.sub("0", text)) for text in (stored, now)]
    assert words[0] == words[1]
