"""The notebook of the docs, executed in a kernel as Jupyter does it: what is stored is what its code gives."""

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
    """In a kernel of its own, as Jupyter runs it."""
    nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[dev]'")
    nbformat = pytest.importorskip("nbformat")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    (tmp_path / "work").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(tmp_path / "work")}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    executed = [cell for cell in notebook.cells if cell.cell_type == "code"]
    compared = 0
    for cell, now in zip(cells(), executed, strict=True):
        results = [output for output in now.outputs if output.output_type == "execute_result"]
        assert len(results) == len(cell["outputs"])
        for output, result in zip(cell["outputs"], results, strict=True):
            if "image/png" in output["data"]:
                assert result.data.keys() >= {"text/plain"}
                assert any("vegalite" in kind or kind.startswith("image/") for kind in result.data)
            else:
                require_alike("".join(output["data"]["text/plain"]), result.data["text/plain"])
                compared += 1
    assert compared >= 4


def require_alike(stored, now):
    """The same words, and numbers that differ by no more than another processor's rounding may turn an answer."""
    ours, theirs = ([float(number) for number in NUMBER.findall(text)] for text in (stored, now))
    assert ours == pytest.approx(theirs, abs=0.06), f"{stored}\n{now}"
    words = [re.sub(r"[\s-]+", " ", NUMBER.sub("0", text)) for text in (stored, now)]
    assert words[0] == words[1]
