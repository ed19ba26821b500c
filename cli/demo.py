"""`lm-eval-prune demo`: the whole study on the bundled model, offline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lm_eval_prune.cli.options import SEED
from lm_eval_prune.cli.options import limit as limit_option

if TYPE_CHECKING:
    from lm_eval_prune.harness.demo import DemoReport


@click.command("demo")
@click.option(
    "--output_path",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo_results"),
    show_default=True,
    help="Folder for results, scores and masks.",
)
@limit_option("--limit", "-L", default="60", show_default=True, text="Documents a task, or their share below 1.")
@click.option("--seed", type=SEED, default=1234, show_default=True, help="Of few-shot draws.")
def command(output_path: Path, limit: float, seed: int) -> None:
    """Run the whole study on the bundled model, offline, in about a minute.

    Importance of every head and FFN from the tasks' training splits; then the dense model, pruned variants and random
    baselines on their validation splits at 0, 1 and 5 shots; at last the leaderboard of all, with the page to open.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    from lm_eval_prune.harness.demo import run_demo

    _show(run_demo(output_path, limit=limit, seed=seed))
    from lm_eval_prune.report.leaderboard import leaderboard

    made = leaderboard([output_path], output_path / "leaderboard")
    click.echo(f"The comparison as a page to open: {made.page}")


def _show(report: DemoReport) -> None:
    tasks = list(report.rows[0].by_task)
    shots = list(report.rows[0].averages)
    header = ["model", "parameters", *(f"{k}-shot" for k in shots), *(task.removeprefix("demo_") for task in tasks)]
    lines = [
        [
            row.variant,
            f"{row.parameters_left:.0%}",
            *(f"{row.averages[k]:.3f}" for k in shots),
            *(f"{row.by_task[task]:.2f}" for task in tasks),
        ]
        for row in report.rows
    ]
    click.echo(f"\nAccuracy: the average over tasks by number of shots, then each task at {shots[-1]} shots\n")
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    for line in [header, *lines]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells))
    shared = {head for head, _ in report.induction_heads} & set(report.important_heads)
    click.echo(f"\nMost important heads (layer.head): {_names(report.important_heads)}")
    induction = ", ".join(f"{layer}.{head} ({score:.2f})" for (layer, head), score in report.induction_heads)
    click.echo(f"Best prefix-matching heads (score): {induction}")
    click.echo(f"In both lists: {_names(sorted(shared)) or 'none'}")
    click.echo(f"\nResults, importance scores and masks: {report.folder}")


def _names(heads: list[tuple[int, int]]) -> str:
    return ", ".join(f"{layer}.{head}" for layer, head in heads)
