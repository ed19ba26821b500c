"""`lm-eval-prune means`: mean outputs of heads and FFNs over harness tasks, for mean ablation."""

from __future__ import annotations

from typing import Any

import click

from lm_eval_prune.cli import options


@click.command("means", cls=options.WordsCommand)
@options.model_args()
@options.tasks()
@options.num_fewshot(callback=options.shots)
@options.split
@options.limit()
@options.batch_size
@options.device
@options.seed("Of few-shot draws.")
@options.include_path
@options.metadata
@options.output_folder("Folder.", required=True)
@options.overwrite
def command(
    model_args: dict[str, Any] | None, metadata: dict[str, Any] | None, device: str | None, **settings: Any
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
        **settings,
    )
    options.echo_files(compute_means(config, lambda: options.load_model_of(arguments, config.batch_size, device)))
