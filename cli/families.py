"""`lm-eval-prune families`: which decoders are supported, and what works in each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lm_eval_prune.errors import ArgumentError

if TYPE_CHECKING:
    from rich.table import Table

    from lm_eval_prune.families import FamilyRow


@click.command("families")
@click.argument("model_types", nargs=-1, metavar="[TYPE...]")
@click.option("--all", "everything", is_flag=True, help="Every causal language model of transformers; some minutes.")
@click.option(
    "--output_path", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows as .json, or as .md."
)
def command(model_types: tuple[str, ...], everything: bool, output_path: Path | None) -> None:
    """Say which decoders are supported, and what works in each: proven, accepted after a proof, or refused and why.

    \b
    lm-eval-prune families                      the proven ones
    lm-eval-prune families phi3 gpt_oss mamba   these, as `model_type` in config.json names them
    lm-eval-prune families --all --output_path families.md

    A tiny random model of each type is made and tried; nothing is downloaded. A real model is proven when it is loaded.
    """
    from rich.console import Console

    from lm_eval_prune.cli.loading import loading
    from lm_eval_prune.files import write_bytes, write_json
    from lm_eval_prune.progress import Bar

    with loading("torch", "transformers"):
        from lm_eval_prune.decoders.table import PROVEN
        from lm_eval_prune.decoders.tiny import causal_lm_types
        from lm_eval_prune.families import as_markdown, as_record, survey

    if everything and model_types:
        raise ArgumentError(f"--all and {model_types[0]} exclude one another; give one of the two")
    known = causal_lm_types()
    if odd := [name for name in model_types if name not in known]:
        raise ArgumentError(f"{odd[0]}: transformers has no causal language model of this type")
    if output_path is not None and output_path.suffix not in (".json", ".md"):
        raise ArgumentError(f"--output_path {output_path}: expected a name that ends in .json or .md")
    chosen = known if everything else model_types or tuple(name for name in PROVEN if name in known)
    rows = list(Bar(survey(chosen), total=len(chosen), desc="Families", unit="type", leave=False))
    console = Console(markup=False)
    for table in _tables(rows):
        console.print(table)
    for needs in sorted({row.needs for row in rows if row.needs}):
        console.print(f"Taken with {needs} alone: {', '.join(row.model_type for row in rows if row.needs == needs)}")
    if output_path is not None and output_path.suffix == ".md":
        write_bytes(output_path, as_markdown(rows).encode())
    elif output_path is not None:
        write_json(output_path, as_record(rows))


def _tables(rows: list[FamilyRow]) -> list[Table]:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    from lm_eval_prune.abilities import ABILITIES
    from lm_eval_prune.families import MARK

    style: dict[str, Any] = {"title_justify": "left", "box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    names = Column("type", no_wrap=True), Column("status", no_wrap=True)  # whole, on 80 columns too
    supported = Table(*names, *(Column(name, overflow="fold") for name in ABILITIES), title="Supported", **style)
    refused = Table("type", "status", "why", title="Not supported", **style)
    for row in rows:
        if row.works:
            supported.add_row(row.model_type, row.status, *(MARK[row.works[name]] for name in ABILITIES))
        else:
            refused.add_row(row.model_type, row.status, row.reason)
    return [table for table in (supported, refused) if table.row_count]
