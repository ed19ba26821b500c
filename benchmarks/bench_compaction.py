"""Compaction: speed against what the FLOPs predict, files and memory against the counts, peak memory of every way.

    python benchmarks/bench_compaction.py --size opt-125m --work DIR

Random weights of true dimensions in float32; 70 % of the heads and 20 % of the FFNs pruned at random. The checkpoint is
written to DIR once (`--prepare` does only that). Memory is measured in a process of its own for each way, above what
the interpreter holds with everything imported.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from common import record
from torch import nn
from transformers import AutoModelForCausalLM, OPTForCausalLM

from lm_eval_prune import PruningMask, compact_checkpoint
from lm_eval_prune.compaction.loading import CompactingLoader
from lm_eval_prune.random_opt import SIZES, save_random_opt
from lm_eval_prune.ranked_masks import random_mask

SHARD = {"opt-125m": "100MB", "opt-1.3b": "500MB"}
TOKENS = {"opt-125m": (8, 128), "opt-1.3b": (2, 128)}
"""(batch, length) of the timed forward pass."""


def prepared(work: Path, size: str) -> Path:
    """The sharded checkpoint, made once."""
    folder = work / size
    if not (folder / "model.safetensors.index.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        save_random_opt(folder, size)
        model = OPTForCausalLM.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size=SHARD[size])
    return folder


def linear_flops(model: nn.Module, batch: int, length: int) -> float:
    """Multiplications and additions of all layers: linear maps by their own weights, attention by its heads.

    Attention is counted causal; the output layer runs at one position of each sequence.
    """
    maps = [module for module in model.model.decoder.layers.modules() if isinstance(module, nn.Linear)]
    weights = sum(module.weight.numel() for module in maps)
    width = sum(layer.self_attn.q_proj.out_features for layer in model.model.decoder.layers if has_heads(layer))
    attention = 4 * width * length * (length + 1) / 2
    return batch * (2 * weights * length + attention + 2 * model.lm_head.weight.numel())


def has_heads(layer: Any) -> bool:
    return hasattr(layer.self_attn, "q_proj")


def seconds(models: dict[str, nn.Module], batch: int, length: int, repeats: int) -> dict[str, list[float]]:
    """Of each model's forward pass, one after the other in turn."""
    ids = torch.randint(4, 1000, (batch, length), generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for name, model in models.items():
                start = time.perf_counter()
                model(ids, use_cache=False, logits_to_keep=1)
                if repeat:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
    return times


def megabytes(key: str) -> float:
    """A line of /proc/self/status, in MB (10^6 bytes)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(key)


def worker(way: str, source: str, mask: PruningMask, target: str) -> dict[str, float]:
    """Peak and final memory of one way, above that of the imports."""
    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.perf_counter()
    if way == "stream":
        compact_checkpoint(source, mask, target, max_shard_size=target.split("shard-")[-1])
        model = None
    elif way == "load=compact":
        model = CompactingLoader(mask).from_pretrained(source, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(source)
        with torch.no_grad():  # weights may be mapped: touch them all
            model(torch.tensor([[5, 6]]))
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "peak_MB": round(megabytes("VmHWM") - before, 1),
        "resident_MB": round(megabytes("VmRSS") - before, 1) if model is not None else 0.0,
    }


def in_a_process(way: str, source: Path, mask: Path, target: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", way, str(source), str(mask), str(target)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def file_megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


def measured(work: Path, size: str, repeats: int) -> dict[str, Any]:
    source, target = prepared(work, size), work / f"{size}-shard-{SHARD[size]}"
    shutil.rmtree(target, ignore_errors=True)
    layers, heads = SIZES[size]["num_hidden_layers"], SIZES[size]["num_attention_heads"]
    mask = random_mask(layers, heads, prune_heads="0.7", prune_ffns="0.2")
    mask.save(work / f"{size}-mask.json")
    memory = {
        way: in_a_process(way, source, work / f"{size}-mask.json", target) for way in ("stream", "load", "load=compact")
    }
    memory["load compacted"] = in_a_process("load", target, work / f"{size}-mask.json", target)
    torch.set_num_threads(2)
    models = {
        "dense": AutoModelForCausalLM.from_pretrained(source),
        "compact": AutoModelForCausalLM.from_pretrained(target),
    }
    parameters = {name: model.num_parameters() for name, model in models.items()}
    flops = {name: linear_flops(model, *TOKENS[size]) for name, model in models.items()}
    times = seconds(models, *TOKENS[size], repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    predicted, found = flops["dense"] / flops["compact"], medians["dense"] / medians["compact"]
    shards = [file.stat().st_size / 1e6 for folder in (source, target) for file in folder.glob("*.safetensors")]
    return {
        "size": size,
        "mask": f"{mask.num_pruned_heads} of {mask.num_heads} heads, {mask.num_pruned_ffns} of {layers} FFNs",
        "parameters": parameters,
        "parameters_left": parameters["compact"] / parameters["dense"],
        "flops": flops,
        "seconds": {name: [round(value, 3) for value in values] for name, values in times.items()},
        "speed_up_predicted": predicted,
        "speed_up": found,
        "share_of_predicted": found / predicted,
        "file_MB": {"dense": file_megabytes(source), "compact": file_megabytes(target)},
        "files_left": file_megabytes(target) / file_megabytes(source),
        "memory": memory,
        "resident_left": memory["load compacted"]["resident_MB"] / memory["load"]["resident_MB"],
        "largest_shard_MB": max(shards),
        "bound_MB": parameters["compact"] * 4 / 1e6 + 2 * max(shards),
    }


@click.command()
@click.option("--size", type=click.Choice(list(SHARD)), default="opt-125m", show_default=True)
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Folder for checkpoints.")
@click.option("--repeats", type=int, default=5, show_default=True)
@click.option("--prepare", is_flag=True, help="Only write the checkpoint.")
@click.option("--worker", "task", nargs=4, hidden=True)
def main(size: str, work: Path, repeats: int, prepare: bool, task: tuple[str, str, str, str] | None) -> None:
    """Measure one size and write the results."""
    if task:
        way, source, mask, target = task
        print(json.dumps(worker(way, source, PruningMask.load(mask), target)))
    elif prepare:
        prepared(work, size)
    else:
        batch, length = TOKENS[size]
        results = measured(work, size, repeats)
        record(f"compaction-{size}", results, dtype="float32", threads=2, batch=batch, length=length, repeats=repeats)


if __name__ == "__main__":
    main()
