"""`lm-eval-prune induction`: prefix-matching and copying scores of every head."""

from __future__ import annotations

from typing import Any

import click

from lm_eval_prune.cli import options


@click.command("induction", cls=options.WordsCommand)
@options.model_args()
@click.option(
    "--num_sequences", type=click.IntRange(min=1), default=100, show_default=True, help="Of 25, 27, ... tokens."
)
@click.option(
    "--repeats", type=click.IntRange(min=2), default=4, show_default=True, help="Copies, for prefix matching."
)
@click.option(
    "--definition",
    type=options.Choice(["olsson2022", "bansal2023"]),
    default="olsson2022",
    show_default=True,
    help="Of copying.",
)
@options.device
@options.seed("Of the sequences.")
@options.output_folder("Folder.", required=True)
@options.overwrite
def command(model_args: dict[str, Any] | None, device: str | None, **settings: Any) -> None:
    """Measure what heads do on random tokens: OUTPUT_PATH/prefix-matching.json and copying-<definition>.json.

    The files are importance files of heads: scores are means over the sequences, "variance" stands beside them.
    """
    from lm_eval_prune.cli.loading import loading

    with loading():
        from lm_eval_prune.harness.induction import InductionConfig, compute_induction
        from lm_eval_prune.harness.model_record import record_of_arguments
        from lm_eval_prune.harness.precision import with_cpu_precision

    arguments = with_cpu_precision(model_args or {}, device)
    config = InductionConfig(model=record_of_arguments(arguments), **settings)
    options.echo_files(compute_induction(config, lambda: options.load_model_of(arguments, 1, device)))
