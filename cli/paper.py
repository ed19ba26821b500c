"""`lm-eval-prune paper`: the whole study of Bansal et al. 2023 for one model, and a page in the paper's numbering."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lm_eval_prune.cli.options import WordsCommand, model_args, names, num_fewshot, output_folder, several, tasks
from lm_eval_prune.cli.stopping import is_first_process, stoppable
from lm_eval_prune.cli.sweep_options import given, log_at, sweep_options
from lm_eval_prune.text import printable


@click.command("paper", cls=WordsCommand)
@model_args("As for pruned-hf, such as pretrained=facebook/opt-125m. Without pretrained: the bundled model.")
@tasks("Harness tasks, groups or tags. Default: the paper's 14; for the bundled model its own five.")
@num_fewshot("Numbers of shots. Default: 0,1,5.")
@several(
    "--unseen",
    metavar="TASK...",
    callback=names,
    text="Tasks outside the study, evaluated under its mean importance, such as mathqa,lambada_openai.",
)
@click.option(
    "--num_sequences",
    type=click.IntRange(min=2),
    default=100,
    show_default=True,
    help="Of random tokens, for induction scores.",
)
@sweep_options(output_folder("Folder of the study.", "paper_results"))
@click.option("--report_only", is_flag=True, help="Report what the folder holds, whichever commands made it.")
def command(
    output_path: Path,
    unseen: tuple[str, ...],
    num_sequences: int,
    report_only: bool,
    dry_run: bool,
    retry_failed: bool,
    log_level: str,
    **flags: Any,
) -> None:
    """Run the whole study of Bansal et al. 2023 for one model, and report it figure by figure.

    \b
    lm-eval-prune paper --model_args pretrained=facebook/opt-125m --limit 500 --output_path opt-125m
    lm-eval-prune paper --report_only --output_path opt-125m

    Importance of heads and FFNs, both pruned alone and together, heads by the importance of other tasks, and induction
    scores: what sweep, importance and induction would compute one by one, in one folder. Start it again after any
    interruption; what is there is not computed again. Then paper.html and paper.json: what the paper found, what this
    run finds, and whether each claim holds. Exit code 1 if a cell failed, 130 if it was stopped.
    """
    with stoppable(lambda: f"what is finished is kept in {output_path}"):
        log_at(log_level)
        failed = False
        if not report_only:
            failed = _study(output_path, given(flags), unseen, num_sequences, dry_run, retry_failed)
        if not dry_run and is_first_process():
            _report(output_path)
        if failed:
            sys.exit(1)


def _study(
    folder: Path,
    settings: dict[str, Any],
    unseen: tuple[str, ...],
    num_sequences: int,
    dry_run: bool,
    retry_failed: bool,
) -> bool:
    """Compute what is missing, or say what that costs. Whether a cell failed."""
    from lm_eval_prune.cli.loading import loading
    from lm_eval_prune.cli.sweep import print_estimate, print_status
    from lm_eval_prune.progress import say

    first = is_first_process()
    with loading(say=say, shown=first):
        from lm_eval_prune.paper.study import make_study, run_study
        from lm_eval_prune.sweep.run import failures_alone
    study = make_study(folder, settings, unseen=unseen, num_sequences=num_sequences)
    if dry_run:
        print_estimate(study.sweeps)
        for config in study.unseen:
            print_estimate([config])
        click.echo(f"Then prefix matching and copying of {num_sequences} sequences, which is not in this estimate.")
        return False
    sweeps = run_study(study, retry_failed=retry_failed, say=failures_alone(say), note=say)
    failed = [print_status(sweep) for sweep in sweeps] if first else []
    return any(failed)


def _report(folder: Path) -> None:
    from lm_eval_prune.paper.report import paper_report
    from lm_eval_prune.paper.terminal import print_report
    from lm_eval_prune.progress import working

    with working("Comparing, and writing the page"):
        report = paper_report(folder)
    print_report(report)
    for path in report.paths:
        click.echo(printable(str(path)))
