"""What importance costs, against what it is said to cost. One command, one dated JSON file:

    python benchmarks/bench_importance.py --pretrained DIR [--benchmarks_data DIR]

Head importance against one forward pass without gradients over the same tokens (output layer at the continuation
only), and against the plain way (all weight gradients, output layer everywhere), in time and in memory beyond the
weights; all FFN knockouts against L dense evaluations. Medians over interleaved repeats. Real documents with
`--benchmarks_data`, a folder in which the harness's tasks load; otherwise generated token lists of like length.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results"
TASKS = ("piqa", "copa", "arc_easy", "rte")
WAYS = ("importance", "checkpointing", "plain")
CLAIMS = {
    "importance_over_forward": ("<=", 2.3),
    "plain_over_importance": (">=", 1.8),
    "importance_memory_over_plain": ("<=", 0.6),
    "ffn_knockouts_over_dense_evaluations": ("<=", 0.6),
}


def real_examples(pretrained: str, folder: str, num_fewshot: int, per_task: int) -> list[Any]:
    """Gold answers of training documents of `TASKS`."""
    from lm_eval_prune.harness.model import PrunedOPT
    from lm_eval_prune.harness.requests import build_documents, calibration
    from lm_eval_prune.harness.tasks import load_tasks

    lm = PrunedOPT(pretrained, device="cpu", dtype="float32")
    os.chdir(folder)  # the harness's data set names are folders there
    documents = [build_documents(task, num_fewshot=num_fewshot, limit=per_task) for task in load_tasks(TASKS).values()]
    return [example for each in documents for example in calibration(lm, each).examples]


def generated_examples(vocab_size: int, count: int, max_length: int) -> list[Any]:
    """Seeded token lists with the lengths of one-shot documents."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (), generator=generator))
        return torch.randint(4, vocab_size, (length,), generator=generator).tolist()

    longest = min(200, max_length - 20)
    return [([2, *tokens(min(40, longest), longest)], tokens(1, 20)) for _ in range(count)]


def forward_only(model: Any, examples: list[Any], batch_size: int) -> None:
    """One pass without gradients, output layer at the continuation only, on the batches of `head_importance`."""
    import torch

    from lm_eval_prune.decoders import trunk_of
    from lm_eval_prune.importance.examples import batches, checked, continuation_rows

    trunk = trunk_of(model)
    with torch.no_grad():
        for batch in batches(checked(examples, trunk.max_length, trunk.vocab_size), batch_size):
            trunk.output_layer(continuation_rows(trunk.body(batch.input_ids), batch))


def plain_importance(model: Any, examples: list[Any], batch_size: int) -> None:
    """As the research code: weight gradients on, logits at every position, head outputs and their gradients kept."""
    import torch
    import torch.nn.functional as F

    from lm_eval_prune.decoders import decoder_of, trunk_of
    from lm_eval_prune.importance.examples import batches, checked, continuation_rows

    trunk, kept = trunk_of(model), []

    def keep(module: Any, args: Any) -> None:
        args[0].retain_grad()
        kept.append(args[0])

    handles = [module.register_forward_pre_hook(keep) for module in decoder_of(model).head_outputs]
    try:
        for batch in batches(checked(examples, trunk.max_length, trunk.vocab_size), batch_size):
            kept.clear()
            logits = model(batch.input_ids, use_cache=False).logits
            rows = continuation_rows(logits, batch)
            losses = F.cross_entropy(rows.float(), batch.targets, reduction="none")
            (losses / torch.bincount(batch.owners)[batch.owners]).sum().backward()
            for output in kept:
                (output.detach() * output.grad).abs().sum()
            model.zero_grad(set_to_none=True)
    finally:
        for handle in handles:
            handle.remove()


