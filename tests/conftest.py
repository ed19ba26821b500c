"""Tiny random OPTs in the two shapes that OPT comes in, a checkpoint folder, and small local data sets."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from pathlib import Path

from tests import isolation

USERS = isolation.Watch(isolation.caches()) if isolation.OWN not in os.environ else None
"""The user's caches as they were when the first process began, before anything was imported that writes there."""
FIRST = isolation.settle()

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Two workers share the cores, the models are tiny; and the order of a sum, to the last bit, depends on the threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch.utils import collect_env

from lm_eval_prune import PruningMask
from lm_eval_prune.random_opt import save_random_opt
from tests import families, fixture_data, stock_index

TINY = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "ffn_dim": 48, "vocab_size": 512}
PRE_NORM = {**TINY, "word_embed_proj_dim": 32, "do_layer_norm_before": True, "max_position_embeddings": 512}
POST_NORM = {**TINY, "word_embed_proj_dim": 16, "do_layer_norm_before": False, "max_position_embeddings": 512}
LIVELY = {"init_std": 0.3}
"""Weights large enough that a wrong head or bias shows in the logits."""


# Every results file describes the machine, for which torch asks a dozen programs: once a process is enough.
collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)
stock_index.install()


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no worker begins a long one when the other has nothing left to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_sessionfinish(session):
    """A run that has touched the user's caches fails, whatever its tests say."""
    if USERS is not None and USERS.changed():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if USERS is not None and (changed := USERS.changed()):
        terminalreporter.section("the user's caches changed, by these tests or by another program", red=True)
        terminalreporter.write_line("\n".join(changed[:20]))


def pytest_unconfigure():
    if FIRST:
        isolation.remove_own_home()


SIGNALS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


@pytest.fixture(autouse=True)
def no_stop_signals():
    """A sweep's command handles stop signals until its process ends, which here is that of further tests."""
    yield
    for number, handler in SIGNALS.items():
        signal.signal(number, handler)
    if (stopping := sys.modules.get("lm_eval_prune.sweep.stopping")) is not None:
        stopping.forget()


@pytest.fixture(autouse=True)
def harness_logs_are_caught():
    """A command of the harness's, run by an earlier test, keeps its log to itself for the rest of the process."""
    logging.getLogger("lm_eval").propagate = True


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """{"pre": folder, "post": folder}: checkpoints of both shapes, with tokenizers."""
    folder = tmp_path_factory.mktemp("checkpoints")
    shapes = {"pre": PRE_NORM, "post": POST_NORM}
    return {name: save_random_opt(folder / name, seed=1, **shape, **LIVELY) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def checkpoint(checkpoints):
    """The folder of a tiny pre-layer-norm OPT."""
    return checkpoints["pre"]


@pytest.fixture(params=["pre", "post"])
def tiny_opt(request, checkpoints):
    """A fresh tiny OPT in evaluation mode: pre-layer-norm, then post-layer-norm with projected embeddings."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoints[request.param], dtype=torch.float32).eval()


@pytest.fixture
def input_ids():
    return torch.randint(4, 512, (2, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask():
    """A mask of the tiny models: some heads, one whole layer of heads, one FFN."""
    return PruningMask(
        num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1, 3), 2: (0, 1, 2, 3)}, pruned_ffns=(1,)
    )


@pytest.fixture(scope="session")
def benchmarks_folder(tmp_path_factory):
    """Data sets of the 14 tasks in the folders that the harness's task definitions load, a few made-up rows each."""
    return fixture_data.write_all(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture
def in_benchmarks(benchmarks_folder, monkeypatch):
    """The test runs inside that folder, so that `--tasks hellaswag` finds `Rowan/hellaswag` there."""
    monkeypatch.chdir(benchmarks_folder)
    return benchmarks_folder


@pytest.fixture(scope="session")
def task_manager():
    """The harness's definitions of the 14 tasks, and ours; its whole index takes seconds to build."""
    import lm_eval.tasks

    from lm_eval_prune.harness.registration import tasks_folder

    stock = Path(lm_eval.tasks.__file__).parent
    names = ("hellaswag", "piqa", "arc", "openbookqa", "winogrande", "super_glue", "glue/rte")
    folders = [*(stock / name for name in names), tasks_folder()]
    return lm_eval.tasks.TaskManager(include_defaults=False, include_path=folders)


@pytest.fixture(params=list(families.VARIANTS))
def tiny_model(request):
    """A fresh tiny model of each proven family and variation, in evaluation mode."""
    return families.made(request.param)
