"""`python -m training.train`: trains the bundled model.

Writes into --output_path the checkpoint (safetensors), the tokenizer, the curve, the measurements, the model card and,
while it trains, `training_state.safetensors`, from which the same command goes on after it was stopped. A batch depends
on the seed and the step alone, so a training that was stopped ends in the same weights as one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.files import write_json
from training import mixture, model_card
from training.recipe import Recipe, build_model, turn_look_back
from training.training_state import load_state, save_state
from training.vocabulary import build_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import OPTForCausalLM

__all__ = ["main", "save_checkpoint", "train"]

STATE_FILE = "training_state.safetensors"
STEPS = 2650
CURVE_EVERY = 50
"""Steps per point of the curve."""


def _head_norms(model: OPTForCausalLM) -> torch.Tensor:
    """Sum over all heads of the norms of their value and output matrices; small when few heads do the work."""
    total = model.lm_head.weight.new_zeros(())
    for layer in model.model.decoder.layers:
        attention = layer.self_attn
        values = attention.v_proj.weight.unflatten(0, (attention.num_heads, -1))  # head, head_dim, hidden
        outputs = attention.out_proj.weight.unflatten(1, (attention.num_heads, -1))  # hidden, head, head_dim
        total = total + (values.square().sum((1, 2)) + 1e-8).sqrt().sum()
        total = total + (outputs.square().sum((0, 2)) + 1e-8).sqrt().sum()
    return total


def _training_step(
    model: OPTForCausalLM, optimizer: torch.optim.Optimizer, recipe: Recipe, *, seed: int, step: int, batch_size: int
) -> tuple[float, dict[str, tuple[int, int]]]:
    """One update. Returns the loss, and per kind how many known words were right, and how many there were."""
    import torch

    length = recipe.length(step)
    size = recipe.sequences(batch_size, length)
    kinds, words, marks = mixture.batch(seed, step, batch_size=size, length=length, shares=recipe.stage(step).shares)
    device = model.device
    ids, known = torch.tensor(words, device=device), torch.tensor(marks, device=device)
    # Every position is trained, though few sequences are as long: half of them begin further on.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(0, recipe.max_position_embeddings - length + 1, (size, 1), generator=generator)
    starts = (starts * (torch.rand(size, 1, generator=generator) < 0.5)).to(device)
    hidden = model.model(ids, position_ids=starts + torch.arange(length, device=device)).last_hidden_state
    wanted = known[:, 1:]
    logits = model.lm_head(hidden[:, :-1][wanted])
    targets = ids[:, 1:][wanted]
    loss = torch.nn.functional.cross_entropy(logits, targets)
    total = loss
    head_sparsity = recipe.stage(step).head_sparsity
    if head_sparsity:
        total = loss + head_sparsity * _head_norms(model)
    optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
    optimizer.step()

    right = torch.zeros_like(wanted)
    right[wanted] = logits.argmax(-1) == targets
    counts: dict[str, tuple[int, int]] = {}
    for kind, hits, words in zip(kinds, right.sum(1).tolist(), wanted.sum(1).tolist(), strict=True):
        before = counts.get(kind, (0, 0))
        counts[kind] = (before[0] + hits, before[1] + words)
    return loss.item(), counts


class _Curve:
    """Collects steps into points `{"step", "loss", "accuracy": {kind: share}}`; a point spans CURVE_EVERY steps."""

    def __init__(self, progress: Mapping[str, Any]) -> None:
        self.points: list[dict[str, Any]] = progress["points"]
        self.losses: list[float] = progress["losses"]
        self.counts: dict[str, list[int]] = progress["counts"]

    def add(self, step: int, loss: float, counts: dict[str, tuple[int, int]]) -> None:
        self.losses.append(loss)
        for kind, (hits, words) in counts.items():
            total = self.counts.setdefault(kind, [0, 0])
            total[0] += hits
            total[1] += words
        if (step + 1) % CURVE_EVERY == 0:
            accuracy = {kind: round(hits / words, 4) for kind, (hits, words) in sorted(self.counts.items()) if words}
            loss = round(sum(self.losses) / len(self.losses), 4)
            self.points.append({"step": step + 1, "loss": loss, "accuracy": accuracy})
            self.losses, self.counts = [], {}


def _optimizer(model: OPTForCausalLM, recipe: Recipe) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )


def _resume(
    path: Path, model: OPTForCausalLM, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
) -> dict[str, Any]:
    """Progress of the training saved at `path`, its weights put into `model`; a beginning where there is none."""
    if not path.exists():
        return {"step": 0, "seconds": 0.0, "points": [], "losses": [], "counts": {}}
    return load_state(path, model, optimizer, settings)


def train(
    output_path: Path,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    device: str = "cpu",
    limit: int | None = None,
    save_every: int = 100,
    recipe: Recipe | None = None,
) -> tuple[OPTForCausalLM, dict[str, Any]]:
    """Train for `steps` steps, or go on where a training into `output_path` was stopped.

    limit: take at most so many steps now; the same call goes on from there. Returns the model and its progress: `step`,
    `seconds` in all, `points` of the curve, `settings`. Raises ArgumentError where `output_path` holds the state of a
    training with other settings.
    """
    from tqdm import tqdm

    recipe = recipe or Recipe()
    output_path.mkdir(parents=True, exist_ok=True)
    state_path = output_path / STATE_FILE
    settings = {"steps": steps, "seed": seed, "batch_size": batch_size, "recipe": dataclasses.asdict(recipe)}
    settings = json.loads(json.dumps(settings))  # as it will be read back: tuples are lists
    model = build_model(recipe, seed).to(device).train()  # type: ignore[arg-type]
    optimizer = _optimizer(model, recipe)
    progress = _resume(state_path, model, optimizer, settings) | {"settings": settings}
    curve = _Curve(progress)
    first, before, started = progress["step"], progress["seconds"], time.monotonic()
    last = steps if limit is None else min(steps, first + limit)

    with tqdm(range(first, last), initial=first, total=steps, desc="training", unit="step", mininterval=1) as bar:
        for step in bar:
            if step == recipe.turn_step:
                turn_look_back(model, recipe)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step, steps)
            loss, counts = _training_step(model, optimizer, recipe, seed=seed, step=step, batch_size=batch_size)
            curve.add(step, loss, counts)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if (step + 1) % save_every == 0 or step + 1 == last:
                progress |= {"points": curve.points, "losses": curve.losses, "counts": curve.counts}
                progress |= {"step": step + 1, "seconds": before + time.monotonic() - started}
                save_state(state_path, model, optimizer, progress)
    return model.eval(), progress


def save_checkpoint(
    output_path: Path, model: OPTForCausalLM, progress: Mapping[str, Any], *, device: str, evaluate: bool
) -> None:
    """Write the checkpoint, the tokenizer, the curve, the measurements and the model card into `output_path`.

    evaluate: measure the accuracies on the demo tasks for the card, by the harness; takes a minute or two on a CPU.
    """
    from training.evaluation import accuracies

    model.save_pretrained(output_path)
    build_tokenizer(model.config.max_position_embeddings).save_pretrained(output_path)
    (output_path / model_card.CURVE_FILE).write_text(
        "[\n" + ",\n".join(json.dumps(point) for point in progress["points"]) + "\n]\n", encoding="utf-8"
    )
    measurements = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps_done": progress["step"],
        "seconds": round(progress["seconds"], 1),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})" if device == "cpu" else device,
        "settings": progress["settings"],
    }
    if evaluate:
        measurements["accuracy"] = accuracies(output_path, device=device)
    write_json(output_path / model_card.MEASUREMENTS_FILE, measurements)
    model_card.write(output_path)


def _check_device(device: str) -> None:
    """Raises ArgumentError for a device that torch does not have here."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError(f"--device {device}: cannot be used here ({reason}); cpu always can") from None


