"""`lm-eval-prune plan`: what a study will cost, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lm_eval_prune.cli.options import Choice, WordsCommand, limit, names, num_fewshot, several, shots, tasks
from lm_eval_prune.text import printable


def _shares(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...] | None:
    return names(ctx, parameter, value) if value else None


@click.command("plan", cls=WordsCommand)
@click.argument("model")
@click.option("--devices", help="Such as 8x80GB, 141GB,cpu:500GB or 80GB,cpu:200GB,disk; cpu:24GB is no GPU.")
@click.option(
    "--dtype", type=Choice(["float32", "bfloat16", "float16"]), help="Default: float16 on GPUs, float32 on a CPU."
)
@click.option("--batch_size", "-b", type=int, help="Inputs that are computed at once. Default: 1.")
@click.option("--max_length", type=int, help="Tokens of the longest input. Default: the tasks' longest.")
@tasks("Of the 14 tasks, or icl14_<k>shot. Default: all 14.")
@num_fewshot("Numbers of shots. Default: 0,1,5.", callback=shots)
@click.option("--tokens", multiple=True, metavar="NAME=INPUTSxTOKENS", help="A task of your own: mytask=1000x250.")
@several("--prune_heads", callback=_shares, metavar="SHARE...", text="Shares of all heads. Default: 0,0.7.")
@several("--prune_ffns", callback=_shares, metavar="SHARE...", text="Shares of all FFNs. Default: 0,0.2.")
@click.option("--ranking", multiple=True, help="As for sweep: own, aggregate, random:0+1+2, ... Default: own.")
@click.option(
    "--config", "-C", type=click.Path(path_type=Path), help="A sweep's settings (a YAML file, or opt-66b), as defaults."
)
@click.option("--mask", type=click.Path(dir_okay=False, path_type=Path), help="Count what this mask removes, too.")
@limit()
@limit("--importance_limit", text="Training documents a task for importance, or their share. Default: 200.")
@click.option("--scorer", type=Choice(["packed", "padded"]), help="Default: packed.")
@click.option("--tflops", type=float, help="10^12 operations a second that one device sustains; gives times.")
@click.option("--measure", is_flag=True, help="Measure that with matrix products, on this machine.")
@click.option("--bandwidth", type=float, help="10^9 bytes a second at which offloaded weights are brought in.")
@click.option(
    "--changed",
    type=float,
    default=0.04,
    show_default=True,
    help="Share of the answers that pruning changes, for the documents that a margin needs.",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the plan there, too.")
def command(model: str, json_file: Path | None, **options: Any) -> None:
    """Say what a study of MODEL costs: parameters, memory, device map, FLOPs, time. Nothing is downloaded or run.

    \b
    lm-eval-prune plan 66b --devices 8x80GB --tflops 200
    lm-eval-prune plan 66b --devices 80GB,cpu:200GB --config opt-66b --json plan.json

    MODEL is a checkpoint's folder or a hub id of any supported family (see `families`), of which the configuration is
    all that is read; or a size of the study's: 125m, 350m, 1.3b, 2.7b, 6.7b, 13b, 30b, 66b.
    """
    from rich.console import Console
    from rich.text import Text

    from lm_eval_prune.cli.loading import loading
    from lm_eval_prune.files import require_no_input, write_json

    with loading("torch", "transformers"):
        from lm_eval_prune.costs.plan import make_plan
        from lm_eval_prune.costs.tables import tables

    if json_file is not None:
        read = [options["config"], options["mask"], Path(model, "config.json")]
        require_no_input(json_file, [path for path in read if path is not None])
    plan = make_plan(model, **options)
    console = Console(markup=False)  # names may hold brackets
    for part in tables(plan):
        console.print(part, soft_wrap=isinstance(part, Text))  # a command is copied in one piece
    if json_file is not None:
        write_json(json_file, plan)
        console.print(printable(str(json_file)), soft_wrap=True)
