"""How the bundled model takes pruning, and its induction heads: figures for its model card.

    python -m training.measure lm_eval_prune/demo/model

Writes `pruning` and `prefix_matching` into the checkpoint's measurements.json and renders its card anew. Importance is
taken on training documents, accuracy on all validation documents, 5 shots, through the harness.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import click

from lm_eval_prune import PruningMask, evaluate, importance_scores
from lm_eval_prune.files import read_json, write_json
from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.induction import prefix_matching_scores
from lm_eval_prune.ranked_masks import random_mask, ranked_mask
from lm_eval_prune.sequences import fitting_lengths, random_sequences, ranked_tokens
from lm_eval_prune.sweep.demo import GROUP, highest_heads
from training import model_card

SEEDS = range(5)
SHOTS = 5
TASKS: dict[str, Any] = {"include_path": str(tasks_folder()), "include_defaults": False}
"""Where the group is looked for: there alone, which is quick."""


def variants(shape: tuple[int, int], importance: ImportanceScores) -> dict[str, list[PruningMask]]:
    def ranked(share: str, order: str = "least") -> list[PruningMask]:
        return [
            ranked_mask(num_attention_heads=shape[1], head_scores=importance.tensor(), head_fraction=share, order=order)
        ]

    return {
        "none": [PruningMask.dense(*shape)],
        "least important half": ranked("0.5"),
        "least important 70 %": ranked("0.7"),
        "most important tenth": ranked("0.1", "most"),
        "random half, mean of 5 seeds": [random_mask(*shape, prune_heads="0.5", seed=seed) for seed in SEEDS],
    }


def accuracies(lm: PrunedModel, masks: list[PruningMask], limit: int) -> dict[str, float]:
    found = evaluate(lm, masks, GROUP, num_fewshot=SHOTS, limit=limit, progress=False, **TASKS)
    by_task = found.groupby("task", sort=False)["acc"].mean()
    return {str(task).removeprefix("demo_"): round(float(value), 4) for task, value in by_task.items()}


def prefix_matching(lm: PrunedModel, count: int) -> dict[str, object]:
    ranked = ranked_tokens(lm.tokenizer, lm.config.vocab_size)
    lengths = fitting_lengths(ranked, lm.max_length, repeats=4, count=count)
    scores = prefix_matching_scores(
        lm.model, random_sequences(ranked, lengths, 1234), bos_token_id=lm.prefix_token_id
    ).mean(0)
    best = [[layer, head, round(score, 3)] for (layer, head), score in highest_heads(scores, 6)]
    described = f"mean of {len(lengths)} random sequences of {min(lengths)} to {max(lengths)} tokens, each four times"
    return {"sequences": described, "best_heads": best}


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--limit", type=int, default=320, show_default=True, help="Validation documents a task.")
@click.option("--sequences", type=int, default=100, show_default=True, help="Random sequences.")
def main(checkpoint: Path, limit: int, sequences: int) -> None:
    lm = PrunedModel(str(checkpoint), device="cpu", batch_size=32)
    scores = importance_scores(lm, GROUP, num_fewshot=SHOTS, limit=100, **TASKS)
    rows = []
    for name, masks in variants(lm.mask.shape, scores).items():
        accuracy = accuracies(lm, masks, limit)
        rows.append({"pruned": name, "accuracy": accuracy, "mean": round(mean(accuracy.values()), 4)})
        click.echo(f"{name}: {rows[-1]['mean']:.3f}  {accuracy}")
    found = prefix_matching(lm, sequences)
    click.echo(found)
    path = checkpoint / model_card.MEASUREMENTS_FILE
    write_json(path, {**read_json(path), "pruning": rows, "prefix_matching": found})
    click.echo(model_card.write(checkpoint))


if __name__ == "__main__":
    main()
