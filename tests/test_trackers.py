"""A sweep's cells in wandb and trackio: stand-ins for the services' packages behind the harness's own loggers."""

import importlib.machinery
import importlib.util
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner
from small_sweep import settings

from lm_eval_prune import PruneError, run_sweep
from lm_eval_prune.cli.main import cli
from lm_eval_prune.harness.trackers import PATIENCE, Tracker

GRID = {"tasks": ["demo_facts"], "num_fewshot": [0, 2], "ranking": ["random:0"], "limit": 4}
NUM_CELLS = 4


class Run:
    """Of wandb: what was logged."""

    def __init__(self, init):
        self.init, self.config, self.summary, self.logged, self.finished = init, {}, {}, {}, False

    def log(self, values, step=None):
        self.logged |= values

    def log_artifact(self, artifact):
        self.artifact = artifact

    def finish(self):
        self.finished, sys.modules["wandb"].run = True, None


class Table:
    def __init__(self, columns):
        self.rows = []

    def add_data(self, *row):
        self.rows.append(row)


class Artifact:
    def __init__(self, name, type):
        self.name = name

    def new_file(self, *arguments, **settings):
        return open("/dev/null", "w")  # noqa: PTH123


def module(name, **content):
    made = ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(made).update(content)
    return made


@pytest.fixture
def wandb(monkeypatch):
    """The runs that are begun."""
    runs = []

    def init(**arguments):
        runs.append(Run(arguments))
        sys.modules["wandb"].run = runs[-1]
        return runs[-1]

    package = module("wandb", init=init, run=None, Table=Table, Artifact=Artifact, __version__="0.31.0")
    printer = module("wandb.sdk.lib.printer", new_printer=lambda: None)
    for made in (package, module("wandb.sdk"), module("wandb.sdk.lib"), printer):
        monkeypatch.setitem(sys.modules, made.__name__, made)
    return runs


@pytest.fixture
def trackio(monkeypatch):
    """The runs that are begun."""
    runs = []

    def init(**arguments):
        runs.append(SimpleNamespace(init=arguments, logged={}, finished=False))
        return runs[-1]

    package = module(
        "trackio",
        init=init,
        config={},
        log=lambda values, step=None: runs[-1].logged.update(values),
        finish=lambda: setattr(runs[-1], "finished", True),
    )
    monkeypatch.setitem(sys.modules, "trackio", package)
    return runs


def require_cells(runs, sweep, project):
    frame = sweep.to_frame().sort_values(["num_fewshot", "ranking"])
    runs = sorted(runs, key=lambda run: (run.settings["num_fewshot"], run.settings["ranking"]))
    assert len(runs) == len(frame) == NUM_CELLS
    for run, (_, row) in zip(runs, frame.iterrows(), strict=True):
        assert (run.init["project"], run.init["group"]) == (project, sweep.folder.name)
        assert f"on demo_facts, {row.num_fewshot}-shot" in run.init["name"]
        for key in ("ranking", "prune_heads", "task", "num_fewshot", "cell", "heads_pruned", "num_parameters_left"):
            assert run.settings[key] == row[key], key
        assert run.settings["model_name"] == "lm-eval-prune/bundled"
        assert run.logged["demo_facts/acc"] == row.acc
        assert run.finished


def test_every_cell_is_a_run_of_wandb(wandb, tmp_path):
    config = settings(tmp_path / "study", **GRID, wandb_args={"project": "pruning"})
    sweep = run_sweep(config, progress=False)
    for run in wandb:
        run.settings = run.config
        assert run.config["task_configs"].keys() == {"demo_facts"}
        assert run.logged["evaluation/eval_results"].rows[0][0] == "demo_facts"
    require_cells(wandb, sweep, "pruning")
    run_sweep(config, progress=False)  # nothing is computed, and nothing logged
    assert len(wandb) == NUM_CELLS


def test_every_cell_is_a_run_of_trackio(trackio, tmp_path):
    sweep = run_sweep(settings(tmp_path / "study", **GRID, trackio_args="project=pruning"), progress=False)
    for run in trackio:
        run.settings = run.init["config"]
    require_cells(trackio, sweep, "pruning")
    assert len({run.settings["cell"] for run in trackio}) == NUM_CELLS


def test_a_tracker_that_fails_costs_no_cell_and_is_left_alone_then(wandb, tmp_path, monkeypatch, caplog):
    def init(**arguments):
        tried.append(arguments["name"])
        raise OSError("no route to host")

    tried = []
    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    with caplog.at_level(logging.WARNING):
        sweep = run_sweep(settings(tmp_path, **GRID, wandb_args={"project": "pruning"}), progress=False)
    assert set(sweep.to_frame().status) == {"done"}
    assert len(tried) == PATIENCE < NUM_CELLS
    lines = [record.message for record in caplog.records if record.message.startswith("wandb: ")]
    assert len(lines) == PATIENCE + 1
    assert lines[0].endswith("is not logged: OSError: no route to host")
    assert "no further cells are logged" in lines[-1]


def test_what_cannot_be_tracked_is_said_before_anything_is_computed(wandb, tmp_path, monkeypatch):
    sys.modules["wandb"].run = Run({})
    with pytest.raises(PruneError, match=r"a run is going on.*wandb\.finish\(\)"):
        run_sweep(settings(tmp_path / "a", **GRID, wandb_args={"project": "x"}), progress=False)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name in ("wandb", "trackio") else real(name, *rest)
    )
    for option, package in (("--wandb_args", "wandb"), ("--trackio_args", "trackio")):
        words = ["sweep", "--config", "bundled", option, "project=x", "--output_path", str(tmp_path / "b")]
        result = CliRunner().invoke(cli, words)
        assert str(result.exception) == f"{option} needs the package {package}: pip install {package}"
    result = CliRunner().invoke(cli, [*words[:3], "--wandb_args", "{", "--output_path", str(tmp_path / "b")])
    assert str(result.exception).startswith("wandb_args")
    assert list(tmp_path.iterdir()) == []


def test_without_a_tracker_nothing_is_imported_or_logged():
    tracker = Tracker(group="x", wandb_args={}, trackio_args={})
    tracker.log("a cell", {}, {"results": {}})
    assert tracker.logs == {}


@pytest.mark.slow
def test_wandb_itself_takes_the_cells_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="a package of its own: pip install wandb")
    monkeypatch.chdir(tmp_path)
    tracker = {"project": "pruning", "mode": "offline", "dir": str(tmp_path)}
    grid = {**GRID, "num_fewshot": [0], "ranking": ["random:0"]}
    sweep = run_sweep(settings(tmp_path / "study", **grid, wandb_args=tracker), progress=False)
    runs = [path.read_bytes() for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb")]
    assert len(runs) == 2
    for cell in sweep.to_frame().cell:
        (run,) = [run for run in runs if cell.encode() in run]
        assert b"demo_facts/acc" in run
        assert b"num_parameters_left" in run


def test_trackio_itself_takes_the_cells_offline(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="a package of its own: pip install trackio")
    grid = {**GRID, "num_fewshot": [0], "ranking": ["random:0"]}
    sweep = run_sweep(settings(tmp_path / "study", **grid, trackio_args={"project": "pruning"}), progress=False)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "trackio").rglob("pruning.db*"))
    for cell in sweep.to_frame().cell:
        assert cell.encode() in kept
    for name in (b"demo_facts/acc", b"num_parameters_left", b"prune_heads"):
        assert kept.count(name) >= 2
    assert capfd.readouterr().out == ""
