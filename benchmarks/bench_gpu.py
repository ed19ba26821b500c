"""Scoring, importance and a sweep on one GPU, against the harness's `hf` at its own best batch size.

    python benchmarks/bench_gpu.py [--models opt-1.3b,smollm2-135m] [--dtype bfloat16] [--minutes 7]

One command, no data and no network: models of true dimensions with random weights, documents of the tasks' lengths. For
every model and number of shots:

- scoring: a task by `hf`, by the packed scorer with small attention calls stacked (`packed`) and with flex attention
  (`flex`), dense and under a mask of 70 % of the heads and 20 % of the FFNs;
- sweep: ten shares of heads at once, against ten times `hf`;
- importance: gradient importance, and all FFN knockouts against as many dense evaluations.

Medians of runs in turn; what is compiled is in the first run, which stands apart. Each part is written to the JSON as
soon as it is measured, the same command goes on where it was, and no part begins after `--minutes`. A part that fails
says why, and the others go on. `--device cpu` tries the script out. `bench_forward.py` times bare forward passes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import click
import torch
from common import RESULTS, machine, versions
from scoring_measure import Scorers, matmul_peak
from scoring_requests import generated_requests
from transformers import AutoModelForCausalLM, LlamaConfig

from lm_eval_prune import PruningMask
from lm_eval_prune.budget import free_memory
from lm_eval_prune.decoders.forward import DecoderForward
from lm_eval_prune.files import read_json, write_json
from lm_eval_prune.importance.gradient import head_importance
from lm_eval_prune.random_opt import opt_config, small_tokenizer
from lm_eval_prune.ranked_masks import random_mask
from lm_eval_prune.scoring import score
from lm_eval_prune.scoring.flops import all_packs, evaluation_flops
from lm_eval_prune.scoring.trie import build_trie

MODELS: dict[str, Callable[[], Any]] = {
    "opt-1.3b": lambda: opt_config("opt-1.3b"),
    "smollm2-135m": lambda: LlamaConfig(
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        hidden_size=576,
        intermediate_size=1536,
        vocab_size=49152,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
    ),
}
"""Name -> the configuration of a random model of these dimensions."""
SHARES = [f"0.{share}" for share in range(10)]
"""Of heads, in the sweep."""
EXAMPLES = 32
"""Of gradient importance."""


class Loaded(Scorers):
    """A random model, made on the device, behind all scorers."""

    def __init__(self, name: str, device: str, dtype: str) -> None:
        self.device, before = torch.device(device), torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            with self.device:
                torch.manual_seed(0)
                self.model = AutoModelForCausalLM.from_config(MODELS[name](), dtype=getattr(torch, dtype)).eval()
        finally:
            torch.set_default_dtype(before)
        self.model.requires_grad_(False)
        self.tokenizer = small_tokenizer()
        self.shape = self.model.config.num_hidden_layers, self.model.config.num_attention_heads
        self.mask = random_mask(*self.shape, prune_heads="0.7", prune_ffns="0.2", seed=0)

    def timed(self, work: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Name -> seconds of the first run, the median of `repeats` in turn and MiB at most; and what each returned.

        What raises is left out of the others' turns, and says why.
        """
        measured: dict[str, Any] = {}
        answers: dict[str, Any] = {}
        for name, each in work.items():
            try:
                seconds, answers[name] = self.seconds(each)
                measured[name] = {"first_s": seconds, "runs_s": []}
            except Exception as error:  # of a kernel that this device has not, or of memory
                measured[name] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
                free_memory()
        for _ in range(repeats):
            for name in answers:
                if self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                measured[name]["runs_s"].append(self.seconds(work[name])[0])
                if self.device.type == "cuda":
                    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
                    measured[name]["peak_mib"] = max(peak, measured[name].get("peak_mib", 0.0))
        for name in answers:
            measured[name]["s"] = statistics.median(measured[name]["runs_s"])
        return measured, answers

    def best_hf(self, requests: list[Any], batch_sizes: list[int]) -> tuple[int, dict[str, float | None]]:
        """hf's fastest batch size, and the seconds of each; None where memory does not suffice."""
        found: dict[str, float | None] = {}
        for size in batch_sizes:
            lm = self.hf(size)
            try:
                lm._loglikelihood_tokens(requests[: 2 * size], disable_tqdm=True)  # the first call starts kernels
                found[str(size)] = self.seconds(lambda lm=lm: lm._loglikelihood_tokens(requests, disable_tqdm=True))[0]
            except torch.OutOfMemoryError:
                found[str(size)] = None
                free_memory()
        tried = {size: seconds for size, seconds in found.items() if seconds is not None}
        if not tried:
            raise RuntimeError(f"out of memory at every batch size of {batch_sizes}")
        return int(min(tried, key=tried.__getitem__)), found


