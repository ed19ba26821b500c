"""From a user's options to a plan: JSON values, which `tables.py` shows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.costs import memory
from lm_eval_prune.costs.devices import Devices, parse_devices
from lm_eval_prune.costs.dimensions import Dimensions, dimensions_of
from lm_eval_prune.costs.margins import CHANGED, margins_of
from lm_eval_prune.costs.study import Grid, Speed, removals, stages
from lm_eval_prune.costs.workload import known_tasks, measured_shots, table_record, workloads
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.intervals import documents_needed
from lm_eval_prune.model_args import parse_model_args
from lm_eval_prune.selection import read_mask_file
from lm_eval_prune.sweep.config import load_configs
from lm_eval_prune.sweep.ranking import of_layers, parse_ranking
from lm_eval_prune.version import __version__

if TYPE_CHECKING:
    from lm_eval_prune.costs.fit import Fit

__all__ = ["FORMAT", "make_plan"]

FORMAT, VERSION = "lm-eval-prune-plan", 1
DEFAULTS: dict[str, Any] = {
    "batch_size": 1,
    "num_fewshot": (0, 1, 5),
    "prune_heads": ("0", "0.7"),
    "prune_ffns": ("0", "0.2"),
    "prune_layers": ("0",),
    "ranking": ("own",),
    "scorer": "packed",
    "importance_limit": 200,
}
OF_GRIDS = ("ranking", "prune_heads", "prune_ffns", "prune_layers")
THE_STUDYS = "facebook/opt-66b"
SHORTEST = 2
"""Tokens that an input must have at least."""


def make_plan(
    model: str,
    *,
    devices: str | None = None,
    max_length: int | None = None,
    tokens: Sequence[str] = (),
    config: Path | None = None,
    mask: Path | None = None,
    tflops: float | None = None,
    measure: bool = False,
    bandwidth: float | None = None,
    changed: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What a study of `model` costs, as JSON values.

    `options` are tasks, num_fewshot, prune_heads, prune_ffns, ranking, limit, importance_limit, scorer, dtype and
    batch_size; those not given are the sweep's in `config`, then `DEFAULTS`. `changed` is the share of the answers that
    pruning is taken to change. Raises PruneError.
    """
    settings = _settings(config, options)
    parsed = None if devices is None else parse_devices(devices)
    dtype = settings.get("dtype") or _usual_dtype(parsed, measure)
    memory.bytes_of(dtype)
    if measure and tflops is not None:
        raise ArgumentError(f"tflops={tflops:g} and measure exclude one another; give one of the two")
    dimensions = dimensions_of(model)
    grid = _grid(dimensions, settings, tokens)
    length = _length(dimensions, grid, max_length)
    plan: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "lm_eval_prune": __version__,
        "model": _described(dimensions),
        "removals": _removals(dimensions, grid, mask),
    }
    fit = None
    if devices is not None and parsed is not None:
        from lm_eval_prune.costs.fit import fitted

        fit = fitted(dimensions, dtype, parsed, grid.batch_size, length)
        plan["devices"] = _placed(fit, dimensions, devices, dtype, grid.batch_size, length)
    speed = Speed(tflops=_measured_tflops(dtype) if measure else tflops, bandwidth=bandwidth)
    plan["stages_title"] = _title(grid)
    plan["stages"] = [asdict(stage) for stage in stages(dimensions, grid, speed, fit)]
    plan["tflops"], plan["bandwidth"] = speed.tflops, bandwidth
    plan["margins"] = margins_of(grid, CHANGED if changed is None else changed)
    plan["notes"] = [*_paper(dimensions, grid), *_notes(speed, fit, measured=measure), *_tokens(dimensions, grid)]
    if plan["margins"]["rows"]:
        plan["notes"].insert(
            0,
            "In brackets: passages of equal size that tell as much as the documents that share them. At least "
            f"{documents_needed(0.01)} documents or passages are needed for a margin of 0.01, even if none changes.",
        )
    return plan


