"""`compact`, `demo` and `paper` killed at exact points: what is left is nothing, whole, or gone with the next run."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lm_eval_prune import compact_checkpoint
from lm_eval_prune.errors import ArgumentError
from tests import processes

pytestmark = pytest.mark.slow


def killed(*arguments):
    script = Path(__file__).parent / "killed_commands.py"
    done = processes.run(script, *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"code"')]


def content(folder):
    """Name -> tensors of a file of weights, bytes of another."""
    return {
        path.name: {name: tensor.tolist() for name, tensor in load_file(path).items()}
        if path.suffix == ".safetensors"
        else path.read_bytes()
        for path in folder.iterdir()
    }


def test_a_killed_compaction_leaves_no_folder_or_a_whole_one_and_the_next_run_tidies_up(checkpoint, mask, tmp_path):
    mask.save(tmp_path / "mask.json")
    (tmp_path / "killed").mkdir()
    killed("compact", checkpoint, tmp_path / "mask.json", tmp_path / "killed")
    compact_checkpoint(checkpoint, mask, tmp_path / "never", max_shard_size="9KB")
    expected = content(tmp_path / "never")
    assert len([name for name in expected if name.endswith(".safetensors")]) > 1
    folders = sorted((tmp_path / "killed").iterdir())
    assert len(folders) > 10
    left = [folder for folder in folders if (folder / "out").exists()]
    assert 0 < len(left) < len(folders) / 2
    for folder in folders:
        if folder in left:
            assert content(folder / "out") == expected
            with pytest.raises(ArgumentError, match="not empty"):
                compact_checkpoint(checkpoint, mask, folder / "out")
            compact_checkpoint(checkpoint, mask, folder / "other")
        else:
            compact_checkpoint(checkpoint, mask, folder / "out", max_shard_size="9KB")
            assert content(folder / "out") == expected
        assert {path.name for path in folder.iterdir()} <= {"out", "other"}


def test_a_killed_demo_leaves_whole_files_alone_and_the_next_run_ends_as_if_never_stopped(tmp_path):
    points = [30, 120, 260]
    lines = killed("demo", tmp_path / "killed", *points)
    assert [line["code"] for line in lines] == [-9] * len(points)
    assert [line["broken"] for line in lines] == [[]] * len(points)
    assert 0 < lines[0]["files"] < lines[1]["files"] < lines[2]["files"]
    killed("demo", tmp_path / "never")

    def files(name):
        paths = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {path.relative_to(tmp_path / name).as_posix(): path for path in paths}

    again, never = files("killed"), files("never")
    assert again.keys() == never.keys()
    cells = [name for name in never if name.startswith("sweep/cells/") and name.endswith(".json")]
    assert len(cells) == 30
    for name in cells:
        assert json.loads(again[name].read_text())["results"] == json.loads(never[name].read_text())["results"], name


def test_a_killed_study_of_the_paper_ends_as_if_never_stopped(tmp_path):
    points = [20, 60, 110]
    lines = killed("paper", tmp_path / "killed", *points)
    assert [line["code"] for line in lines] == [-9] * len(points)
    assert [line["broken"] for line in lines] == [[]] * len(points)
    killed("paper", tmp_path / "never")
    for name in ("sweep/importance", "sweep/cells", "induction"):
        again, never = (sorted(path.name for path in (tmp_path / run / name).iterdir()) for run in ("killed", "never"))
        assert again == never
    reports = [json.loads((tmp_path / name / "paper.json").read_text()) for name in ("killed", "never")]
    commands = [[bool(section.pop("command")) for section in report["sections"]] for report in reports]
    assert commands[0] == commands[1]  # they name the folder
    assert reports[0] == reports[1]
