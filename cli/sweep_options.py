"""Options that `sweep` and `paper` share: all of a sweep's settings but its grid."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import click

from lm_eval_prune.cli.options import Choice, include_path, limit, mapping, metadata, several
from lm_eval_prune.limits import SPLITS

__all__ = ["given", "log_at", "sweep_options"]

SETTINGS = (
    several("--fewshot_seeds", metavar="SEED...", text="Of several few-shot draws, such as 0,1,2. Default: 1234."),
    limit(),
    limit(
        "--importance_limit",
        text="Documents a task for importance, or their share. Default: 200; Bansal et al. 2023 took 2500.",
    ),
    click.option("--importance_split", type=Choice(SPLITS), help="Default: training, or else validation."),
    click.option(
        "--ablation",
        type=Choice(["zero", "mean"]),
        help="What is pruned gives zero, or its mean output on the task. Default: zero.",
    ),
    click.option(
        "--decide",
        type=Choice(["walk", "halving", "rows"]),
        help="Take documents in batches, until it is decided how far each ranking can go (walk: from its smallest "
        "share on; halving: from the middle), or what every row loses (rows). Default: all documents.",
    ),
    click.option("--margin", type=float, help="With --decide: the loss that is still acceptable. Default: 0.01."),
    click.option("--seed", type=int, help="Of importance, NumPy and torch. Default: 1234."),
    click.option("--batch_size", "-b", help="As for pruned-hf; a number or auto. Default: 8."),
    click.option("--device", help="cuda, cuda:0, cpu. Default: cuda where there is one."),
    include_path,
    metadata,
)
"""What is computed, and on which device."""
EXECUTION = (
    click.option(
        "--executor",
        type=Choice(["local", "ray"]),
        help="Default: local; ray: workers on a Ray cluster (pip install 'lm-eval-prune[ray]').",
    ),
    click.option("--ray_address", help="The cluster's address. Default: auto, the one that this machine belongs to."),
    click.option(
        "--num_workers", type=int, help="On Ray. Default: as many as the GPUs hold, or one a node without any."
    ),
    click.option("--num_gpus", type=float, help="GPUs a worker on Ray. Default: 1 where the cluster has any."),
    click.option("--num_cpus", type=float, help="CPUs a worker on Ray. Default: 1."),
    mapping("--wandb_args", "Log every cell as a run of wandb: arguments of wandb.init, such as project=pruning."),
    mapping("--trackio_args", "The same for trackio: arguments of trackio.init."),
    click.option("--dry_run", is_flag=True, help="Show the plan and what it costs, from a short probe; write nothing."),
    click.option("--retry_failed", is_flag=True, help="Compute failed cells again."),
    click.option(
        "--log_level",
        type=Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="warning",
        show_default=True,
        help="Of the log on stderr.",
    ),
)
"""Where, and what is shown of it."""


def sweep_options(output_path: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """All of them on a command, with its own option `output_path` in their midst."""

    def decorated(command: Any) -> Any:
        for option in reversed((*SETTINGS, output_path, *EXECUTION)):
            command = option(command)
        return command

    return decorated


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given: all others have the sweep's own defaults."""
    return {name: value for name, value in flags.items() if value not in (None, ())}


def log_at(name: str) -> None:
    """Log from this level on; below warnings the harness's own lines are wanted, too."""
    level = logging.getLevelName(name.upper())
    logging.basicConfig(level=level)
    if level < logging.WARNING:
        logging.getLogger("lm_eval").setLevel(level)
