"""The quick reader of the harness's index of tasks: the index that the harness makes itself, in every file."""

import os
from pathlib import Path

import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager, _index

from lm_eval_prune.harness.task_index import quick

STOCK = Path(lm_eval.tasks.__file__).parent


def indexed(folder):
    return TaskManager(include_defaults=False, include_path=str(folder)).task_index


def same_index(folder):
    """The index of the folder, when both readers agree in it to the order of its settings."""
    original = _index.load_yaml
    with quick():
        found = indexed(folder)
    assert _index.load_yaml is original
    expected = indexed(folder)
    assert list(found) == list(expected)
    for name, entry in expected.items():
        assert found[name] == entry, name
        assert repr(found[name].cfg) == repr(entry.cfg), name
    return found


@pytest.mark.parametrize("name", ["super_glue", "glue", "bbh", "mmlu/default", "arc", "ruler", "leaderboard"])
def test_the_harness_s_own_folders_are_indexed_alike(name):
    assert same_index(STOCK / name)


FILES = {
    "_base.yaml": "dataset_path: a/b\ntask_list: [x]\nmetric_list: [{metric: acc}]\ntag: [many]\n",
    "deep/_middle.yml": "include: ../_base.yaml\nprocess_docs: !function ../utils.docs\n",
    "one.yaml": "task: one\ninclude: _base.yaml\ndataset_path: own\n",
    "two.yaml": "task: two\ninclude: [_base.yaml, deep/other]\ndoc_to_text: !function ./utils.text\n",
    "deep/other": "tag: other\nfewshot_split: 2024-01-01\n",
    "deep/three.yaml": "include: _middle.yml\ntask: three\n",
    "deep/function.yaml": "task: function\ndoc_to_text: !function [no, scalar]\n",
    "diamond.yaml": "task: diamond\ninclude: [one.yaml, two.yaml]\n",
    "itself.yaml": "task: itself\ninclude: itself.yaml\n",
    "circle.yaml": "task: circle\ninclude: deep/circle.yaml\n",
    "deep/circle.yaml": "include: ../circle.yaml\n",
    "absent.yaml": "task: absent\ninclude: nowhere.yaml\n",
    "home.yaml": "task: home\ninclude: ~/nowhere.yaml\n",
    "folder.yaml": "task: folder\ninclude: deep/..\n",
    "number.yaml": "task: number\ninclude: 5\n",
    "broken.yaml": "task: [broken\n",
    "list.yaml": "- task: in a list\n",
    "empty.yaml": "",
    "group.yaml": "group: some\ntask: [one, {task: two, num_fewshot: 3}]\n",
    "twice.yaml": "task: one\ntag: again\n",
    "python.yaml": "class: !function utils.Task\ntask: python\n",
    "latin.yaml": b"task: caf\xe9\n",
    "anchors.yaml": "task: anchors\nmetadata: &one {version: 1.0, on: yes}\nsame: *one\nmore: {<<: *one, version: 2}\n",
    "keys.yaml": "task: keys\n1: one\n~: none\ntrue: yes\n1: again\n",
    "unhashable.yaml": "task: unhashable\n? [a, b]\n: pair\n",
    "kinds.yaml": "task: kinds\nall: !!set {a, b}\npairs: !!omap [a: 1]\ntext: !!str 5\nbytes: !!binary aGk=\n",
    "unknown.yaml": "task: unknown\nvalue: !unknown 5\n",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tasks" / "deep").mkdir(parents=True)
    for name, text in FILES.items():
        (tmp_path / "tasks" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path / "tasks"


def test_odd_files_are_indexed_or_left_out_alike(folder):
    found = same_index(folder)
    assert {"one", "two", "three", "some", "python", "many", "other"} <= found.keys()
    assert not {"diamond", "itself", "circle", "absent", "home", "folder", "number", "function"} & found.keys()
    assert found["three"].cfg["process_docs"] == str(folder / "deep" / ".." / "utils.docs")
    assert "task_list" not in found["one"].cfg


def test_links_are_followed_alike(folder):
    (folder / "link.yaml").symlink_to("deep/three.yaml")
    (folder / "to_folder").symlink_to("deep")
    (folder / "through.yaml").write_text("task: through\ninclude: to_folder/../_base.yaml\n")
    (folder / "nothing.yaml").symlink_to("nowhere")
    assert "through" in same_index(folder)
    (folder.parent / "elsewhere").symlink_to(folder)
    assert "through" in same_index(folder.parent / "elsewhere")


def test_from_a_relative_folder_they_are_indexed_alike(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert "three" in same_index("tasks")


def test_tasks_that_include_one_file_share_no_object(folder):
    (folder / "four.yaml").write_text("task: four\ninclude: _base.yaml\n")
    found = same_index(folder)
    found["one"].cfg["metric_list"].append("changed")
    assert found["four"].cfg["metric_list"] == [{"metric": "acc"}]


def test_a_file_that_has_changed_is_read_anew(folder):
    assert same_index(folder)["one"].tags == {"many"}
    (folder / "_base.yaml").write_text("tag: changed\n")
    assert same_index(folder)["one"].tags == {"changed"}


def test_a_pipe_is_left_out_and_hangs_nothing(folder):
    from lm_eval.tasks import _yaml_loader

    from lm_eval_prune.harness.task_files import _Regular

    os.mkfifo(folder / "deep" / "pipe")
    (folder / "piped.yaml").write_text("task: piped\ninclude: deep/pipe\n")
    before, _yaml_loader.Path = _yaml_loader.Path, _Regular  # as every command of ours has it
    try:
        assert "piped" not in same_index(folder)
    finally:
        _yaml_loader.Path = before
