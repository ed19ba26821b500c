"""How fast the packed scorer is against the harness's `hf`, and how exact.

    python benchmarks/bench_scoring.py [--benchmarks_data DIR] [--models opt-125m,llama-125m] [--output_path DIR]

Without `--pretrained`, random models of OPT-125m's dimensions and of a Llama's of the same size with three query
heads a key. Both scorers get the same tokenised requests in the same process, `hf` at the fastest of
`--batch_sizes`; runs alternate, and medians count. `hf` serves one-token answers to one context from one pass, by
its logits cache: there it is also timed with `logits_cache=False`, which reads the context for every choice. Every
finished (task, shots) is written to the JSON at once; the same command continues a file that is there. With
`--extras` also: a 70 % heads + 20 % FFNs mask against its FLOPs, and all FFN knockouts. Both scorers' FLOPs a second
stand beside those of the best matrix product of the same precision and threads, measured in the same run;
`scoring_tables.py` makes the tables of docs/evidence/scoring.md from the files.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import click
import torch
from common import RESULTS, machine, versions
from scoring_measure import Scorers, extras, matmul_peak, measure, shares_of_peak
from scoring_requests import TASKS, generated_requests, real_documents, training_texts
from transformers import LlamaConfig

from lm_eval_prune.files import read_json, write_json
from lm_eval_prune.random_opt import opt_config, save_random_model

MODELS: dict[str, Callable[[], Any]] = {
    "opt-125m": lambda: opt_config("opt-125m"),
    "llama-125m": lambda: LlamaConfig(
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        hidden_size=768,
        intermediate_size=2048,
        vocab_size=50272,
        max_position_embeddings=2048,
    ),
}
"""Name -> the configuration of a random model of these dimensions."""


@click.command(context_settings={"show_default": True})
@click.option("--pretrained", help="A checkpoint folder, in the place of --models.")
@click.option("--models", default=",".join(MODELS), help=f"Commas between some of {', '.join(MODELS)}.")
@click.option("--benchmarks_data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--tasks", default=",".join(TASKS), help="Commas between task names.")
@click.option("--num_fewshot", default="0,5", help="Commas between numbers of shots.")
@click.option("--limit", type=int, default=8, help="Documents of a task.")
@click.option("--repeats", type=int, default=3)
@click.option("--batch_sizes", default="1,4,16", help="Tried for hf; the packed scorer gets the fastest one, too.")
@click.option("--dtype", "dtypes", default="float32", help="Commas between precisions; both scorers compute in each.")
@click.option("--device", default="cpu")
@click.option("--memory/--no-memory", default=True, help="Peak memory, each scorer in a process of its own.")
@click.option("--extras", "with_extras", is_flag=True, help="Masked and knockout speed on the first task and shots.")
@click.option(
    "--minutes", type=float, help="No cell begins after so long; each model and precision has its part of it."
)
@click.option("--output_path", default=RESULTS, type=click.Path(file_okay=False, path_type=Path), help="A folder.")
def main(
    pretrained: str | None, models: str, dtypes: str, minutes: float | None, output_path: Path, **settings: Any
) -> None:
    """Compare the packed scorer with hf, task by task."""
    output_path, begun = output_path.resolve(), time.monotonic()
    names = [Path(pretrained).name] if pretrained else models.split(",")
    runs = [(name, dtype) for name in names for dtype in dtypes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        places = {
            name: pretrained or str(_random_model(name, Path(folder), settings["benchmarks_data"])) for name in names
        }
        for number, (name, dtype) in enumerate(runs, 1):
            kind = f"{name}-{settings['device']}-{dtype}"
            click.echo(f"\n## {name}, {dtype}\n")
            until = math.inf if minutes is None else begun + 60 * minutes * number / len(runs)
            path = output_path / f"scoring-{kind}-{date.today()}.json"
            _run(places[name], path, {**settings, "dtype": dtype, "until": until})


def _random_model(name: str, folder: Path, benchmarks_data: Path | None) -> Path:
    if name not in MODELS:
        raise click.UsageError(f"--models {name}: unknown; expected some of {', '.join(MODELS)}")
    texts = training_texts(benchmarks_data) if benchmarks_data else ()
    config = MODELS[name]()
    return save_random_model(folder / name, config, texts=texts, num_tokens=config.vocab_size)


def _run(pretrained: str, output_path: Path, settings: dict[str, Any]) -> None:
    """All cells of one model that `output_path` does not have yet."""
    results = read_json(output_path) if output_path.exists() else _new_results(settings)
    command = " ".join(["python", "benchmarks/bench_scoring.py", *_without_paths(sys.argv[1:])])
    results["commands"] = list(dict.fromkeys([*results.get("commands", []), command]))
    scorers = Scorers(pretrained, settings["device"], settings["dtype"])
    tasks = settings["tasks"].split(",")
    if settings["benchmarks_data"]:
        requests_of = real_documents(scorers.hf(1), settings["benchmarks_data"], tasks, settings["limit"])
    else:

        def requests_of(task: str, shots: int) -> list[Any]:
            return generated_requests(task, shots, settings["limit"], scorers.model.config.vocab_size)

    results["matmul_peak_gflops"] = max(results.get("matmul_peak_gflops", 0.0), matmul_peak(scorers))
    batch_sizes = [int(size) for size in settings["batch_sizes"].split(",")]
    done = {(cell["task"], cell["num_fewshot"]) for cell in results["cells"]}
    for shots in map(int, settings["num_fewshot"].split(",")):
        for task in tasks:
            if (task, shots) in done or time.monotonic() >= settings["until"]:
                continue
            requests = requests_of(task, shots)
            cell = measure(scorers, requests, batch_sizes, settings["repeats"])
            if settings["memory"]:
                cell |= scorers.memory(requests, cell["batch_size"])
            results["cells"].append({"task": task, "num_fewshot": shots, "limit": settings["limit"], **cell})
            for each in results["cells"]:
                each |= shares_of_peak(each, results["matmul_peak_gflops"])
            write_json(output_path, results)
            click.echo(json.dumps(results["cells"][-1]))
            if settings["with_extras"] and "extras" not in results:
                results["extras"] = {
                    "task": task,
                    "num_fewshot": shots,
                    **extras(scorers, requests, settings["repeats"]),
                }
                write_json(output_path, results)
    if results["cells"]:
        click.echo(_table(results))


def _new_results(settings: dict[str, Any]) -> dict[str, Any]:
    on_gpu = torch.device(settings["device"]).type == "cuda"
    return {
        "date": str(date.today()),
        "machine": {
            **machine(),
            "threads": torch.get_num_threads(),
            **({"gpu": torch.cuda.get_device_name()} if on_gpu else {}),
        },
        "versions": versions(),
        "dtype": settings["dtype"],
        "real_documents": settings["benchmarks_data"] is not None,
        "repeats": settings["repeats"],
        "cells": [],
    }


def _without_paths(arguments: list[str]) -> list[str]:
    """The command with folders by their last name: results say nothing of where things lay."""
    return [Path(argument).name if "/" in argument else argument for argument in arguments]


def _table(results: dict[str, Any]) -> str:
    """A Markdown table, and a line for each further figure."""
    where = results["machine"]
    processor = where.get("gpu") or f"{where['threads']} threads of {where['processor']}"
    lines = [
        f"{processor}; "
        f"{', '.join(f'{name} {text}' for name, text in results['versions'].items())}; "
        f"matrix product peak {results['matmul_peak_gflops']:.0f} GFLOP/s",
        "",
        *(f"    {command}" for command in results["commands"]),
        "",
        "| task | shots | hf s (batch) | packed s | ratio | by FLOPs | ratio without cache | "
        "tokens asked | computed | of peak | max difference | memory hf / packed MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in results["cells"]:
        memory = f"{cell.get('hf_peak_mib', 0):.0f} / {cell.get('packed_peak_mib', 0):.0f}"
        lines.append(
            f"| {cell['task']} | {cell['num_fewshot']} | {cell['hf_s']:.2f} ({cell['batch_size']}) | "
            f"{cell['packed_s']:.2f} | {cell['ratio']:.2f} | {cell['ratio_by_flops']:.2f} | "
            f"{cell['ratio_without_cache']:.2f} | "
            f"{cell['tokens_asked']:,} | {cell['tokens_computed']:,} | "
            f"{cell['packed_share_of_peak']:.0%} | {cell['max_difference']:.1e} | {memory} |"
        )
    for shots in sorted({cell["num_fewshot"] for cell in results["cells"]}):
        cells = [cell for cell in results["cells"] if cell["num_fewshot"] == shots]
        ratio, bound, without_cache = (
            statistics.geometric_mean(cell[key] for cell in cells)
            for key in ("ratio", "ratio_by_flops", "ratio_without_cache")
        )
        lines.append(
            f"| **geometric mean of {len(cells)}** | {shots} | | | **{ratio:.2f}** | {bound:.2f} | "
            f"{without_cache:.2f} | | | | | |"
        )
    shares = [cell["ratio"] / cell["ratio_by_flops"] for cell in results["cells"]]
    lines += ["", f"{statistics.geometric_mean(shares):.2f} of what FLOPs allow, geometric mean of all"]
    if "extras" in results:
        lines += ["", *(f"- {name}: {value}" for name, value in results["extras"].items())]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
