"""`lm-eval-prune doctor`: the environment, what the harness sees of us and by which road, and what is wrong."""

from __future__ import annotations

import sys

import click


@click.command("doctor")
def command() -> None:
    """Show the environment, and what the harness sees of this package.

    Exit code 1 if something is wrong; each problem is said with what would mend it.
    """
    from lm_eval_prune.harness.diagnosis import diagnose
    from lm_eval_prune.progress import working

    with working("Asking the harness what it sees", lambda line: None):
        diagnosis = diagnose()
    width = max(len(name) for name, _ in diagnosis.facts)
    for name, value in diagnosis.facts:
        click.echo(f"{name:<{width}}  {value}")
    for problem in diagnosis.problems:
        click.echo(f"Problem: {problem}", err=True)
    if diagnosis.problems:
        sys.exit(1)
    click.echo("No problem found.")
