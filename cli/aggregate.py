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
    from lm_eval_prune.errors import ArgumentError
    from lm_eval_prune.importance.aggregate import aggregate_files

    inputs = [file for file in files if not _written_before(file, output_path)]
    if not inputs:
        raise ArgumentError(f"{files[0]}: what this command writes; give the files of single tasks")
    scores = aggregate_files(inputs, normalisation)
    if output_path.suffix != ".json":
        shots, method = scores.settings.get("num_fewshot", 0), scores.settings.get("method", "unknown")
        output_path = output_path / f"aggregate-{shots}shot-{scores.component}-{method}.json"
    scores.save(output_path)
    click.echo(output_path)


def _written_before(file: Path, output_path: Path) -> bool:
    """Whether `file` is where an earlier run of the same command has written."""
    if output_path.suffix == ".json":
        return file.resolve() == output_path.resolve()
    return file.name.startswith("aggregate-") and file.resolve().parent == output_path.resolve()
