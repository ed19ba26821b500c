"""One sweep against as many separate runs of the harness, and what a cell costs beside its computation.

    cd FOLDER_OF_DATA_SETS && python bench_sweep.py --pretrained DIR [--tasks arc_easy,hellaswag,piqa] [--limit 8]

The sweep: 10 shares of heads, 0 to 0.9, pruned at random, on every task at 5 shots. Against it: 10 runs of `lm_eval
--model hf` for the same tasks, documents and shots (all are equal work: `hf` cannot prune). Both are whole commands,
start to end; an untimed run before them converts the data sets. With fewer `--hf_runs` their mean is scaled to 10, and
the record says so. The overhead is measured on the bundled model: what the sweep of N cells takes longer than their
answers, from two sweeps of different sizes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from common import record

SHARES = [f"0.{share}" for share in range(10)]


@click.command(context_settings={"show_default": True})
@click.option("--pretrained", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--tasks", default="arc_easy,hellaswag,piqa")
@click.option("--num_fewshot", default=5)
@click.option("--limit", default=8, help="Documents of a task.")
@click.option("--hf_runs", default=len(SHARES), type=click.IntRange(1), help="Of the separate runs, how many are made.")
@click.option("--batch_size", default=8)
@click.option("--device", default="cpu")
def main(
    pretrained: Path, tasks: str, num_fewshot: int, limit: int, hf_runs: int, batch_size: int, device: str
) -> None:
    """Time both, and print and record the ratio."""
    pretrained = pretrained.resolve()
    common = ["--model_args", f"pretrained={pretrained}", "--tasks", tasks, "--num_fewshot", str(num_fewshot)]
    common += ["--batch_size", str(batch_size), "--device", device]
    documents = ["--limit", str(limit)]
    with tempfile.TemporaryDirectory() as folder:
        _seconds("lm_eval", "--model", "hf", *common, "--limit", "1")
        sweep = _seconds(
            "lm_eval_prune", "sweep", *common, *documents, "--prune_heads", ",".join(SHARES), "--ranking", "random:0",
            "--output_path", f"{folder}/sweep",
        )  # fmt: skip
        print(f"sweep: {sweep:.1f} s", flush=True)
        hf = []
        for number in range(hf_runs):
            hf.append(_seconds("lm_eval", "--model", "hf", *common, *documents))
            print(f"hf run {number + 1} of {hf_runs}: {hf[-1]:.1f} s", flush=True)
        separate = len(SHARES) * statistics.mean(hf)
        found: dict[str, Any] = {
            "sweep_s": sweep,
            "hf_run_s": hf,
            "separate_runs_s": separate,
            "separate_runs_extrapolated_from": hf_runs,
            "ratio": separate / sweep,
            **_overhead(Path(folder)),
        }
    settings = {"tasks": tasks, "num_fewshot": num_fewshot, "limit": limit, "batch_size": batch_size, "device": device}
    record("sweep", found, **settings, model=pretrained.name, prune_heads=SHARES)


def _overhead(folder: Path) -> dict[str, float]:
    """Seconds a cell takes on the bundled model, and of them those outside the model's answers."""
    from lm_eval_prune.harness.registration import tasks_folder
    from lm_eval_prune.scoring import scorer
    from lm_eval_prune.sweep.config import make_config
    from lm_eval_prune.sweep.run import run_sweep

    inside, original = 0.0, scorer.answer_pack

    def timed(*arguments: Any) -> Any:
        nonlocal inside
        start = time.perf_counter()
        try:
            return original(*arguments)
        finally:
            inside += time.perf_counter() - start

    def sweep(name: str, seeds: int) -> tuple[float, float, int]:
        nonlocal inside
        config = make_config(
            {
                "output_path": folder / name,
                "tasks": "demo_recall,demo_labels",
                "num_fewshot": 5,
                "prune_heads": "0.3,0.5",
                "ranking": f"random:{'+'.join(map(str, range(seeds)))}",
                "limit": 60,
                "include_defaults": False,
                "include_path": str(tasks_folder()),
            }
        )
        inside, start = 0.0, time.perf_counter()
        rows = run_sweep(config, progress=False).rows
        return time.perf_counter() - start, inside, len({row.cell for row in rows})

    scorer.answer_pack = timed
    try:
        sweep("warm", 1)
        (few_s, few_in, few), (many_s, many_in, many) = sweep("few", 2), sweep("many", 12)
    finally:
        scorer.answer_pack = original
    a_cell = (many_s - few_s) / (many - few)
    return {
        "bundled_cell_s": a_cell,
        "bundled_cell_overhead_s": a_cell - (many_in - few_in) / (many - few),
        "bundled_sweep_s": many_s,
        "bundled_sweep_cells": many,
        "bundled_sweep_overhead_per_cell_s": (many_s - many_in) / many,
    }


def _seconds(module: str, *arguments: str) -> float:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
