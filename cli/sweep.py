"""`lm-eval-prune sweep`: a grid of masks, tasks and shots; `sweep status` and `sweep export` look at its folder."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lm_eval_prune.cli.options import WordsGroup, model_args, num_fewshot, output_folder, several, tasks
from lm_eval_prune.cli.stopping import is_first_process, stoppable
from lm_eval_prune.cli.sweep_options import given, log_at, sweep_options
from lm_eval_prune.text import printable

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group("sweep", cls=WordsGroup, invoke_without_command=True)
@click.option(
    "--config",
    "-C",
    "config_file",
    type=click.Path(path_type=Path),
    help="YAML settings: a file, or bundled or opt-66b, which come with the package.",
)
@model_args()
@tasks()
@num_fewshot()
@several("--prune_heads", metavar="SHARE...", text="Shares of all heads, such as 0,0.1,0.5.")
@several(
    "--prune_ffns",
    metavar="SHARE...",
    text="Shares of all FFNs; every share of heads is combined with each.",
)
@several(
    "--prune_layers",
    metavar="SHARE...",
    text="Shares of all layers, pruned whole, for rankings such as layer:block_influence.",
)
@click.option(
    "--ranking",
    multiple=True,
    help="own, aggregate, aggregate:5 (of 5 shots), aggregate:TASK+TASK@5 (of these tasks), task:NAME, task:closest, "
    "task:farthest, induction, function_vector, random:0+1+2 (seeds), or an importance file (two with + between); "
    ":rescored@0.1 behind own, aggregate and task:NAME computes scores again after each tenth; most: before it prunes "
    "the most important first; most-without:induction, most-without:function_vector; block_influence; before all that "
    "kv_group: or attention: whole groups of heads, layer: whole layers. May be given several times.",
)
@sweep_options(output_folder("The sweep's folder."))
@click.pass_context
def command(
    ctx: click.Context, config_file: Path | None, dry_run: bool, retry_failed: bool, log_level: str, **flags: Any
) -> None:
    """Compute every (mask, task, shots) cell of a grid; stop it, start it again, and only missing cells run.

    \b
    lm-eval-prune sweep --model_args pretrained=facebook/opt-125m --tasks piqa,copa --num_fewshot 0,5 \\
        --prune_heads 0,0.3,0.5,0.7 --ranking own --ranking random:0+1+2 --output_path sweep

    Several processes on one folder share the cells, and those of `accelerate launch` each cell. Exit code 1 if a cell
    failed, 130 if it was stopped.
    """
    if ctx.invoked_subcommand is not None:
        return
    configs: list[Any] = []
    with stoppable(lambda: f"finished cells are kept{f' in {configs[0].output_path}' if configs else ''}"):
        from lm_eval_prune.sweep.config import load_configs, make_config

        settings = given(flags)
        configs += load_configs(config_file, **settings) if config_file else [make_config(settings)]
        log_at(log_level)
        if dry_run:
            print_estimate(configs)
        else:
            _run(configs, retry_failed)


def _run(configs: Sequence[Any], retry_failed: bool) -> None:
    from lm_eval_prune.cli.loading import loading
    from lm_eval_prune.progress import say

    first = is_first_process()
    with loading(say=say, shown=first):
        from lm_eval_prune.sweep.run import run_sweeps
    sweep = run_sweeps(configs, retry_failed=retry_failed, say=say, note=say)
    if not first:
        return
    failed = print_status(sweep)
    click.echo(f"Next: {shlex.join(['lm-eval-prune', 'leaderboard', printable(str(sweep.folder))])}")
    if failed:
        sys.exit(1)


@command.command("status")
@click.argument("folder", type=FOLDER)
def status(folder: Path) -> None:
    """How far the sweep in FOLDER is. Exit code 1 if a cell failed."""
    from lm_eval_prune.sweep.folder import is_sweep_folder
    from lm_eval_prune.sweep.results import Sweep, importance_at_work

    if not is_sweep_folder(folder) and (names := importance_at_work(folder)):
        click.echo(printable(f"{folder}: no cells yet; computing importance: {', '.join(names)}"))
    elif print_status(Sweep(folder)):
        sys.exit(1)


@command.command("export")
@click.argument("folder", type=FOLDER)
@click.option("--output_path", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True)
def export(folder: Path, output_path: Path) -> None:
    """Write the sweep in FOLDER as a table, .parquet or .csv: one row a variant, task and number of shots."""
    from lm_eval_prune.sweep.results import Sweep

    Sweep(folder).export(output_path)
    click.echo(output_path)


def print_status(sweep: Any) -> bool:
    """Whether a cell failed."""
    found = sweep.status()
    click.echo(
        f"{printable(str(sweep.folder))}: {found.done} cells done, {found.running} running, {found.missing} missing, "
        f"{found.failed} failed"
    )
    if found.importance:
        click.echo(f"  computing importance for further cells: {printable(', '.join(found.importance))}")
    for line in found.failures:
        click.echo(f"  {printable(line)}")
    if found.failures:
        click.echo("  --retry_failed computes them again")
    return bool(found.failed)


def print_estimate(configs: Sequence[Any]) -> None:
    """What the grids of one folder would compute, and what that costs."""
    from lm_eval_prune.cli.loading import loading

    with loading():
        import torch

        from lm_eval_prune.costs.tables import amount, duration
        from lm_eval_prune.sweep.estimate import estimate_sweeps

    def cost(flops: float, seconds: float) -> str:
        counted = "" if math.isnan(flops) else f"{amount(flops)}FLOP, "
        return counted + duration(seconds)

    config = configs[0]
    found = estimate_sweeps(configs, shown=True)
    total, missing = (sum(getattr(part, name) for part in found.cells) for name in ("total", "missing"))
    click.echo(
        f"{config.output_path}: {total} cells, {total - missing - found.failed} done, {missing} to compute, "
        f"{found.failed} failed; {sum(part.missing for part in found.importance)} importance files to compute"
    )
    for part in [*found.importance, *found.cells]:
        count = f"{part.missing} of {part.total} cells x "
        if part in found.importance:
            count = f"{part.missing} files x " if part.missing > 1 else ""
        what = part.problem or cost(part.flops, part.seconds)
        if part.missing:
            click.echo(printable(f"  {part.name}: {count}{part.documents} documents: {what}"))
    if found.pending:
        click.echo(
            printable(f"  {', '.join(found.pending)}: whose scores is chosen when all importance is there; until then ")
            + "their cells are counted as new ones"
        )
    if not missing:
        return
    shared = sum(part.flops for part in found.cells)
    if found.unshared_flops > 0:
        click.echo(
            f"  masks scored {config.masks_at_once} at a time share {1 - shared / found.unshared_flops:.0%} of "
            "their FLOPs"
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    click.echo(f"  together about {cost(found.flops, found.seconds)} on one worker ({device})")
