"""The study in small, on the bundled model: importance, pruned variants and random baselines at 0, 1 and 5 shots."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

import lm_eval.evaluator
import torch
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable
from tqdm import tqdm

from lm_eval_prune.file_names import importance_file_name
from lm_eval_prune.files import require_writable, write_bytes, write_json
from lm_eval_prune.harness.cells import SAMPLE_KEYS
from lm_eval_prune.harness.importance import ImportanceConfig, compute_importance
from lm_eval_prune.harness.induction import InductionConfig, compute_induction
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.harness.quiet import quiet_harness
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.harness.results import pruning_block
from lm_eval_prune.importance.aggregate import aggregate_files
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.limits import checked_limit
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.selection import random_mask, select_mask

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DemoReport", "Row", "run_demo"]

GROUP = "icl_demo"
SHOTS = (0, 1, 5)
CALIBRATION_SHOTS = 5
"""Importance is taken at this number of shots."""
SHARES = ("0.3", "0.5", "0.7", "0.9")
"""Of the heads, the least important first."""
RANKING = f"aggregate {CALIBRATION_SHOTS}-shot"
"""What masks from the aggregate importance are called in the leaderboard."""
RANDOM_SEEDS = (0, 1, 2)
BATCH_SIZE = 32
BOOTSTRAP_ITERS = 100
"""As few as there may be: the standard error of a mean needs none, but the harness leaves it out at 0."""


class Row(NamedTuple):
    """One variant of the model, its accuracies in [0, 1]; random variants are means over their seeds."""

    variant: str
    parameters_left: float
    """Share of the dense model's parameters."""
    averages: dict[int, float]
    """Number of shots -> macro-average over the tasks."""
    by_task: dict[str, float]
    """Task -> accuracy at the largest number of shots."""


class DemoReport(NamedTuple):
    rows: list[Row]
    important_heads: list[tuple[int, int]]
    """The five (layer, head) of highest aggregate importance."""
    induction_heads: list[tuple[tuple[int, int], float]]
    """The five (layer, head) of highest prefix-matching score, with it."""
    folder: Path
    """Where results, scores and masks lie."""


class _OneBar(PrunedOPT):
    """Without the harness's bar for each evaluation: the demo shows one over all of them."""

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)


def run_demo(output_path: Path, *, limit: float | None = 60, seed: int = 1234, progress: bool = True) -> DemoReport:
    """Run everything and write it below `output_path`; `limit` is documents a task, or a share; None is all.

    Scores come from the tasks' training splits, accuracies from their validation splits.
    """
    limit = checked_limit(limit)
    require_writable(output_path)
    with quiet_harness():
        lm = _OneBar(device="cpu", batch_size=BATCH_SIZE)
        files = _importance(lm, output_path / "importance", limit=limit, seed=seed)
        variants = _variants(lm, files, output_path / "masks")
        manager = TaskManager(include_defaults=False, include_path=tasks_folder())
        rows = _evaluated(lm, variants, manager, output_path / "results", limit=limit, seed=seed, progress=progress)
        induction = _prefix_matching(lm, output_path / "importance", seed)
        return DemoReport(
            rows=rows,
            important_heads=[head for head, _ in _highest(ImportanceScores.load(files["heads"]).tensor())],
            induction_heads=_highest(induction),
            folder=output_path,
        )


def _importance(lm: PrunedOPT, folder: Path, *, limit: float | None, seed: int) -> dict[str, Path]:
    """component -> file of its aggregate importance: heads by gradient, FFNs by knockout of the loss."""
    files = {}
    for component, method in (("heads", "gradient"), ("ffns", "knockout")):
        config = ImportanceConfig(
            component=component,
            method=method,
            metric="loss" if method == "knockout" else None,
            tasks=(GROUP,),
            num_fewshot=(CALIBRATION_SHOTS,),
            output_path=folder,
            limit=limit,
            seed=seed,
            batch_size=BATCH_SIZE,
            overwrite=True,
            include_path=str(tasks_folder()),
            include_defaults=False,
        )
        outcomes = list(compute_importance(config, lambda: lm))
        files[component] = folder / importance_file_name("aggregate", CALIBRATION_SHOTS, component, method)
        aggregate_files([outcome.path for outcome in outcomes]).save(files[component])
    return files


