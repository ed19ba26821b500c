"""`lm-eval-prune search`: a mask under a budget, chosen on some documents and judged on others."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from lm_eval_prune.cli.options import WordsCommand, model_args, num_fewshot, output_folder, tasks
from lm_eval_prune.cli.stopping import stoppable
from lm_eval_prune.cli.sweep_options import given, log_at, sweep_options
from lm_eval_prune.text import printable

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("search", cls=WordsCommand)
@click.option(
    "--budget",
    required=True,
    metavar="KIND=SHARE",
    help="At most this share of the whole model's parameters, flops (of a token), kv_bytes, or latency (of a forward "
    "pass, measured here): parameters=0.7.",
)
@click.option("--head_importance", type=FILE, help="Scores of heads; without them no heads go.")
@click.option("--ffn_importance", type=FILE, help="Scores of FFNs; without them no FFNs go.")
@click.option(
    "--trials",
    type=click.IntRange(min=0),
    default=40,
    show_default=True,
    help="That optuna proposes, beside the knapsack's choice; 0: that one alone.",
)
@click.option("--development_share", default="0.5", show_default=True, help="Of each task's documents, to choose by.")
@click.option("--split_seed", type=int, default=1234, show_default=True, help="Of which documents these are.")
@model_args()
@tasks()
@num_fewshot("Number of shots. Default: the task's own.", metavar="SHOTS")
@sweep_options(output_folder("Folder of the search.", "search"))
def command(
    budget: str,
    head_importance: Path | None,
    ffn_importance: Path | None,
    trials: int,
    dry_run: bool,
    retry_failed: bool,
    log_level: str,
    **flags: Any,
) -> None:
    """Choose which heads and FFNs to keep under a budget, and judge the choice on documents that it never met.

    \b
    lm-eval-prune search --budget parameters=0.7 --head_importance heads.json --ffn_importance ffns.json \\
        --model_args pretrained=facebook/opt-125m --tasks piqa,copa --num_fewshot 5 --output_path search

    A knapsack over the scores first, improved by trials (pip install 'lm-eval-prune[search]'). Stop it, start it again,
    share it between processes on one folder: every trial is a cell of a sweep.
    """
    folder = flags["output_path"]
    with stoppable(lambda: f"finished trials are kept in {folder}"):
        from lm_eval_prune.search.budget import parse_budget
        from lm_eval_prune.search.run import SearchConfig, begin, run_search
        from lm_eval_prune.sweep.config import make_config

        config = SearchConfig(
            budget=parse_budget(budget),
            sweep=make_config(given(flags)),
            head_importance=head_importance,
            ffn_importance=ffn_importance,
            trials=trials,
            seed=flags["seed"] if flags.get("seed") is not None else 1234,
        )
        log_at(log_level)
        if dry_run:
            _print_cost(config, begin(config, write=False))
            return
        from lm_eval_prune.progress import say

        verdict = run_search(config, retry_failed=retry_failed, say=say)
        for line in verdict.lines(config.budget.kind):
            click.echo(printable(line))
        click.echo(f"Next: {shlex.join(['lm-eval-prune', 'leaderboard', printable(str(folder / 'test'))])}")


def _print_cost(config: Any, search: Any) -> None:
    """What the knapsack's mask prunes, and what all trials would take."""
    from lm_eval_prune.costs.tables import duration
    from lm_eval_prune.search.estimate import estimate_search

    mask = search.mask({})
    left = search.costs.left(mask) / search.costs.total
    click.echo(
        f"knapsack: {mask.num_pruned_heads} heads and {mask.num_pruned_ffns} FFNs pruned, {config.budget.kind} "
        f"{left:.4f} of the whole"
    )
    found = estimate_search(config, mask)
    for name, cells, seconds in found:
        click.echo(printable(f"{name}: {cells} cells, about {duration(seconds)}"))
    click.echo(f"together about {duration(sum(seconds for _, _, seconds in found))} on one worker")
