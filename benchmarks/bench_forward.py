"""Speed and memory on one GPU: dense, masked and compact OPT of true dimensions with random weights, and importance.

    python benchmarks/bench_forward.py [--size opt-6.7b] [--dtype bfloat16] [--compile]

One command, no data and no network. Forward passes end in logits at every position, as an evaluation's do; the mask
prunes 70 % of the heads and 20 % of the FFNs at random. Variants alternate, and medians count. `--device cpu` tries
the script itself out, and writes a file with `--keep` alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from common import record

from lm_eval_prune import compact
from lm_eval_prune.ablation import masked
from lm_eval_prune.costs import flops
from lm_eval_prune.costs.dimensions import dimensions_of
from lm_eval_prune.costs.workload import Load
from lm_eval_prune.importance.gradient import head_importance
from lm_eval_prune.random_opt import SIZES, opt_config
from lm_eval_prune.ranked_masks import random_mask


def random_model(size: str, device: torch.device, dtype: torch.dtype, **changes: Any) -> Any:
    """An OPT of true dimensions, made on the device: nothing of it is ever in the host's memory."""
    from transformers import OPTForCausalLM

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            torch.manual_seed(0)
            return OPTForCausalLM(opt_config(size, **changes)).eval()
    finally:
        torch.set_default_dtype(before)


def variants(model: Any, mask: Any, ids: torch.Tensor, *, compiled: bool) -> dict[str, Callable[[], Any]]:
    """Name -> one batch of it."""

    def forward(run: Any) -> Callable[[], Any]:
        @torch.no_grad()
        def batch() -> None:
            run(ids, use_cache=False)

        return batch

    def under_mask() -> None:
        with masked(model, mask):
            forward(model)()

    examples = [(row[:-8].tolist(), row[-8:].tolist()) for row in ids]
    found = {"dense": forward(model), "masked": under_mask}
    smaller = compact(model, mask)
    found["compact"] = forward(smaller)
    if compiled:
        found["compact, compiled"] = forward(torch.compile(smaller))
        found["dense, compiled"] = forward(torch.compile(model))
    found["importance"] = lambda: head_importance(model, examples, batch_size=len(examples))
    found["importance, checkpointing"] = lambda: head_importance(
        model, examples, batch_size=len(examples), checkpointing=True
    )
    return found


def measured(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """(seconds, MiB beside what was there before)."""
    on_gpu = device.type == "cuda"
    before = 0
    if on_gpu:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, (torch.cuda.max_memory_allocated() - before) / 2**20 if on_gpu else 0.0


@click.command(context_settings={"show_default": True})
@click.option("--size", type=click.Choice(list(SIZES)), default="opt-6.7b")
@click.option("--num_hidden_layers", type=int, help="Fewer layers of the same width, where the size does not fit.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16")
@click.option("--batch_size", type=int, default=8)
@click.option("--length", type=int, default=512, help="Tokens of each input.")
@click.option("--repeats", type=int, default=10)
@click.option("--compile", "compiled", is_flag=True, help="Dense and compact by torch.compile, too.")
@click.option("--device", default="cuda")
@click.option("--keep", is_flag=True, help="Write a CPU's figures to a file, too.")
def main(
    size: str,
    num_hidden_layers: int | None,
    dtype: str,
    batch_size: int,
    length: int,
    repeats: int,
    compiled: bool,
    device: str,
    keep: bool,
) -> None:
    """Measure, print and write results/forward-gpu-<date>.json."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise click.UsageError("no GPU found: these figures are a GPU's; --device cpu tries the script out")
    place = torch.device(device)
    changes = {"num_hidden_layers": num_hidden_layers} if num_hidden_layers else {}
    model = random_model(size, place, getattr(torch, dtype), **changes)
    depth, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    mask = random_mask(depth, heads, prune_heads="0.7", prune_ffns="0.2", seed=0)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, model.config.vocab_size, (batch_size, length), generator=generator).to(place)
    work = variants(model, mask, ids, compiled=compiled)
    first = {name: measured(batch, place)[0] for name, batch in work.items()}  # compilation, if any, is in here
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, batch in work.items():
            runs[name].append(measured(batch, place))
    load = Load(batch_size * length, batch_size * length * (length + 1) / 2, batch_size * length)
    operations = flops.forward(dimensions_of(size), load) if not changes else None
    results = {}
    for name, found in runs.items():
        seconds = statistics.median(one for one, _ in found)
        results[name] = {
            "seconds": seconds,
            "tokens_per_second": batch_size * length / seconds,
            "peak_mib": max(memory for _, memory in found),
            "first_run_seconds": first[name],
        }
    if operations:
        results["dense"]["tflops"] = operations / results["dense"]["seconds"] / 1e12
    dense = results["dense"]["seconds"]
    for name, found in results.items():
        click.echo(f"{name:26} {found['tokens_per_second']:12,.0f} tokens/s  {dense / found['seconds']:5.2f} x dense")
    if place.type != "cuda" and not keep:
        return
    settings = {"size": size, "num_hidden_layers": depth, "dtype": dtype, "batch_size": batch_size, "length": length}
    settings |= {"repeats": repeats, "threads": torch.get_num_threads()}
    if place.type == "cuda":
        record("forward-gpu", results, device=torch.cuda.get_device_name(), **settings)
    else:
        record(f"forward-{place.type}", results, **settings)


if __name__ == "__main__":
    main()
