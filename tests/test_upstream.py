"""The diffs for the harness apply to the files that are installed, alone and together, and each brings its test."""

import re
import shutil
import subprocess
from pathlib import Path

import lm_eval
import pytest

UPSTREAM = Path(__file__).parents[1] / "upstream"
DIFFS = sorted(UPSTREAM.glob("*.diff"))


def applied(diffs, folder):
    """The harness's files that the diffs change, changed, and the files that they add."""
    for diff in diffs:
        for name in re.findall("^--- a/(.*)$", diff.read_text(encoding="utf-8"), re.MULTILINE):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(Path(lm_eval.__file__).parents[1] / name, target)
    for diff in diffs:
        subprocess.run(["git", "apply", str(diff)], cwd=folder, check=True, timeout=60)
    return folder


@pytest.mark.parametrize("diffs", [*([diff] for diff in DIFFS), DIFFS], ids=[*(diff.stem for diff in DIFFS), "all"])
def test_it_applies_and_is_python(diffs, tmp_path):
    folder = applied(diffs, tmp_path)
    tests = list((folder / "tests").glob("test_*.py"))
    assert len(tests) == len(diffs)
    for path in folder.rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), path, "exec")


def test_each_has_a_text_of_about_ten_lines():
    texts = re.split("^## ", (UPSTREAM / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert sorted(text.partition(":")[0] for text in texts) == [diff.name for diff in DIFFS]
    assert all(5 <= len(text.strip().splitlines()) <= 12 and "Here: " in text for text in texts)


def test_with_its_diff_the_labels_of_multirc_are_the_places_of_their_choices(tmp_path):
    import yaml
    from lm_eval.utils import apply_template

    folder = applied([UPSTREAM / "multirc.diff"], tmp_path)
    config = yaml.safe_load((folder / "lm_eval/tasks/super_glue/multirc/default.yaml").read_text())
    choices = apply_template(config["doc_to_choice"], {"answer": "A bee"})
    assert choices.index("no") < choices.index("yes")
