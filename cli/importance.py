"""`lm-eval-prune importance`: scores of heads or FFNs from harness tasks."""

from __future__ import annotations

from typing import Any

import click

from lm_eval_prune.cli import options


@click.command("importance", cls=options.WordsCommand)
@options.model_args()
@options.tasks()
@options.num_fewshot(callback=options.shots)
@click.option(
    "--component",
    type=options.Choice(["heads", "ffns", "attention", "layers"]),
    default="heads",
    show_default=True,
    help="attention: all heads of a layer; layers: those and its FFN.",
)
@click.option(
    "--method",
    type=options.Choice(["gradient", "knockout", "function_vector", "block_influence", "magnitude", "random"]),
    default="gradient",
    show_default=True,
)
@click.option("--metric", help='For knockout: a metric of the task, or "loss". Default: acc, or em without it.')
@options.split
@options.limit()
@options.batch_size
@click.option(
    "--checkpointing/--no-checkpointing",
    default=None,
    help="Gradients of one layer at a time: less memory, more time. Default: where weights are offloaded.",
)
@options.device
@options.seed("Of few-shot draws and random scores.")
@options.include_path
@options.metadata
@options.output_folder("Folder.", required=True)
@options.overwrite
def command(
    model_args: dict[str, Any] | None, metadata: dict[str, Any] | None, device: str | None, **settings: Any
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
        **settings,
    )
    options.echo_files(compute_importance(config, lambda: options.load_model_of(arguments, config.batch_size, device)))
