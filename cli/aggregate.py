"""`lm-eval-prune aggregate`: the mean importance over tasks."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("aggregate")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--normalisation", default="none", show_default=True, help="Within layers first: none, l2, standardised.")
@click.option("--output_path", "-o", type=click.Path(path_type=Path), required=True, help="A .json file, or a folder.")
def command(files: tuple[Path, ...], normalisation: str, output_path: Path) -> None:
    """Average the scores of importance FILEs, one a task, all at one number of shots.

    In a folder the file is aggregate-<k>shot-<component>-<method>.json; an earlier one of that name, where FILEs come
    from a pattern that it matches, is written anew and does not count.
    """
    from lm_eval_prune.importance.aggregate import write_aggregate

    click.echo(write_aggregate(files, output_path, normalisation))
