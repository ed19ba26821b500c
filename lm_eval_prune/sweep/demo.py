"""The study in small, on the bundled model: sweeps over pruned variants and random baselines at 0, 1 and 5 shots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from lm_eval_prune.files import require_writable
from lm_eval_prune.harness.induction import InductionConfig, compute_induction
from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.limits import checked_limit
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.run import failures_alone, run_sweeps
from lm_eval_prune.sweep.sources import aggregate_path

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DemoReport", "demo_sweeps", "highest_heads", "run_demo"]

GROUP = "icl_demo"
CALIBRATION_SHOTS = 5
"""Importance is taken at this number of shots."""
RANKING = f"aggregate:{CALIBRATION_SHOTS}"
GRIDS = (
    {"ranking": (RANKING,), "prune_heads": ("0", "0.3", "0.5", "0.7", "0.9")},
    {"ranking": (RANKING,), "prune_heads": ("0.5",), "prune_ffns": ("0.2",)},
    {"ranking": ("random:0+1+2",), "prune_heads": ("0.5",)},
    {"ranking": (f"most:{RANKING}",), "prune_heads": ("0.1",)},
)
"""The sweeps: the dense model and the least important heads, FFNs on top, random halves, the most important heads."""
NUM_MASKS = 10


class DemoReport(NamedTuple):
    important_heads: list[tuple[int, int]]
    """The five (layer, head) of highest aggregate importance."""
    induction_heads: list[tuple[tuple[int, int], float]]
    """The five (layer, head) of highest prefix-matching score, with it."""
    folders: tuple[Path, Path]
    """The sweeps' folder, and that of the induction scores."""


def demo_sweeps(folder: Path, *, limit: float | None = 60, seed: int = 1234) -> list[SweepConfig]:
    """The demo's settings, one a grid; `limit` is documents a task or a share of them, for scores and for evaluation.

    Scores come from the tasks' training splits, accuracies from their validation splits.
    """
    limit = checked_limit(limit)
    common = {
        "output_path": folder,
        "tasks": (GROUP,),
        "num_fewshot": (0, 1, CALIBRATION_SHOTS),
        "limit": limit,
        "importance_limit": limit,
        "knockout_metric": "loss",
        "seed": seed,
        "fewshot_seeds": (seed,),
        "batch_size": 32,
        "device": "cpu",
        "include_path": str(tasks_folder()),
        "include_defaults": False,
        "masks_at_once": NUM_MASKS,
    }
    return [SweepConfig.model_validate(common | grid) for grid in GRIDS]


def run_demo(
    output_path: Path,
    *,
    limit: float | None = 60,
    seed: int = 1234,
    note: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> DemoReport:
    """Run everything and write it below `output_path`; what is there is not computed again. `note` is as of sweeps."""
    configs = demo_sweeps(output_path / "sweep", limit=limit, seed=seed)
    require_writable(output_path)
    sweep = run_sweeps(configs, say=failures_alone(note), note=note, progress=progress)
    scores = ImportanceScores.load(aggregate_path(configs[0], "heads", CALIBRATION_SHOTS)).tensor()
    folder = output_path / "induction"
    return DemoReport(
        important_heads=[head for head, _ in highest_heads(scores)],
        induction_heads=highest_heads(_prefix_matching(folder, seed)),
        folders=(sweep.folder, folder),
    )


def _prefix_matching(folder: Path, seed: int) -> Tensor:
    """(num_hidden_layers, num_attention_heads): the mean over a few sequences; `induction` takes a hundred.

    Written to `folder`, the copying scores too.
    """
    config = InductionConfig(output_path=folder, num_sequences=10, seed=seed)
    paths = [path for path, _ in compute_induction(config, lambda: PrunedModel(device="cpu"))]
    return ImportanceScores.load(paths[0]).tensor()


def highest_heads(scores: Tensor, count: int = 5) -> list[tuple[tuple[int, int], float]]:
    """The `count` (layer, head) of the highest of these (num_hidden_layers, num_attention_heads) scores, with them."""
    values, places = torch.as_tensor(scores).flatten().topk(count)
    heads = scores.shape[1]
    return [((int(p) // heads, int(p) % heads), float(v)) for v, p in zip(values, places, strict=True)]