def scoring(loaded: Loaded, requests: list[Any], batch_sizes: list[int], repeats: int) -> dict[str, Any]:
    """One task by every scorer, dense and masked; shares are of the FLOPs that packs take."""
    best, by_size = loaded.best_hf(requests, batch_sizes)
    models = {
        "hf": loaded.hf(best),
        "packed": loaded.pruned("auto"),
        "flex": loaded.pruned("auto", scorer="flex"),
        "packed, 70/20": loaded.pruned("auto", loaded.mask),
        "flex, 70/20": loaded.pruned("auto", loaded.mask, scorer="flex"),
    }
    work = {name: lambda lm=lm: lm._loglikelihood_tokens(requests, disable_tqdm=True) for name, lm in models.items()}
    measured, answers = loaded.timed(work, repeats)
    trie = build_trie([request[1:] for request in requests], models["packed"].max_length)
    packs = all_packs(DecoderForward(loaded.model), trie, None)
    for name, found in measured.items():
        if "s" in found and name != "hf":
            mask = loaded.mask if "70/20" in name else PruningMask.dense(*loaded.shape)
            found["tflops"] = evaluation_flops(loaded.model.config, packs, mask) / found["s"] / 1e12
            found["ratio_to_hf"] = measured["hf"]["s"] / found["s"] if "s" in measured["hf"] else None
    return {
        "hf_batch_size": best,
        "hf_s_by_batch_size": by_size,
        "requests": len(requests),
        "tokens_asked": sum(map(len, trie.inputs)),
        "tokens_computed": sum(map(len, packs)),
        **measured,
        "differences": {
            f"{one}, {other}": max(abs(a[0] - b[0]) for a, b in zip(answers[one], answers[other], strict=True))
            for one, other in (("hf", "packed"), ("packed", "flex"), ("packed, 70/20", "flex, 70/20"))
            if one in answers and other in answers
        },
    }


def sweep(loaded: Loaded, requests: list[Any], batch_sizes: list[int], repeats: int) -> dict[str, Any]:
    """Ten masks at once, against hf once for each."""
    best, _ = loaded.best_hf(requests, batch_sizes)
    pairs = [request[1:] for request in requests]
    masks = [random_mask(*loaded.shape, prune_heads=share, prune_ffns="0", seed=0) for share in SHARES]
    hf = loaded.hf(best)
    measured, _ = loaded.timed(
        {
            "hf": lambda: hf._loglikelihood_tokens(requests, disable_tqdm=True),
            "ten masks, packed": lambda: score(loaded.model, pairs, masks),
            "ten masks, flex": lambda: score(loaded.model, pairs, masks, flex=True),
        },
        repeats,
    )
    for name, found in measured.items():
        if name != "hf" and "s" in found and "s" in measured["hf"]:
            found["ratio_to_ten_hf"] = len(masks) * measured["hf"]["s"] / found["s"]
    return measured


def importance(loaded: Loaded, requests: list[Any], batch_sizes: list[int], repeats: int) -> dict[str, Any]:
    """Gradient importance a batch size, and knockouts of all FFNs."""
    pairs = [request[1:] for request in requests]
    layers, heads = loaded.shape
    knockouts = [
        PruningMask(num_hidden_layers=layers, num_attention_heads=heads, pruned_ffns=(layer,))
        for layer in range(layers)
    ]
    examples = pairs[:EXAMPLES]
    work: dict[str, Callable[[], Any]] = {
        f"gradient, batches of {size}": lambda size=size: head_importance(loaded.model, examples, batch_size=size)
        for size in batch_sizes
        if size <= len(examples)
    }
    work["one evaluation"] = lambda: score(loaded.model, pairs)
    work["all FFN knockouts"] = lambda: score(loaded.model, pairs, knockouts)
    measured, _ = loaded.timed(work, repeats)
    for name, found in measured.items():
        if name.startswith("gradient") and "s" in found:
            found["examples_per_second"] = len(examples) / found["s"]
    if "s" in measured["all FFN knockouts"] and "s" in measured["one evaluation"]:
        single = measured["one evaluation"]["s"]
        measured["all FFN knockouts"]["of_as_many_evaluations"] = measured["all FFN knockouts"]["s"] / layers / single
    return measured


