"""`lm-eval-prune run`: the harness's `run`, with `pruned-hf` as the default model."""

from __future__ import annotations

import click


@click.command(
    "run",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Evaluate a pruned model: every option of `lm_eval run`; --model is pruned-hf unless given.

    \b
    lm-eval-prune run --model_args pretrained=facebook/opt-125m,mask=mask.json --tasks icl14_1shot
    """
    from lm_eval_prune.cli.loading import loading

    asks_for_help = bool({"-h", "--help"} & set(arguments))
    with loading(*(["torch"] if asks_for_help else [])):
        from lm_eval_prune.harness.run import run_harness

        if not asks_for_help:
            import lm_eval_prune.harness.model  # noqa: F401
    run_harness(arguments)