def _variants(lm: PrunedOPT, files: dict[str, Path], folder: Path) -> dict[str, list[PruningMask]]:
    """Variant -> its masks, of which random ones have several; all saved."""
    layers, heads = lm.mask.shape

    def ranked(prune_heads: str, prune_ffns: str | None = None, order: str = "least") -> PruningMask:
        ffns = files["ffns"] if prune_ffns else None
        mask = select_mask(
            head_importance=files["heads"],
            prune_heads=prune_heads,
            ffn_importance=ffns,
            prune_ffns=prune_ffns,
            order=order,
        )
        assert mask is not None
        return replace(mask, provenance={**mask.provenance, "ranking": RANKING})

    variants = {
        "dense": [lm.mask],
        **{f"least important heads, {float(share):.0%}".replace("%", " %"): [ranked(share)] for share in SHARES},
        "50 % of heads + 20 % of FFNs": [ranked("0.5", "0.2")],
        "random heads, 50 %": [random_mask(layers, heads, prune_heads="0.5", seed=seed) for seed in RANDOM_SEEDS],
        "most important heads, 10 %": [ranked("0.1", order="most")],
    }
    for name, masks in variants.items():
        for number, mask in enumerate(masks):
            mask.save(folder / f"{_slug(name, number, masks)}.json")
    return variants


def _evaluated(
    lm: PrunedOPT,
    variants: dict[str, list[PruningMask]],
    manager: TaskManager,
    folder: Path,
    *,
    limit: float | None,
    seed: int,
    progress: bool,
) -> list[Row]:
    cells = [(name, number, shots) for name in variants for number in range(len(variants[name])) for shots in SHOTS]
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    for name, number, shots in tqdm(cells, desc="Evaluating", unit="run", disable=not progress):
        slug = _slug(name, number, variants[name])
        results = _evaluate(lm, variants[name][number], manager, shots=shots, limit=limit, seed=seed)
        results["config"]["model_args"] = {"mask": str(folder.parent / "masks" / f"{slug}.json")}
        _write(results, folder, f"{slug}-{shots}shot")
        found[name, number, shots] = results
    return [
        _row(name, [[found[name, n, shots] for shots in SHOTS] for n in range(len(variants[name]))])
        for name in variants
    ]


def _evaluate(
    lm: PrunedOPT, mask: PruningMask, manager: TaskManager, *, shots: int, limit: float | None, seed: int
) -> dict[str, Any]:
    """The harness's results of the demo's tasks under `mask`, with the `pruning` block."""
    pruned = _OneBar(pretrained=lm.model, tokenizer=lm.tokenizer, mask=mask, batch_size=BATCH_SIZE)
    tasks = manager.load([GROUP])
    for task in tasks["tasks"].values():
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed)
    start = time.time()
    results = (
        lm_eval.evaluator.evaluate(pruned, tasks, limit=limit, bootstrap_iters=BOOTSTRAP_ITERS, log_samples=True) or {}
    )
    config = {"model": lm.harness_name, "batch_size": BATCH_SIZE, "device": "cpu", "limit": limit, "fewshot_seed": seed}
    block = pruning_block(pruned, lm.model.num_parameters())
    return {**results, "config": config, "date": start, "pruning": block}


def _write(results: dict[str, Any], folder: Path, name: str) -> None:
    """Write the results file, and each task's outcomes by document beside it, where the leaderboard finds them."""
    for task, samples in results.pop("samples").items():
        lines = [{key: sample[key] for key in (*SAMPLE_KEYS, *sample["metrics"])} for sample in samples]
        text = "".join(json.dumps(line, default=handle_non_serializable, ensure_ascii=False) + "\n" for line in lines)
        write_bytes(folder / f"samples_{task}_{name}.jsonl", text.encode())
    text = json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False)
    write_json(folder / f"{name}.json", results, text=text)


def _row(name: str, runs: list[list[dict[str, Any]]]) -> Row:
    """A table row from one list of results (by SHOTS) a mask."""
    block = runs[0][0]["pruning"]
    total = block["num_parameters_left"] + block["num_parameters_removed"]
    averages = {
        shots: mean(run[place]["groups"][GROUP]["acc,none"] for run in runs) for place, shots in enumerate(SHOTS)
    }
    tasks = runs[0][-1]["group_subtasks"][GROUP]
    by_task = {task: mean(run[-1]["results"][task]["acc,none"] for run in runs) for task in tasks}
    return Row(name, block["num_parameters_left"] / total, averages, by_task)


def _prefix_matching(lm: PrunedOPT, folder: Path, seed: int) -> Tensor:
    """(num_hidden_layers, num_attention_heads): the mean over a few sequences; `induction` takes a hundred.

    Written to `folder`, the copying scores too.
    """
    config = InductionConfig(output_path=folder, num_sequences=10, seed=seed, overwrite=True)
    paths = [path for path, _ in compute_induction(config, lambda: lm)]
    return ImportanceScores.load(paths[0]).tensor()


def _highest(scores: Tensor, count: int = 5) -> list[tuple[tuple[int, int], float]]:
    values, places = torch.as_tensor(scores).flatten().topk(count)
    heads = scores.shape[1]
    return [((int(p) // heads, int(p) % heads), float(v)) for v, p in zip(values, places, strict=True)]


def _slug(name: str, number: int, masks: list[PruningMask]) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in name).split()
    return "-".join(words) + (f"-seed{RANDOM_SEEDS[number]}" if len(masks) > 1 else "")