def _settings(config: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    settings = dict(DEFAULTS)
    if config is not None:
        grids = load_configs(config, output_path="unused")
        sweep = grids[0]
        settings |= {name: getattr(sweep, name) for name in ("tasks", "limit", "importance_limit")}
        settings["grids"] = [{name: getattr(grid, name) for name in OF_GRIDS} for grid in grids]
        settings["num_fewshot"] = tuple(shots or 0 for shots in sweep.num_fewshot)  # None: what the task fixes, or 0
        settings["fewshot_seeds"] = len(sweep.fewshot_seeds)
        if isinstance(sweep.batch_size, int):
            settings["batch_size"] = sweep.batch_size
        arguments = parse_model_args(sweep.model_args)
        dtype = arguments.get("dtype", "auto").removeprefix("torch.")
        if dtype != "auto":  # which is the checkpoint's, and its weights are not looked at
            settings["dtype"] = dtype
        if "scorer" in arguments:
            settings["scorer"] = "packed" if arguments["scorer"] == "flex" else arguments["scorer"]  # of equal work
    given = {name: value for name, value in options.items() if value not in (None, (), (None,))}
    of_file: list[dict[str, Any]] = settings.get("grids") or [{name: settings[name] for name in OF_GRIDS}]
    changed = {name: given[name] for name in OF_GRIDS if name in given}
    return settings | given | {"grids": [grid | changed for grid in of_file]}


def _grid(dimensions: Dimensions, settings: dict[str, Any], tokens: Sequence[str]) -> Grid:
    tasks = settings.get("tasks") or (() if tokens else known_tasks())
    names = ("limit", "importance_limit", "scorer", "batch_size", "fewshot_seeds")
    return Grid(
        workloads=tuple(workloads(tasks, settings["num_fewshot"], tokens, dimensions.max_position_embeddings)),
        **_masks(settings["grids"]),
        **{name: settings[name] for name in names if name in settings},
    )


def _masks(grids: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all grids prune: a mask that two of them have is one."""
    found: dict[tuple[str, str, str], None] = {}
    for grid in grids:
        heads, ffns, layers = (
            dict.fromkeys(str(parse_fraction(s, name)) for s in grid[name])
            for name in ("prune_heads", "prune_ffns", "prune_layers")
        )
        for text in grid["ranking"]:
            pairs = zip(layers, layers, strict=True) if of_layers(text) else itertools.product(heads, ffns)
            found |= dict.fromkeys((text, *pair) for pair in pairs)
    masks: Counter[tuple[str, str]] = Counter()
    for text, *pair in found:
        masks[pair[0], pair[1]] += len(parse_ranking(text).seeds) or 1
    every = {name: [share for grid in grids for share in grid[name]] for name in ("prune_heads", "prune_ffns")}
    return {"masks": masks, **{name: tuple(dict.fromkeys(shares)) for name, shares in every.items()}}


def _length(dimensions: Dimensions, grid: Grid, max_length: int | None) -> int:
    if max_length is None:
        return min(grid.longest, dimensions.max_position_embeddings)
    if not SHORTEST <= max_length <= dimensions.max_position_embeddings:
        raise ArgumentError(
            f"max_length={max_length}; expected {SHORTEST} to {dimensions.max_position_embeddings}, the positions of "
            f"{dimensions.name}"
        )
    return max_length


def _described(dimensions: Dimensions) -> dict[str, Any]:
    names = (
        *("name", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size"),
        *("ffn_width", "vocab_size", "max_position_embeddings", "num_heads", "num_ffns", "num_parameters"),
        *("parameters_per_head", "parameters_per_group", "parameters_per_ffn", "parameters_in_heads"),
        "parameters_in_ffns",
    )
    lacking = None if dimensions.lacking.is_dense else dimensions.lacking.to_dict()
    return {
        "model_type": dimensions.config.model_type,
        **{name: getattr(dimensions, name) for name in names},
        "pruning_mask": lacking,
    }


def _removals(dimensions: Dimensions, grid: Grid, mask: Path | None) -> list[dict[str, Any]]:
    rows = []
    for component, shares in (("heads", grid.prune_heads), ("ffns", grid.prune_ffns)):
        for row in removals(dimensions, component, [share for share in shares if float(share)]):
            name = "heads" if component == "heads" else "FFNs"
            number = f"{row['pruned']:,} of {row['of']:,}"
            rows.append({**row, "what": f"{float(row['share']):.6g} of the {name}", "number": number})
    if mask is not None:
        loaded = read_mask_file(mask, (dimensions.num_hidden_layers, dimensions.num_attention_heads))
        removed = dimensions.removed_by(loaded, str(mask))
        number = f"{loaded.num_pruned_heads:,} heads, {loaded.num_pruned_ffns:,} FFNs"
        left = dimensions.num_parameters - removed
        rows.append({"mask": str(mask), "what": mask.name, "number": number, "removed": removed, "left": left})
    return rows


def _placed(fit: Fit, dimensions: Dimensions, given: str, dtype: str, batch_size: int, length: int) -> dict[str, Any]:
    tokens = batch_size * length
    return {
        "given": given,
        "pretrained": dimensions.name,
        "dtype": dtype,
        "batch_size": batch_size,
        "length": length,
        "map": [{**asdict(share), "fits": share.fits} for share in fit.shares],
        "device_map": fit.placement.device_map,
        **{name: getattr(fit, name) for name in ("fits", "offloaded", "devices_per_copy", "copies", "model_args")},
        "keys_and_values": memory.keys_and_values(dimensions, range(dimensions.num_hidden_layers), tokens, dtype),
        "logits": memory.logits(dimensions, tokens, dtype),
        "gradients": _most_layers(fit, dimensions) * memory.saved_for_backward(dimensions, tokens, dtype),
        "gradients_checkpointing": memory.saved_for_backward(dimensions, tokens, dtype),
    }


def _most_layers(fit: Fit, dimensions: Dimensions) -> int:
    """Layers that one device computes, at most: of a copy on its own GPUs, where there are several copies."""
    if fit.copies > 1:
        return -(-dimensions.num_hidden_layers // fit.devices_per_copy)
    return dimensions.num_hidden_layers if fit.offloaded else max(len(share.layers) for share in fit.shares)


def _title(grid: Grid) -> str:
    tasks = len({work.task for work in grid.workloads})
    shots = ", ".join(str(number) for number in sorted({work.num_fewshot for work in grid.workloads}))
    return f"The study: {tasks} tasks at {shots} shots, scorer {grid.scorer}"


def _paper(dimensions: Dimensions, grid: Grid) -> list[str]:
    if dimensions.name != THE_STUDYS or "0.7" not in grid.prune_heads or "0.2" not in grid.prune_ffns:
        return []
    return [
        "Bansal et al. 2023 say about 15.7 billion parameters for 70 % of the heads and about 8.5 billion for 20 % of "
        "the FFNs; the counts above are exact (docs/opt-66b.md)."
    ]


def _notes(speed: Speed, fit: Fit | None, *, measured: bool) -> list[str]:
    notes = []
    if speed.tflops is None:
        notes.append("No times: say what a device sustains with --tflops, or --measure it here.")
    else:
        source = "measured here with matrix products, of which a study reaches less" if measured else "as stated"
        copies = f", on each of {fit.copies} copies" if fit is not None and fit.copies > 1 else ""
        notes.append(f"Times: {speed.tflops:.3g} TFLOP/s a device{copies}, {source}.")
    if fit is not None and fit.offloaded and speed.tflops is not None and speed.bandwidth is None:
        notes.append("Stages that bring in offloaded weights have no time: say how fast with --bandwidth.")
    if fit is not None and not fit.fits and speed.tflops is not None:
        notes.append("No times for what does not fit.")
    return notes


def _tokens(dimensions: Dimensions, grid: Grid) -> list[str]:
    record = table_record()
    notes = [
        f"Tokens: counted on {record['documents']:,} real documents ({record['tokenizer']}) on {record['measured']}; "
        "padding is not counted. The sweep is without the importance and knockouts that its rankings need; that "
        "masks share their first layers is not counted."
    ]
    table = [work.num_fewshot for work in grid.workloads if work.task in known_tasks()]
    if other := sorted(set(table) - set(measured_shots())):
        notes.append(
            f"Lengths at {', '.join(map(str, other))} shots follow from those counted at "
            f"{', '.join(map(str, measured_shots()))}, every shot adding as much, up to the model's "
            f"{dimensions.max_position_embeddings:,} positions."
        )
    return notes


def _usual_dtype(devices: Devices | None, measure: bool) -> str:
    """What a model of no given precision is computed in: half precision on GPUs, float32 where none is."""
    if devices is not None:
        return "float16" if devices.gpus else "float32"
    if measure:
        import torch

        return "float16" if torch.cuda.is_available() else "float32"
    return "float16"


def _measured_tflops(dtype: str) -> float:
    """10^12 operations a second of a large matrix product: the best of several, on a GPU where there is one."""
    import torch
    from torch.utils.benchmark import Timer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    width = 8192 if device.type == "cuda" else 1024
    factor = torch.randn(width, width, device=device).to(getattr(torch, dtype))
    timer = Timer("factor @ factor", globals={"factor": factor}, num_threads=torch.get_num_threads())
    return 2 * width**3 / min(timer.timeit(1).mean for _ in range(5)) / 1e12
