"""`lm-eval-prune means`: mean outputs of heads and FFNs over harness tasks, for mean ablation."""

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


@click.command("means", cls=WordsCommand)
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
    "--split",
    type=Choice(["training", "validation", "test"]),
    help="Default: training, or validation where there is none.",
)
@limit("--limit", "-L", text="Documents a task, or their share below 1.")
@click.option("--batch_size", "-b", type=int, default=8, show_default=True)
@device
@click.option("--seed", type=SEED, default=1234, show_default=True, help="Of few-shot draws.")
@click.option("--include_path", help="Folder with further task definitions.")
@metadata
@click.option("--output_path", "-o", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder.")
@click.option("--overwrite", is_flag=True, help="Compute finished files again.")
def command(
    model_args: dict[str, Any] | None, metadata: dict[str, Any] | None, device: str | None, **settings: object
) -> None:
    """Average what every head and FFN gives over a task's prompts, for ablation=mean.

    \b
    lm-eval-prune means --model_args pretrained=facebook/opt-125m --tasks piqa --num_fewshot 5 \\
        --limit 200 --output_path means
    lm-eval-prune run --tasks piqa --num_fewshot 5 \\
        --model_args pretrained=facebook/opt-125m,mask=mask.json,ablation=mean,means=means/piqa-5shot-means.safetensors

    Files: OUTPUT_PATH/<task>-<k>shot-means.safetensors. Finished ones are not computed again.
    """
    from lm_eval_prune.cli.loading import loading

    with loading():
        from lm_eval_prune.harness.means import MeansConfig, compute_means
        from lm_eval_prune.harness.model_record import record_of_arguments
        from lm_eval_prune.harness.precision import with_cpu_precision
        from lm_eval_prune.harness.tasks import task_metadata

    arguments = with_cpu_precision(model_args or {}, device)
    config = MeansConfig(
        model=record_of_arguments(arguments),
        metadata=task_metadata(model_args or {}, metadata),
        **settings,  # type: ignore[arg-type]
    )
    for outcome in compute_means(config, lambda: load_model_of(arguments, config.batch_size, device)):
        click.echo(f"{outcome.path}" if outcome.computed else f"{outcome.path} (there already)")
