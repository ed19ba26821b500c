"""`lm-eval-prune leaderboard`: pruned variants compared, as a table and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from lm_eval_prune.cli.options import Words, WordsCommand, names, output_folder, tasks
from lm_eval_prune.errors import ArgumentError


def _shots(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | str:
    if value == "own":
        return value
    try:
        return tuple(int(part) for part in (value or "").split(",") if part.strip())
    except ValueError:
        raise ArgumentError(f"shots={value}: expected whole numbers, such as 0,1,5, or own") from None


@click.command("leaderboard", cls=WordsCommand)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR_OR_JSON...")
@output_folder("Folder of the files.", "leaderboard")
@click.option(
    "--shots",
    callback=_shots,
    help="Only these numbers of shots, such as 0,5; or own: one row a variant, each task at its own. Default: all.",
)
@click.option("--side_by_side", is_flag=True, help="Averages with the numbers of shots side by side.")
@tasks("Only these tasks. Default: all.")
@click.option(
    "--metric",
    cls=Words,
    callback=names,
    metavar="METRIC...",
    help="Preferred metrics, such as acc_norm. Default: acc, em, exact_match.",
)
@click.option(
    "--margin",
    type=float,
    help="How much worse than dense is acceptable. Default: 0.01, or the one that all rows were decided with.",
)
@click.option("--baseline", help="The model whose dense runs all rows are compared with. Default: each its own.")
@click.option(
    "--against",
    metavar="ROW",
    help="Print the differences to this row instead of dense (its name, or words of it), and write against.csv, .json.",
)
@click.option(
    "--sort",
    default="rank",
    show_default=True,
    help="rank, variant, heads, ffns, parameters, flops, average or a task.",
)
@click.option("--filter", "text", default="", help="Only rows whose name or verdicts hold these words.")
@click.option("--flips", is_flag=True, help="List the documents whose answers flipped: flips.csv.")
@click.option("--figures", callback=names, help="Write the figures as svg, png or pdf, comma-separated.")
@click.option("--export", callback=names, help="Write model-index, eval_results or every_eval_ever, comma-separated.")
@click.option("--harness_table", is_flag=True, help="Print the columns of lm_eval's own table.")
@click.option("--strict", is_flag=True, help="Refuse what cannot be compared instead of warning.")
@click.option(
    "--cluster",
    multiple=True,
    metavar="[TASK=]FIELD",
    help="Documents that share this field, such as a passage, count as one; known for multirc, record, boolq.",
)
def command(
    paths: tuple[Path, ...],
    output_path: Path,
    shots: tuple[int, ...] | Literal["own"],
    side_by_side: bool,
    metric: tuple[str, ...],
    sort: str,
    text: str,
    figures: tuple[str, ...],
    export: tuple[str, ...],
    harness_table: bool,
    **settings: Any,
) -> None:
    """Compare evaluated variants: sweep folders and results files of the harness, from any backend.

    Prints the table, and writes leaderboard.html (a page to open), .md, .tex, .csv, .parquet and .json to
    OUTPUT_PATH, figures to its figures/, and what other programs read to its exports/.
    """
    from rich.console import Console

    from lm_eval_prune.progress import working
    from lm_eval_prune.report.agreement import agreement_sentences
    from lm_eval_prune.report.comparison import BoardConfig
    from lm_eval_prune.report.leaderboard import leaderboard
    from lm_eval_prune.report.records import arranged
    from lm_eval_prune.report.tables import harness_table as as_the_harness
    from lm_eval_prune.report.terminal import print_board

    config = BoardConfig(shots=shots, metrics=metric or BoardConfig.metrics, **settings)
    with working("Comparing, and writing the page", lambda line: None):
        made = leaderboard(paths, output_path, config, sort=sort, text=text, figure_formats=figures, exports=export)
    # Without a terminal there is no width to keep to: one wide table is easier to search than several.
    console = Console(width=None if Console().is_terminal else 400)
    if harness_table:
        click.echo(as_the_harness(made.board))
    else:
        board = made.against or made.board
        print_board(board, arranged(board, sort=sort, text=text), console, shots_beside=side_by_side)
        for sentence in agreement_sentences(made.agreement):
            console.print(sentence, markup=False, highlight=False)
    for path in made.paths:
        click.echo(path)
    for name in export:
        if not any(path.is_relative_to(output_path / "exports" / name) for path in made.paths):
            click.echo(f"{name}: nothing to write: no task's data set is one of the hub's", err=True)