@click.command()
@click.option("--output_path", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
@click.option("--steps", type=click.IntRange(1), default=STEPS, show_default=True, help="Optimizer steps in all.")
@click.option("--seed", type=int, default=1234, show_default=True, help="Of the weights and of the data.")
@click.option(
    "--batch_size",
    type=click.IntRange(1),
    default=48,
    show_default=True,
    help="Short sequences a step; of longer ones so many that a step has as many words.",
)
@click.option("--device", default="cpu", show_default=True, help="Such as cpu or cuda:0.")
@click.option("--limit", type=click.IntRange(1), help="Stop after so many steps; the same command goes on from there.")
@click.option("--evaluate/--no_evaluate", default=True, show_default=True, help="Measure accuracies for the card.")
def main(
    output_path: Path, steps: int, seed: int, batch_size: int, device: str, limit: int | None, evaluate: bool
) -> None:
    """Train the bundled model, or go on with a training that was stopped."""
    try:
        _check_device(device)
        model, progress = train(output_path, steps=steps, seed=seed, batch_size=batch_size, device=device, limit=limit)
        if progress["step"] < steps:
            click.echo(f"stopped at step {progress['step']} of {steps}; the same command goes on from there")
            return
        save_checkpoint(output_path, model, progress, device=device, evaluate=evaluate)
    except PruneError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    click.echo(f"{output_path}: {steps} steps, {progress['seconds'] / 60:.1f} minutes")


if __name__ == "__main__":
    main()
