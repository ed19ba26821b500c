"""The same sweep elsewhere: on a Ray cluster that loses a node, and in two processes of one launch."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from small_sweep import BEYOND, NUM_CELLS, cells, leftovers, samples, settings

from lm_eval_prune import PruneError
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.search.budget import parse_budget
from lm_eval_prune.search.run import SearchConfig, run_search
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.ray_executor import OnRay
from lm_eval_prune.sweep.results import Sweep
from lm_eval_prune.sweep.run import run_sweep
from tests import processes


@contextlib.contextmanager
def running_cluster(**resources):
    """A head without room for workers, and two nodes with room for one each, that have these `resources` too."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    started.nodes = [started.add_node(num_cpus=1, **resources) for _ in range(2)]
    yield started
    started.shutdown()


@pytest.fixture
def cluster(request):
    """One that a test may break; it may name what else nodes have."""
    with running_cluster(**getattr(request, "param", {})) as started:
        yield started


@pytest.fixture(scope="module")
def calm():
    """One whose nodes live on."""
    with running_cluster() as started:
        yield started


def actors():
    """Processes of the workers of this process's cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [process] * ("ray::_Worker" in str(process.cmdline()))
    return found


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, BEYOND], ids=["importance", "beyond"])
@pytest.mark.parametrize(
    "cluster", [{"num_gpus": 1}], ids=["gpus"], indirect=True
)  # Ray counts them, and looks for none
def test_a_node_of_a_ray_cluster_dies_and_no_cell_is_lost(cluster, tmp_path, caplog, monkeypatch, changes):
    said, threads = [], torch.get_num_threads()

    # No work before both nodes have loaded the model: else one may have done it all by then.
    free = OnRay.free
    monkeypatch.setattr(OnRay, "free", lambda self: 0 if self.waiting and not said else free(self))

    def say(line):
        said.append(line)
        if len(said) == 3:
            workers = actors()
            assert len(workers) == 2
            cluster.remove_node(cluster.nodes[0], allow_graceful=False)
            deadline = time.monotonic() + 60
            while all(map(is_alive, workers)):  # for a moment it outlives its node, and could do what is left
                assert time.monotonic() < deadline
                time.sleep(0.05)

    caplog.set_level(logging.WARNING)
    on_ray = {"executor": "ray", "ray_address": cluster.address, "masks_at_once": 2}
    run_sweep(settings(tmp_path / "ray", **on_ray, **changes), say=say, progress=False)
    torch.set_num_threads(1)  # as Ray has it: the order of a sum depends on it
    try:
        run_sweep(settings(tmp_path / "local", **changes), progress=False)
    finally:
        torch.set_num_threads(threads)
    assert len(said) == len(set(said)) == len(cells(tmp_path / "local"))
    assert "a worker died; its work goes to another" in caplog.text
    assert cells(tmp_path / "ray") == cells(tmp_path / "local")
    assert samples(tmp_path / "ray") == samples(tmp_path / "local")
    assert leftovers(tmp_path / "ray") == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])  # Ray has a handler of its own for the second
def test_a_stop_signal_ends_a_sweep_on_ray_and_its_workers(calm, tmp_path, number):
    on_ray = {"executor": "ray", "ray_address": calm.address, "masks_at_once": 1}
    config = settings(tmp_path / "ray", limit=100, **on_ray)  # much is left to do when the first cell is there
    (tmp_path / "sweep.yaml").write_text(config.model_dump_json())
    sweep = processes.Forked("-m", "lm_eval_prune", "sweep", "--config", tmp_path / "sweep.yaml")
    while "-shot: acc" not in sweep.output()[0]:  # until a cell is there
        assert sweep.poll() is None, sweep.output()
        time.sleep(0.05)
    done, seconds = sweep.stopped(number)
    assert seconds < 10
    assert done.returncode == 130
    assert "stopped; finished cells are kept in" in done.stderr
    assert 0 < len(cells(tmp_path / "ray")) < NUM_CELLS
    start = time.monotonic()
    while actors():
        assert time.monotonic() - start < 60
        time.sleep(0.1)


@pytest.mark.slow
def test_a_search_on_ray_ends_as_it_does_here(calm, tmp_path):
    draw, scores = np.random.default_rng(0), {}
    for name, values in (("head", draw.random((6, 6))), ("ffn", draw.random(6))):
        path = scores.setdefault(f"{name}_importance", tmp_path / f"{name}.json")
        ImportanceScores.from_tensor(torch.tensor(values), num_attention_heads=6).save(path)

    def searched(folder, **where):
        grid = {"tasks": ["demo_facts"], "num_fewshot": [2], "prune_heads": ["0"], "ranking": ["own"], "limit": 8}
        sweep = settings(folder, **grid, **where)
        budget = parse_budget("parameters=0.6")
        return run_search(SearchConfig(budget=budget, sweep=sweep, trials=2, **scores), progress=False)

    found = searched(tmp_path / "ray" / "search", executor="ray", ray_address=calm.address, num_workers=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as Ray has it: the order of a sum depends on it
    try:
        expected = searched(tmp_path / "local" / "search")
    finally:
        torch.set_num_threads(threads)
    assert found == expected
    for part in ("development", "test"):
        on_ray, here = (tmp_path / where / "search" / part for where in ("ray", "local"))
        assert samples(on_ray) == samples(here)
        assert len(cells(on_ray)) >= 2  # a mask and the dense model
        assert leftovers(on_ray) == []


def test_ray_without_a_cluster_is_one_line(tmp_path):
    config = settings(tmp_path, executor="ray", ray_address="127.0.0.1:1")
    with pytest.raises(PruneError, match=r"ray_address=127\.0\.0\.1:1: no Ray cluster there"):
        run_sweep(config, progress=False)


def launched(*command):
    """Standard output of two processes that share the work, as `accelerate launch` starts them.

    On a CPU `accelerate launch` itself would start a single process unless there is MPI.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*launcher, *map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_launched_processes_compute_what_the_harness_does_in_two(tmp_path):
    tasks = ["--tasks", "demo_facts", "--num_fewshot", 2, "--limit", 7, "--include_path", tasks_folder()]
    (tmp_path / "sweep.yaml").write_text("include_defaults: false")
    grid = ["--prune_heads", 0.5, "--ranking", "own:rescored@0.25", "--importance_limit", 4]
    grid += ["--config", tmp_path / "sweep.yaml"]
    out = launched("-m", "lm_eval_prune", "sweep", *tasks, *grid, "--output_path", tmp_path / "sweep")
    assert out.count("to dense)") == 1
    assert out.count("2 cells done, 0 running, 0 missing, 0 failed") == 1
    row = Sweep(tmp_path / "sweep").rows[1]
    path = disk.cell_path(tmp_path / "sweep", row.cell)
    found = disk.read_cell(path)
    assert found["cell"]["identity"]["num_processes"] == 2
    (tmp_path / "mask.json").write_text(json.dumps(found["pruning"]["mask"]))

    # What `lm_eval run` calls, without its index of all tasks.
    (tmp_path / "run.py").write_text(
        "import json, sys, lm_eval, lm_eval.tasks\n"
        "manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=sys.argv[2])\n"
        "found = lm_eval.simple_evaluate('pruned-opt', f'mask={sys.argv[1]}/mask.json', ['demo_facts'],\n"
        "    num_fewshot=2, batch_size=8, limit=7, task_manager=manager)\n"
        "if found: open(f'{sys.argv[1]}/found.json', 'w').write(json.dumps(found, default=str))\n"
    )
    done = processes.launched(tmp_path / "run.py", tmp_path, tasks_folder())
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "found.json").read_text())
    assert theirs["results"] == found["results"]
    expected = {sample["doc_id"]: sample for sample in theirs["samples"]["demo_facts"]}
    assert len(expected) == 7
    for sample in disk.read_samples(path):
        theirs = expected.pop(sample["doc_id"])
        for key in ("filtered_resps", "doc_hash", "prompt_hash", "target_hash", "acc"):
            assert sample[key] == theirs[key]
    assert not expected
