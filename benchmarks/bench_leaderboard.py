"""How long `lm-eval-prune leaderboard` takes: 1,000 results files with their outcomes by document.

    python benchmarks/bench_leaderboard.py [--files 1000] [--documents 200]

Makes up a sweep folder and a folder as `lm_eval --log_samples` writes them (samples with documents and requests), runs
the command on each in a fresh process (tables, tests, intervals, page), and writes a dated JSON. With `--page` also the
grid of the paper (14 tasks, 3 numbers of shots, 60 variants) with the importance files of OPT-66B's 64 layers of 72
heads, and the size of its page.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from sweep_folders import grid, importance, results, samples, sweep

from lm_eval_prune.variants import Variant

TASKS = [f"task{number}" for number in range(14)]


def seconds(folder: Path, output: Path) -> float:
    command = [sys.executable, "-m", "lm_eval_prune", "leaderboard", str(folder), "--output_path", str(output)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def variants(count: int) -> list[Variant]:
    """Of two rankings and of random ones with three seeds."""
    shares = [f"{0.9 * step / count:.4g}" for step in range(1, count + 1)]
    named = grid(("own", "aggregate"), heads=shares)
    seeded = [Variant("random", share, "0", seed=seed) for share in shares for seed in (0, 1, 2)]
    return [variant for five in zip(named[::2], named[1::2], *[iter(seeded)] * 3, strict=False) for variant in five]


def sweep_folder(folder: Path, files: int, documents: int) -> int:
    tasks, chosen = TASKS, variants(files)[: files // len(TASKS) - 1]
    sweep(folder, chosen, tasks, count=documents, losses=dict.fromkeys(chosen, 0.1))
    return len(list(folder.glob("cells/*.json")))


def harness_folder(folder: Path, files: int, documents: int) -> int:
    """One file a model and task, with all that the harness writes about a document."""
    folder.mkdir()
    for number in range(files):
        task, model = TASKS[number % len(TASKS)], f"org/model-{number // len(TASKS)}"
        lines = samples(task, 0, model, documents, loss=0.1)
        arguments = {"gen_args_0": {"arg_0": "The context of the question. " * 20, "arg_1": " the answer"}}
        long = [
            {**line, "doc": {"text": "word " * 60}, "arguments": arguments, "resps": [[[-1.5, False]]]}
            for line in lines
        ]
        content = results(task, 0, lines, config={"model": "hf", "model_args": f"pretrained={model}"})
        (folder / f"results_{number}.json").write_text(json.dumps(content), encoding="utf-8")
        text = "".join(json.dumps(line) + "\n" for line in long)
        (folder / f"samples_{task}_{number}.jsonl").write_text(text, encoding="utf-8")
    return files


def paper_grid(folder: Path) -> int:
    chosen = variants(24)[:60]
    sweep(folder, chosen, TASKS, (0, 1, 5), count=100, losses=dict.fromkeys(chosen, 0.1))
    for shots in (0, 1, 5):
        for task in TASKS:
            shape = {"layers": 64, "heads": 72}
            importance(folder, f"{task}-{shots}-heads", "heads", "gradient", task, shots, **shape)
            importance(folder, f"{task}-{shots}-ffns", "ffns", "knockout", task, shots, **shape)
    importance(folder, "prefix-matching", "heads", "prefix-matching", None, None, layers=64, heads=72)
    return len(list(folder.glob("cells/*.json")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        kinds = {"sweep folder": sweep_folder, "harness results": harness_folder}
        for name, make in kinds.items():
            folder = Path(work, name)
            count = make(folder, given.files, given.documents)
            measured[f"{name}, {count} files, s"] = round(seconds(folder, Path(work, "board")), 2)
        if given.page:
            folder = Path(work, "paper")
            count = paper_grid(folder)
            measured[f"the paper's grid, {count} cells, s"] = round(seconds(folder, Path(work, "board")), 2)
            page = Path(work, "board", "leaderboard.html")
            measured["its page, MB"] = round(page.stat().st_size / 1e6, 2)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        measured["peak memory, MB"] = round(peak)
    record("leaderboard", measured, files=given.files, documents=given.documents)


if __name__ == "__main__":
    main()
