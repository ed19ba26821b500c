"""`lm-eval-prune importance`: scores of heads or FFNs from harness tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lm_eval_prune.cli.options import (
    SEED,
    Choice,
    WordsCommand,
    device,
    limit,
    load_model_of,
    metadata,
    model_args,
    several,
    shots,
    tasks,
)


@click.command("importance", cls=WordsCommand)
@model_args("As for pruned-hf, such as pretrained=facebook/opt-125m,dtype=float32.")
@tasks("Harness tasks, groups or tags.")
@several(
    "--num_fewshot",
    "-f",
    callback=shots,
    metavar="SHOTS...",
    text="Numbers of shots, such as 0,1,5. Default: the task's own.",
)
@click.option(
    "--component",
    type=Choice(["heads", "ffns", "attention", "layers"]),
    default="heads",
    show_default=True,
    help="attention: all heads of a layer; layers: those and its FFN.",
)
@click.option(
    "--method",
    type=Choice(["gradient", "knockout", "function_vector", "block_influence", "magnitude", "random"]),
    default="gradient",
    show_default=True,
)
@click.option("--metric", help='For knockout: a metric of the task, or "loss". Default: acc, or em without it.')
@click.option(
    "--split",
    type=Choice(["training", "validation", "test"]),
    help="Default: training, or validation where there is none.",
)
@limit("--limit", "-L", text="Documents a task, or their share below 1.")
@click.option("--batch_size", "-b", type=int, default=8, show_default=True)
@click.option(
    "--checkpointing/--no-checkpointing",
    default=None,
    help="Gradients of one layer at a time: less memory, more time. Default: where weights are offloaded.",
)
@device
@click.option("--seed", type=SEED, default=1234, show_default=True, help="Of few-shot draws and random scores.")
@click.option("--include_path", help="Folder with further task definitions.")
@metadata
@click.option("--output_path", "-o", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder.")
@click.option("--overwrite", is_flag=True, help="Compute finished files again.")
def command(
    model_args: dict[str, Any] | None, metadata: dict[str, Any] | None, device: str | None, **settings: object
) -> None:
    """Score every attention head, FFN or layer, one file a task and number of shots.

    \b
    lm-eval-prune importance --model_args pretrained=facebook/opt-125m --tasks piqa,copa --num_fewshot 0,1,5 \\
        --component heads --method gradient --limit 200 --output_path scores

    Files: OUTPUT_PATH/<task>-<k>shot-<component>-<method>.json. Finished ones are not computed again.
    """
    from lm_eval_prune.cli.loading import loading

    with loading():
        from lm_eval_prune.harness.importance import ImportanceConfig, compute_importance
        from lm_eval_prune.harness.model_record import record_of_arguments
        from lm_eval_prune.harness.precision import with_cpu_precision
        from lm_eval_prune.harness.tasks import task_metadata

    arguments = with_cpu_precision(model_args or {}, device)
    config = ImportanceConfig(
        model=record_of_arguments(arguments),
        metadata=task_metadata(model_args or {}, metadata),
        **settings,  # type: ignore[arg-type]
    )
    for outcome in compute_importance(config, lambda: load_model_of(arguments, config.batch_size, device)):
        click.echo(f"{outcome.path}" if outcome.computed else f"{outcome.path} (there already)")
