"""`lm-eval-prune demo`: the whole study on the bundled model, offline."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lm_eval_prune.cli import options
from lm_eval_prune.cli.stopping import stoppable
from lm_eval_prune.text import printable

if TYPE_CHECKING:
    from lm_eval_prune.sweep.demo import DemoReport


MARGIN = 0.05
"""How much worse than dense is acceptable: what 300 documents can tell; the leaderboard's own margin needs more."""
NEXT = "lm-eval-prune sweep --model_args pretrained=MODEL -t piqa,copa -f 0,5 --prune_heads 0.3,0.5,0.7 -o sweep"


@click.command("demo")
@options.output_folder("Folder for results, scores and the page.", "demo_results")
@options.limit(default="60", show_default=True)
@options.seed("Of few-shot draws.")
def command(output_path: Path, limit: float, seed: int) -> None:
    """Run the whole study on the bundled model, offline, in about a minute.

    Importance of every head and FFN from the tasks' training splits; then the dense model, pruned variants and random
    baselines on their validation splits at 0, 1 and 5 shots; at last the leaderboard of all, with the page to open.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    with stoppable(lambda: f"what is finished is kept in {output_path}"):
        _run(output_path, limit, seed)


def _run(output_path: Path, limit: float, seed: int) -> None:
    from lm_eval_prune.cli.loading import loading
    from lm_eval_prune.progress import say, working

    with loading(say=say):
        from lm_eval_prune.sweep.demo import run_demo
    report = run_demo(output_path, limit=limit, seed=seed, note=say)
    with working("Comparing, and writing the page"):
        from lm_eval_prune.report.comparison import BoardConfig
        from lm_eval_prune.report.leaderboard import leaderboard
        from lm_eval_prune.report.records import arranged
        from lm_eval_prune.report.terminal import print_board

        made = leaderboard(report.folders, output_path / "leaderboard", BoardConfig(margin=MARGIN))
    print_board(made.board, arranged(made.board), shots_beside=True)
    _show(report, say)
    click.echo(f"\nResults and importance scores: {printable(str(output_path))}")
    click.echo(f"The comparison as a page to open: {printable(str(made.page))}")
    click.echo(f"Next, on a model of yours: {NEXT}")


def _show(report: DemoReport, say: Callable[[str], None]) -> None:
    shared = {head for head, _ in report.induction_heads} & set(report.important_heads)
    say("")
    say(f"Most important heads (layer.head): {_names(report.important_heads)}")
    induction = ", ".join(f"{layer}.{head} ({score:.2f})" for (layer, head), score in report.induction_heads)
    say(f"Best prefix-matching heads (score): {induction}")
    say(f"In both lists: {_names(sorted(shared)) or 'none'}")


def _names(heads: list[tuple[int, int]]) -> str:
    return ", ".join(f"{layer}.{head}" for layer, head in heads)