def measured(what: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function, one after another within a repeat, so that a busy spell meets all of them."""
    for function in what.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(repeats):
        for name, function in what.items():
            gc.collect()
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(which: str, pretrained: str, examples: list[Any], batch_size: int, threads: int) -> float:
    """MiB beyond the loaded model at the peak of one run, in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(examples, file)
        file.flush()
        arguments = [sys.executable, str(HERE), "--pretrained", pretrained, "--batch_size", str(batch_size)]
        arguments += ["--threads", str(threads), "--memory_of", which, "--examples", file.name]
        answer = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    return float(answer.splitlines()[-1])


def print_peak_memory(which: str, pretrained: str, examples: list[Any], batch_size: int) -> None:
    """The subprocess of `peak_memory`."""
    import threading

    from lm_eval_prune.importance.gradient import head_importance

    model = load(pretrained)
    page, statm = os.sysconf("SC_PAGE_SIZE"), Path("/proc/self/statm")

    def resident() -> int:
        return int(statm.read_text().split()[1]) * page

    forward_only(model, examples[:1], 1)
    before = highest = resident()
    running = True

    def watch() -> None:
        nonlocal highest
        while running:
            highest = max(highest, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if which == "plain":
        plain_importance(model, examples, batch_size)
    else:
        head_importance(model, examples, batch_size=batch_size, checkpointing=which == "checkpointing")
    running = False
    watcher.join()
    click.echo((highest - before) / 2**20)


def load(pretrained: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(pretrained, dtype="float32").eval()


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("lm_eval_prune", "torch", "transformers", "lm_eval")}


def machine() -> dict[str, Any]:
    model = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {"cpu": model, "cores": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version()}


@click.command()
@click.option("--pretrained", help="Checkpoint folder. Default: OPT-125m's dimensions with random weights, made anew.")
@click.option("--benchmarks_data", help="Folder in which the harness's tasks load their data.")
@click.option("--num_fewshot", type=int, default=1, show_default=True)
@click.option(
    "--limit", type=int, default=8, show_default=True, help="Documents a task, or a quarter of those made up."
)
@click.option("--batch_size", type=int, default=8, show_default=True)
@click.option("--repeats", type=int, default=5, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--output_path", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--memory_of", hidden=True)
@click.option("--examples", "examples_file", hidden=True)
def main(
    pretrained: str | None,
    benchmarks_data: str | None,
    num_fewshot: int,
    limit: int,
    batch_size: int,
    repeats: int,
    threads: int,
    output_path: Path,
    memory_of: str | None,
    examples_file: str | None,
) -> None:
    """Measure head importance and FFN knockouts, and write a dated JSON file."""
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        if pretrained is None:
            from lm_eval_prune.random_opt import save_random_opt

            pretrained = str(save_random_opt(folder, "opt-125m"))
        if memory_of and examples_file:
            examples = json.loads(Path(examples_file).read_text())
            print_peak_memory(memory_of, pretrained, examples, batch_size)
            return
        model = load(pretrained)
        output_path = output_path.resolve()
        if benchmarks_data:
            examples = real_examples(pretrained, benchmarks_data, num_fewshot, limit)
        else:
            config = model.config
            examples = generated_examples(config.vocab_size, 4 * limit, config.max_position_embeddings)
        record = benchmark(model, pretrained, examples, batch_size, repeats, threads)
    record |= {"documents": ", ".join(TASKS) if benchmarks_data else "generated", "num_fewshot": num_fewshot}
    now = datetime.now(timezone.utc)
    record = {"date": now.isoformat(timespec="seconds"), "command": " ".join(sys.argv), **record}
    output_path.mkdir(parents=True, exist_ok=True)
    path = output_path / f"{now:%Y-%m-%d}-importance.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    for name, (sign, bound) in CLAIMS.items():
        value = record["ratios"][name]
        held = value <= bound if sign == "<=" else value >= bound
        click.echo(f"{name:40} {value:6.2f}  {sign} {bound}: {'holds' if held else 'DOES NOT HOLD'}")
    click.echo(path)


def benchmark(
    model: Any, pretrained: str, examples: list[Any], batch_size: int, repeats: int, threads: int
) -> dict[str, Any]:
    """The record of all measurements, without its date."""
    from lm_eval_prune.decoders import decoder_of
    from lm_eval_prune.importance.gradient import head_importance
    from lm_eval_prune.importance.knockout import ffn_importance, score_under_masks
    from lm_eval_prune.masks import PruningMask

    decoder = decoder_of(model)
    dense = PruningMask.dense(decoder.num_hidden_layers, decoder.num_attention_heads)
    seconds = measured(
        {
            "forward": lambda: forward_only(model, examples, batch_size),
            "importance": lambda: head_importance(model, examples, batch_size=batch_size),
            "checkpointing": lambda: head_importance(model, examples, batch_size=batch_size, checkpointing=True),
            "plain": lambda: plain_importance(model, examples, batch_size),
            "dense_evaluation": lambda: score_under_masks(model, examples, [dense], batch_size),
            "ffn_knockouts": lambda: ffn_importance(model, examples, batch_size=batch_size),
        },
        repeats,
    )
    median = {name: statistics.median(values) for name, values in seconds.items()}
    memory = {which: peak_memory(which, pretrained, examples, batch_size, threads) for which in WAYS}
    return {
        "ratios": {
            "importance_over_forward": median["importance"] / median["forward"],
            "checkpointing_over_forward": median["checkpointing"] / median["forward"],
            "checkpointing_memory_over_importance": memory["checkpointing"] / memory["importance"],
            "plain_over_importance": median["plain"] / median["importance"],
            "importance_memory_over_plain": memory["importance"] / memory["plain"],
            "ffn_knockouts_over_dense_evaluations": median["ffn_knockouts"]
            / (decoder.num_hidden_layers * median["dense_evaluation"]),
        },
        "claims": {name: f"{sign} {bound}" for name, (sign, bound) in CLAIMS.items()},
        "seconds": seconds,
        "extra_memory_mib": memory,
        "model": {"hidden_size": model.config.hidden_size, "num_hidden_layers": decoder.num_hidden_layers},
        "examples": len(examples),
        "tokens": sum(len(context) + len(continuation) for context, continuation in examples),
        "batch_size": batch_size,
        "threads": threads,
        "machine": machine(),
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
