"""How the bundled model takes pruning, and its induction heads: figures for its model card.

    python -m training.measure lm_eval_prune/demo/model

Writes `pruning` and `prefix_matching` into the checkpoint's measurements.json and renders its card anew. Importance is
taken on training documents, accuracy on all validation documents, 5 shots, through the harness.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import click
from lm_eval.tasks import TaskManager

from lm_eval_prune.files import read_json, write_json
from lm_eval_prune.harness import demo
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.harness.quiet import quiet_harness
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.induction import prefix_matching_scores
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.selection import random_mask, select_mask
from lm_eval_prune.sequences import fitting_lengths, random_sequences, ranked_tokens
from training import model_card

SEEDS = range(5)
SHOTS = 5


def variants(lm: PrunedOPT, importance: Path) -> dict[str, list[PruningMask]]:
    def ranked(share: str, order: str = "least") -> list[PruningMask]:
        mask = select_mask(head_importance=importance, prune_heads=share, order=order)
        return [mask] if mask is not None else []

    return {
        "none": [lm.mask],
        "least important half": ranked("0.5"),
        "least important 70 %": ranked("0.7"),
        "most important tenth": ranked("0.1", "most"),
        "random half, mean of 5 seeds": [random_mask(*lm.mask.shape, prune_heads="0.5", seed=seed) for seed in SEEDS],
    }


def accuracies(lm: PrunedOPT, masks: list[PruningMask], manager: TaskManager, limit: int) -> dict[str, float]:
    runs = [demo._evaluate(lm, mask, manager, shots=SHOTS, limit=limit, seed=1234) for mask in masks]
    tasks = runs[0]["group_subtasks"][demo.GROUP]
    return {
        task.removeprefix("demo_"): round(mean(run["results"][task]["acc,none"] for run in runs), 4) for task in tasks
    }


def prefix_matching(lm: PrunedOPT, count: int) -> dict[str, object]:
    ranked = ranked_tokens(lm.tokenizer, lm.config.vocab_size)
    lengths = fitting_lengths(ranked, lm.max_length, repeats=4, count=count)
    scores = prefix_matching_scores(
        lm.model, random_sequences(ranked, lengths, 1234), bos_token_id=lm.prefix_token_id
    ).mean(0)
    best = [[layer, head, round(score, 3)] for (layer, head), score in demo._highest(scores, 6)]
    described = f"mean of {len(lengths)} random sequences of {min(lengths)} to {max(lengths)} tokens, each four times"
    return {"sequences": described, "best_heads": best}


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--limit", type=int, default=320, show_default=True, help="Validation documents a task.")
@click.option("--sequences", type=int, default=100, show_default=True, help="Random sequences.")
def main(checkpoint: Path, limit: int, sequences: int) -> None:
    with quiet_harness(), TemporaryDirectory() as scratch:
        lm = demo._OneBar(pretrained=str(checkpoint), device="cpu", batch_size=demo.BATCH_SIZE)
        files = demo._importance(lm, Path(scratch), limit=100, seed=1234)
        manager = TaskManager(include_defaults=False, include_path=tasks_folder())
        rows = []
        for name, masks in variants(lm, files["heads"]).items():
            accuracy = accuracies(lm, masks, manager, limit)
            rows.append({"pruned": name, "accuracy": accuracy, "mean": round(mean(accuracy.values()), 4)})
            click.echo(f"{name}: {rows[-1]['mean']:.3f}  {accuracy}")
        found = prefix_matching(lm, sequences)
        click.echo(found)
    path = checkpoint / model_card.MEASUREMENTS_FILE
    write_json(path, {**read_json(path), "pruning": rows, "prefix_matching": found})
    click.echo(model_card.write(checkpoint))


if __name__ == "__main__":
    main()
