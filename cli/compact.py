"""`lm-eval-prune compact`: a checkpoint with the pruned heads and FFNs really gone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lm_eval_prune.cli.options import WordsCommand, model_args
from lm_eval_prune.errors import ArgumentError

if TYPE_CHECKING:
    from lm_eval_prune.compaction.checkpoint import Compaction

MASKS = ("mask", "head_importance", "prune_heads", "ffn_importance", "prune_ffns")


@click.command("compact", cls=WordsCommand)
@model_args("pretrained=DIR_OR_HUB_ID, and revision=... Default: the bundled.")
@click.option("--mask", type=click.Path(), help="Mask file.")
@click.option("--head_importance", type=click.Path(), help="Importance file of heads, instead of a mask file.")
@click.option("--prune_heads", help="Share of heads to prune, 0 to 1.")
@click.option("--ffn_importance", type=click.Path(), help="Importance file of FFNs.")
@click.option("--prune_ffns", help="Share of FFNs to prune, 0 to 1.")
@click.option(
    "--results", type=click.Path(path_type=Path), multiple=True, help="Results of this mask, for the model card."
)
@click.option(
    "--means", type=click.Path(), help="Means (lm-eval-prune means): what is pruned gives these, as biases, not zero."
)
@click.option("--zeroed", is_flag=True, help="A plain checkpoint of the original's size, with zeros, for other tools.")
@click.option(
    "--layout",
    type=click.Choice(["ragged", "kv-groups", "uniform", "layers"]),
    default="ragged",
    show_default=True,
    help="ragged: any mask, loaded by this package. The others: transformers' own class, which every program loads.",
)
@click.option("--max_shard_size", default="5GB", show_default=True, help="Largest file of weights; bounds memory too.")
@click.option("--output_path", "-o", type=click.Path(path_type=Path), required=True, help="New folder.")
def command(
    model_args: dict[str, Any] | None,
    results: tuple[Path, ...],
    means: str | None,
    zeroed: bool,
    layout: str,
    max_shard_size: str,
    output_path: Path,
    **chosen: Any,
) -> None:
    """Write a checkpoint without the heads and FFNs that a mask prunes; its outputs are the masked model's.

    \b
    lm-eval-prune compact --model_args pretrained=facebook/opt-1.3b --mask mask.json --output_path opt-1.3b-pruned
    lm_eval --model pruned-hf --model_args pretrained=opt-1.3b-pruned --tasks piqa

    Reads and writes shard by shard: memory holds one new shard, whatever the model's size. With --zeroed the model
    keeps its size and its class, and loads in every tool: what the mask prunes is zero. With --layout uniform or
    kv-groups (for masks of mask --layout) or layers (for masks that prune whole layers) it is smaller and loads
    in every tool.
    """
    from lm_eval_prune.cli.loading import loading

    with loading("torch", "transformers"):
        from lm_eval_prune.compaction.checkpoint import compact_checkpoint
        from lm_eval_prune.decoders.configuration import shape_asked_for
        from lm_eval_prune.demo import BUNDLED_NAME, bundled_model_path
        from lm_eval_prune.means import Means
        from lm_eval_prune.selection import select_mask

    arguments = model_args or {}
    if unknown := arguments.keys() - {"pretrained", "revision", "dtype", *MASKS}:
        raise ArgumentError(f"model_args: {sorted(unknown)[0]}: not used here; weights keep their dtype and place")
    place, revision = arguments.get("pretrained") or bundled_model_path(), arguments.get("revision")
    if asked := arguments.get("dtype"):
        _require_own_dtype(str(asked).removeprefix("torch."), place, revision)
    for name in MASKS:
        if chosen[name] is None:
            chosen[name] = arguments.get(name)
    mask = select_mask(**chosen, shape=partial(shape_asked_for, place, arguments))
    if mask is None:
        raise ArgumentError("nothing to prune: give --mask, or --head_importance and --prune_heads, or both for FFNs")
    done = compact_checkpoint(
        place,
        mask,
        output_path,
        revision=revision,
        max_shard_size=max_shard_size,
        results=results,
        name=None if arguments.get("pretrained") else BUNDLED_NAME,
        zeroed=zeroed,
        layout=layout,
        means=None if means is None else Means.load(means),
        progress=True,
    )
    click.echo(
        f"{output_path}: {done.num_parameters:,} of {done.num_parameters_before:,} parameters "
        f"({done.num_parameters / done.num_parameters_before:.1%}){_form(done, zeroed)}, "
        f"{done.num_bytes / 2**20:,.1f} MiB"
    )


def _form(done: Compaction, zeroed: bool) -> str:
    """What kind of checkpoint it is, where it is not the usual one."""
    if done.zeros is None:
        return ", the others without effect" if zeroed else ""
    told = f", {done.zeros.num_hidden_layers} layers of {done.zeros.num_attention_heads} heads"
    if not done.zeros.is_dense:
        told += f" ({done.zeros.num_pruned_heads} heads and {done.zeros.num_pruned_ffns} FFNs in it are zeros)"
    return told


def _require_own_dtype(asked: str, place: str | Path, revision: str | None) -> None:
    """Raise ArgumentError where another dtype is asked for than the checkpoint's, which its weights keep."""
    from lm_eval_prune.decoders.configuration import read_configuration

    found = read_configuration(place, revision=revision).dtype
    own = str(found).removeprefix("torch.") if found is not None else "unknown"
    if asked not in ("auto", own):
        raise ArgumentError(f"model_args: dtype={asked}: the checkpoint's is {own}, and its weights keep it")
