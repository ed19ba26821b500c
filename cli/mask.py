"""`lm-eval-prune mask`: a mask file from importance files, or from chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lm_eval_prune.cli.options import WordsCommand, model_args
from lm_eval_prune.errors import ArgumentError

if TYPE_CHECKING:
    from lm_eval_prune.masks import PruningMask


def _layer_range(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, _, last = value.partition("-")
    if not first.isdigit() or not (last or first).isdigit():
        raise ArgumentError(f"layers={value}: expected a range such as 4-11")
    return int(first), int(last or first)


@click.command("mask", cls=WordsCommand)
@click.option("--head_importance", type=click.Path(), help="Importance file of heads.")
@click.option("--prune_heads", help="Share of heads to prune, 0 to 1.")
@click.option("--ffn_importance", type=click.Path(), help="Importance file of FFNs.")
@click.option("--prune_ffns", help="Share of FFNs to prune, 0 to 1.")
@click.option(
    "--random", "at_random", is_flag=True, help="Prune random heads and FFNs; files then only give the shape."
)
@click.option("--order", default="least", show_default=True, help="Prune the least or the most important, or random.")
@click.option("--layers", callback=_layer_range, help="Only in these layers, such as 4-11; shares are of their heads.")
@click.option("--normalisation", default="none", show_default=True, help="Within layers: none, l2, standardised.")
@model_args("With --random: the model whose shape it is, as pretrained=...")
@click.option("--seed", type=int, default=1234, show_default=True, help="Of random choices.")
@click.option("--output_path", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Mask file.")
def command(at_random: bool, model_args: dict[str, Any] | None, output_path: Path, **choice: object) -> None:
    """Write the mask that prunes a share of the heads, of the FFNs, or both.

    \b
    lm-eval-prune mask --head_importance scores/aggregate-5shot-heads-gradient.json --prune_heads 0.7 \\
        --output_path mask.json
    """
    mask = _random(model_args, **choice) if at_random else _ranked(model_args, **choice)  # type: ignore[arg-type]
    mask.save(output_path)
    click.echo(
        f"{output_path}: {mask.num_pruned_heads} of {mask.num_heads} heads, "
        f"{mask.num_pruned_ffns} of {mask.num_hidden_layers} FFNs pruned"
    )


def _ranked(model_args: dict[str, Any] | None, **choice: object) -> PruningMask:
    from lm_eval_prune.selection import select_mask

    if model_args is not None:
        raise ArgumentError("--model_args gives --random its shape; importance files carry their own")
    mask = select_mask(**choice)  # type: ignore[arg-type]
    if mask is None:
        raise ArgumentError(
            "nothing to prune: give --head_importance and --prune_heads, the same for FFNs, or --random"
        )
    return mask


def _random(model_args: dict[str, Any] | None, **choice: object) -> PruningMask:
    from lm_eval_prune.importance.files import ImportanceScores
    from lm_eval_prune.selection import random_mask

    if choice.pop("order") not in ("least", "random") or choice.pop("normalisation") != "none":
        raise ArgumentError("--random takes no scores: leave out --order and --normalisation")
    files = [path for path in (choice.pop("head_importance"), choice.pop("ffn_importance")) if path is not None]
    if (model_args is None) == (not files):
        raise ArgumentError("--random needs the model's shape: from --model_args pretrained=..., or an importance file")
    shares = {key: choice.pop(key) or 0 for key in ("prune_heads", "prune_ffns")}
    shapes = {ImportanceScores.load(path).shape for path in files} if model_args is None else {_shape_of(model_args)}  # type: ignore[arg-type]
    if len(shapes) > 1:
        raise ArgumentError(f"importance files of different models: {' and '.join(map(str, files))}")
    return random_mask(*shapes.pop(), **shares, **choice)  # type: ignore[arg-type]


def _shape_of(arguments: dict[str, Any]) -> tuple[int, int]:
    """The layers and heads of the model, from its configuration alone."""
    from lm_eval_prune.decoders.configuration import read_configuration

    if not arguments.get("pretrained"):
        raise ArgumentError("model_args: pretrained=... missing")
    config = read_configuration(arguments["pretrained"], revision=arguments.get("revision", "main"))
    return config.num_hidden_layers, config.num_attention_heads
