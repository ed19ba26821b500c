"""`lm-eval-prune mask`: a mask file from importance files, from chance, or from a mask of another project."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lm_eval_prune.cli.options import WordsCommand, model_args, seed
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.text import printable

if TYPE_CHECKING:
    from lm_eval_prune.foreign_masks import Shape
    from lm_eval_prune.masks import PruningMask


CHOICE = (
    *("head_importance", "prune_heads", "ffn_importance", "prune_ffns", "layer_importance", "prune_layers"),
    *("order", "layers", "normalisation", "unit", "layout", "seed", "without_importance", "leave_out"),
)
"""Options that say what is pruned."""
PARTS = ("prune_heads", "prune_ffns", "prune_layers")


def _layer_range(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    found = re.fullmatch("([0-9]{1,6})(?:-([0-9]{1,6}))?", value)
    if found is None:
        raise ArgumentError(f"layers={value}: expected a range such as 4-11")
    return int(found[1]), int(found[2] or found[1])


@click.command("mask", cls=WordsCommand)
@click.option("--head_importance", type=click.Path(), help="Importance file of heads.")
@click.option("--prune_heads", help="Share of heads to prune, 0 to 1.")
@click.option("--ffn_importance", type=click.Path(), help="Importance file of FFNs.")
@click.option("--prune_ffns", help="Share of FFNs to prune, 0 to 1.")
@click.option("--layer_importance", type=click.Path(), help="Importance file of layers.")
@click.option("--prune_layers", help="Share of layers to prune whole, all heads and the FFN, 0 to 1.")
@click.option(
    "--random", "at_random", is_flag=True, help="Prune random heads and FFNs; files then only give the shape."
)
@click.option("--order", default="least", show_default=True, help="Prune the least or the most important, or random.")
@click.option(
    "--without_importance",
    type=click.Path(),
    help="With --order most: another importance file of heads, whose own top share is left out.",
)
@click.option("--leave_out", help="That share, of all heads. Default: 0.02.")
@click.option("--layers", callback=_layer_range, help="Only in these layers, such as 4-11; shares are of their heads.")
@click.option("--normalisation", default="none", show_default=True, help="Within layers: none, l2, standardised.")
@click.option(
    "--unit",
    type=click.Choice(["head", "kv_group", "attention", "layer"]),
    default="head",
    show_default=True,
    help="kv_group: the heads that share a key/value head go together, and --prune_heads is a share of the groups; "
    "attention: all heads of a layer, a share of the layers; layer: those and the FFN, by --prune_layers.",
)
@click.option(
    "--layout",
    type=click.Choice(["global", "uniform", "kv-groups"]),
    default="global",
    show_default=True,
    help="uniform: every layer loses as many heads, ranked within it; kv-groups: as many whole groups.",
)
@click.option(
    "--from", "foreign", type=click.Path(path_type=Path), help="A mask of another project: JSON, text, npy..."
)
@click.option("--invert", is_flag=True, help="With --from: in rows of 0 and 1, a 1 prunes. Default: it keeps.")
@click.option("--counting_from", type=click.IntRange(0, 1), help="With --from: the number of the first layer and head.")
@model_args("With --random, --from, --unit kv_group or --layout: the model whose shape it is, as pretrained=...")
@click.option("--num_hidden_layers", type=click.IntRange(1), help="With --random or --from, instead of --model_args.")
@click.option("--num_attention_heads", type=click.IntRange(1), help="With --random or --from, of each layer.")
@click.option(
    "--num_key_value_heads", type=click.IntRange(1), help="With --unit kv_group or --layout, instead of --model_args."
)
@seed("Of random choices.")
@click.option("--output_path", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Mask file.")
@click.pass_context
def command(
    ctx: click.Context,
    at_random: bool,
    foreign: Path | None,
    invert: bool,
    counting_from: int | None,
    model_args: dict[str, Any] | None,
    num_hidden_layers: int | None,
    num_attention_heads: int | None,
    num_key_value_heads: int | None,
    output_path: Path,
    **choice: Any,
) -> None:
    """Write the mask that prunes a share of the heads, of the FFNs, or both; or one that another project has made.

    \b
    lm-eval-prune mask --head_importance scores/aggregate-5shot-heads-gradient.json --prune_heads 0.7 \\
        --output_path mask.json
    lm-eval-prune mask --head_importance scores/piqa-5shot-heads-function_vector.json --prune_heads 0.05 \\
        --order most --without_importance scores/prefix-matching.json --output_path mask.json
    lm-eval-prune mask --from head_mask.npy --output_path mask.json
    """
    from lm_eval_prune.files import require_no_input

    names = ("head_importance", "ffn_importance", "layer_importance", "without_importance")
    if choice["unit"] == "layer":
        if given := next((name for name in PARTS[:2] if choice[name] is not None), None):
            raise ArgumentError(f"--unit layer prunes whole layers: give --prune_layers, not --{given}")
        choice["unit"] = "head"
    files = [path for path in (foreign, *(choice[name] for name in names)) if path is not None]
    require_no_input(output_path, files)
    shape = _shape(model_args, num_hidden_layers, num_attention_heads)
    if choice["layout"] == "kv-groups":
        choice |= {"layout": "uniform", "unit": "kv_group"}
    groups = _groups(choice["unit"], choice["layout"], model_args, num_key_value_heads)
    if foreign is None and (invert or counting_from is not None):
        raise ArgumentError(f"--{'invert' if invert else 'counting_from'} says how to read --from FILE; give one")
    if foreign is not None:
        _require_alone(ctx, at_random)
        mask = _converted(foreign, shape, invert, counting_from)
    else:
        mask = _random(shape, groups, **choice) if at_random else _ranked(shape, groups, **choice)
    mask.save(output_path)
    told = f" ({foreign}: {mask.provenance['read_as']})" if "read_as" in mask.provenance else ""
    click.echo(
        printable(
            f"{output_path}: {mask.num_pruned_heads} of {mask.num_heads} heads, "
            f"{mask.num_pruned_ffns} of {mask.num_hidden_layers} FFNs pruned{told}"
        )
    )


def _require_alone(ctx: click.Context, at_random: bool) -> None:
    """Raise ArgumentError for options that choose what is pruned, beside a file that says it."""
    given = [name for name in CHOICE if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT]
    if given or at_random:
        raise ArgumentError(f"--from says what is pruned: leave out --{'random' if at_random else given[0]}")


def _converted(path: Path, shape: Shape | None, invert: bool, counting_from: int | None) -> PruningMask:
    from lm_eval_prune.selection import read_mask_file

    return read_mask_file(path, shape, invert=invert, counting_from=counting_from, say=False)


def _ranked(shape: Shape | None, groups: int | None, **choice: Any) -> PruningMask:
    from lm_eval_prune.selection import select_mask

    if shape is not None and groups is None:
        raise ArgumentError("--model_args gives --random and --from their shape; importance files carry their own")
    mask = select_mask(**choice, num_key_value_heads=groups)
    if mask is None:
        raise ArgumentError(
            "nothing to prune: give --head_importance and --prune_heads, the same for FFNs or layers, --random or "
            "--from"
        )
    return mask


def _random(shape: Shape | None, groups: int | None, **choice: Any) -> PruningMask:
    from lm_eval_prune.importance.files import ImportanceScores
    from lm_eval_prune.ranked_masks import random_mask

    if choice.pop("order") not in ("least", "random") or choice.pop("normalisation") != "none":
        raise ArgumentError("--random takes no scores: leave out --order and --normalisation")
    if any([choice.pop("without_importance"), choice.pop("leave_out")]):
        raise ArgumentError("--random takes no scores: leave out --without_importance and --leave_out")
    names = ("head_importance", "ffn_importance", "layer_importance")
    files = [path for path in map(choice.pop, names) if path is not None]
    if (shape is None) == (not files):
        raise ArgumentError("--random needs the model's shape: from --model_args pretrained=..., or an importance file")
    choice |= {key: 0 for key in PARTS if choice[key] is None}
    shapes = {ImportanceScores.load(path).shape for path in files} if shape is None else {shape}
    if len(shapes) > 1:
        raise ArgumentError(f"importance files of different models: {' and '.join(map(str, files))}")
    layers, heads = shapes.pop()
    return random_mask(layers, heads, num_key_value_heads=groups, **choice)


def _groups(unit: str, layout: str, arguments: dict[str, Any] | None, given: int | None) -> int | None:
    """Key/value heads in a layer, where groups are asked for, or matter to which masks are uniform."""
    if unit != "kv_group" and layout == "global":
        if given is not None:
            raise ArgumentError("--num_key_value_heads is for --unit kv_group and --layout; leave it out")
        return None
    if unit != "kv_group" and arguments is None:
        return given
    if (given is None) == (arguments is None):
        raise ArgumentError("--unit kv_group needs the model's groups: --model_args or --num_key_value_heads")
    if arguments is None:
        return given
    from lm_eval_prune.decoders.configuration import key_value_heads_asked_for

    _require_pretrained(arguments)
    return key_value_heads_asked_for(arguments["pretrained"], arguments)


def _require_pretrained(arguments: dict[str, Any]) -> None:
    if not arguments.get("pretrained"):
        raise ArgumentError("model_args: pretrained=... missing")


def _shape(arguments: dict[str, Any] | None, layers: int | None, heads: int | None) -> Shape | None:
    """The layers and heads of the model that is given, by its numbers or by its configuration alone."""
    if (layers is None) != (heads is None):
        raise ArgumentError("--num_hidden_layers and --num_attention_heads go together; give both")
    if arguments is None:
        return None if layers is None or heads is None else (layers, heads)
    if layers is not None:
        raise ArgumentError("--model_args and --num_hidden_layers exclude one another; give one of the two")
    from lm_eval_prune.decoders.configuration import shape_asked_for

    _require_pretrained(arguments)
    return shape_asked_for(arguments["pretrained"], arguments)