KINDS = {"scoring": scoring, "sweep": sweep, "importance": importance}


def parts(models: list[str], shots: list[int], tasks: list[str]) -> Iterator[tuple[str, str, int, str]]:
    """(model, kind, shots, task): of every model scoring first; sweep and importance on the first task."""
    for model in models:
        for number in shots:
            yield from ((model, "scoring", number, task) for task in tasks)
            yield model, "sweep", number, tasks[0]
            yield model, "importance", number, tasks[0]


@click.command(context_settings={"show_default": True})
@click.option("--models", default=",".join(MODELS), help=f"Commas between some of {', '.join(MODELS)}.")
@click.option("--tasks", default="hellaswag,arc_easy,piqa,boolq", help="Commas between tasks whose lengths are taken.")
@click.option("--num_fewshot", default="0,5", help="Commas between numbers of shots.")
@click.option("--limit", default=64, help="Documents of a task.")
@click.option("--batch_sizes", default="8,32,128", help="Tried for hf.")
@click.option("--repeats", default=3)
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16")
@click.option("--device", default="cuda")
@click.option("--minutes", default=7.0, help="No part begins after so long.")
@click.option("--output_path", default=RESULTS, type=click.Path(file_okay=False, path_type=Path), help="A folder.")
def main(
    models: str,
    tasks: str,
    num_fewshot: str,
    limit: int,
    batch_sizes: str,
    repeats: int,
    dtype: str,
    device: str,
    minutes: float,
    output_path: Path,
) -> None:
    """Measure, print and write gpu-<date>.json, part by part."""
    begun = time.monotonic()
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("no GPU found: these figures are a GPU's; --device cpu tries the script out")
    if unknown := set(models.split(",")) - MODELS.keys():
        raise click.UsageError(f"--models {min(unknown)}: unknown; expected some of {', '.join(MODELS)}")
    path = output_path.resolve() / f"gpu-{dtype}-{date.today()}.json"
    results = read_json(path) if path.exists() else _new_results(device, dtype, limit, repeats)
    results["commands"] = list(dict.fromkeys([*results["commands"], _command()]))
    loaded: tuple[str, Loaded] | None = None
    sizes = [int(size) for size in batch_sizes.split(",")]
    for part in parts(models.split(","), [int(number) for number in num_fewshot.split(",")], tasks.split(",")):
        model, kind, shots, task = part
        name = f"{model}, {kind}, {task}, {shots}-shot"
        if name in results["parts"]:
            continue
        if time.monotonic() - begun >= 60 * minutes:
            click.echo(f"not begun: {name}")
            continue
        if loaded is None or loaded[0] != model:
            loaded = None
            free_memory()
            loaded = model, Loaded(model, device, dtype)
            if model not in results["matmul_peak_gflops"]:
                results["matmul_peak_gflops"][model] = matmul_peak(
                    loaded[1], 8192 if device.startswith("cuda") else 512
                )
        requests = generated_requests(task, shots, limit, loaded[1].model.config.vocab_size)
        try:
            results["parts"][name] = KINDS[kind](loaded[1], requests, sizes, repeats)
        except Exception as error:  # the others go on
            results["parts"][name] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            free_memory()
        write_json(path, results)
        click.echo(f"{time.monotonic() - begun:4.0f} s  {name}: {_told(results['parts'][name])}")
    click.echo(f"written: {path.name}")


def _new_results(device: str, dtype: str, limit: int, repeats: int) -> dict[str, Any]:
    where = {**machine(), "threads": torch.get_num_threads()}
    if torch.device(device).type == "cuda":
        where |= {"gpu": torch.cuda.get_device_name()}
    settings = {"device": device, "dtype": dtype, "limit": limit, "repeats": repeats}
    return {
        "date": str(date.today()),
        "commands": [],
        "machine": where,
        "versions": versions(),
        **settings,
        "matmul_peak_gflops": {},
        "parts": {},
    }


def _command() -> str:
    given = [Path(argument).name if "/" in argument else argument for argument in sys.argv[1:]]
    return " ".join(["python", "benchmarks/bench_gpu.py", *given])


def _told(part: dict[str, Any]) -> str:
    """Seconds of each way, or why there are none."""
    if "error" in part:
        return str(part["error"])
    ways = {name: found for name, found in part.items() if isinstance(found, dict) and found.keys() & {"s", "error"}}
    return ", ".join(f"{name} {found['s']:.3f} s" if "s" in found else f"{name} failed" for name, found in ways.items())


if __name__ == "__main__":
    main()
