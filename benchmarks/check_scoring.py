"""Whether `scorer=packed` answers as the harness's `hf` does: every request of real documents, dense and masked.

    python benchmarks/check_scoring.py --pretrained DIR --benchmarks_data DIR [--num_fewshot 0,1,5] [--limit 100]

Both get the same tokenised requests; a random mask prunes half of the heads and a fifth of the FFNs. Differences are
also given in steps of float32 at the size of the sum, since no two orders of a float32 sum agree to less than that.
Where one text is requested split at two places, `hf` runs without its logits cache, which is wrong there.
"""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import RESULTS, machine, versions
from scoring_measure import Scorers
from scoring_requests import TASKS, real_documents

from lm_eval_prune import PruningMask, masked
from lm_eval_prune.files import write_json
from lm_eval_prune.selection import random_mask


@click.command(context_settings={"show_default": True})
@click.option("--pretrained", required=True, help="A checkpoint folder.")
@click.option("--benchmarks_data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--tasks", default=",".join(TASKS))
@click.option("--num_fewshot", default="0,1,5")
@click.option("--limit", type=int, default=100, help="Documents of a task.")
@click.option("--batch_size", type=int, default=4)
@click.option("--seed", type=int, default=0, help="Of the masks.")
def main(pretrained: str, benchmarks_data: Path, tasks: str, num_fewshot: str, limit: int, **settings: int) -> None:
    """Compare every answer, and write the largest differences to results/."""
    scorers = Scorers(pretrained, "cpu", "float32")
    config = scorers.model.config
    shape = config.num_hidden_layers, config.num_attention_heads
    requests_of = real_documents(scorers.hf(1), benchmarks_data, tasks.split(","), limit)
    cells = []
    for shots in map(int, num_fewshot.split(",")):
        for number, task in enumerate(tasks.split(",")):
            requests = requests_of(task, shots)
            pruned = random_mask(*shape, prune_heads="0.5", prune_ffns="0.2", seed=settings["seed"] + number)
            cell: dict[str, Any] = {"task": task, "num_fewshot": shots, "requests": len(requests)}
            for name, mask in (("dense", PruningMask.dense(*shape)), ("masked", pruned)):
                cell[name] = _compared(scorers, requests, mask, settings["batch_size"])
            cells.append(cell)
            click.echo(json.dumps(cell))
    content = {
        "date": str(date.today()),
        "machine": machine(),
        "versions": versions(),
        "command": " ".join(["python", "benchmarks/check_scoring.py", *(Path(part).name for part in sys.argv[1:])]),
        "model": {key: getattr(config, key) for key in ("num_hidden_layers", "hidden_size", "vocab_size")},
        "cells": cells,
    }
    write_json(RESULTS / f"scoring-exactness-{date.today()}.json", content)
    for name in ("dense", "masked"):
        found = [cell[name] for cell in cells]
        click.echo(
            f"{name}: {sum(cell['requests'] for cell in cells)} requests, largest difference "
            f"{max(each['max_difference'] for each in found):.1e}, {max(each['max_steps'] for each in found):.1f} "
            f"steps; greedy flags that differ: {sum(each['greedy_differing'] for each in found)}"
        )


def _compared(scorers: Scorers, requests: list[Any], mask: PruningMask, batch_size: int) -> dict[str, float]:
    hf = scorers.hf(batch_size)
    hf.logits_cache = not _split_at_two_places(requests)
    with masked(scorers.model, mask):
        expected = hf._loglikelihood_tokens(requests, disable_tqdm=True)
    found = scorers.packed(batch_size, mask)._loglikelihood_tokens(requests, disable_tqdm=True)
    one, other = (np.array([answer[0] for answer in answers]) for answers in (expected, found))
    differences = np.abs(one - other)
    return {
        "max_difference": float(differences.max()),
        "max_steps": float((differences / np.spacing(np.abs(one).astype(np.float32))).max()),
        "largest_sum": float(np.abs(one).max()),
        "greedy_differing": sum(a[1] != b[1] for a, b in zip(expected, found, strict=True)),
    }


def _split_at_two_places(requests: list[Any]) -> bool:
    lengths: dict[tuple[int, ...], set[int]] = {}
    for _, context, continuation in requests:
        lengths.setdefault((*context, *continuation[:-1]), set()).add(len(continuation))
    return any(len(each) > 1 for each in lengths.values())


if __name__ == "__main__":
    main()
