"""Whether `pruned-hf` answers as the harness's `hf` does: every request of real documents, dense and masked.

    python benchmarks/check_scoring.py --benchmarks_data DIR [--pretrained DIR] [--num_fewshot 0,5] [--limit 2]
        [--scorer packed] [--dtype float32] [--rounding]

Without `--pretrained`, a tiny random model of every proven family. Both scorers get the same tokenised requests; a
random mask prunes half of the heads and three tenths of the FFNs. Differences are also given in steps of float32 at the
size of the sum, since no two orders of a float32 sum agree to less than that; where they are largest, so is how far
either is from the model in float64. `--dtype float64` computes both so, where rounding hides no other difference.
`--rounding` says of all answers how far both are from float64 (root mean square), and `hf` from itself at batch size 1.
Where one text is requested split at two places, `hf` runs without its logits cache, which is wrong there. Ends with
exit code 1 where a difference is larger than 1e-4 and than two steps.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from common import RESULTS, machine, versions
from scoring_measure import Scorers
from scoring_requests import TASKS, real_documents, training_texts

from lm_eval_prune import PruningMask, masked
from lm_eval_prune.decoders.table import PROVEN
from lm_eval_prune.decoders.tiny import tiny_config
from lm_eval_prune.files import write_json
from lm_eval_prune.random_opt import save_random_model
from lm_eval_prune.ranked_masks import random_mask

VOCABULARY, POSITIONS = 4096, 1024


@click.command(context_settings={"show_default": True})
@click.option("--pretrained", help="A checkpoint folder, in the place of the families' tiny models.")
@click.option("--benchmarks_data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--tasks", default=",".join(TASKS))
@click.option("--num_fewshot", default="0,5")
@click.option("--limit", type=int, default=2, help="Documents of a task.")
@click.option("--batch_size", type=int, default=4)
@click.option("--seed", type=int, default=0, help="Of the masks.")
@click.option("--scorer", type=click.Choice(["packed", "padded"]), default="packed")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32")
@click.option("--masked/--no-masked", "with_masks", default=True, help="Under a mask, too, and not dense alone.")
@click.option("--rounding", is_flag=True, help="How far all answers are from float64, and hf's from its own.")
def main(
    pretrained: str | None,
    benchmarks_data: Path,
    tasks: str,
    num_fewshot: str,
    limit: int,
    with_masks: bool,
    scorer: str,
    dtype: str,
    **settings: int,
) -> None:
    """Compare every answer, and write the largest differences to results/."""
    cells: list[dict[str, Any]] = []
    answering = {"scorer": scorer, "batch_size": settings["batch_size"], "rounding": settings["rounding"]}
    requests: dict[tuple[str, int], list[Any]] = {}
    kinds = KINDS if with_masks else KINDS[:1]
    asked = [(task, shots) for shots in map(int, num_fewshot.split(",")) for task in tasks.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        for scorers in _models(pretrained, dtype, Path(folder), benchmarks_data):
            if pretrained or not requests:  # the tiny models have one tokenizer
                requests_of = real_documents(scorers.hf(1), benchmarks_data, tasks.split(","), limit)
                requests = {(task, shots): requests_of(task, shots) for task, shots in asked}
            for number, (task, shots) in enumerate(asked):
                cell = _cell(scorers, requests[task, shots], kinds, settings["seed"] + number, **answering)
                cells.append({"family": scorers.model.config.model_type, "task": task, "num_fewshot": shots, **cell})
                _write(
                    cells,
                    "-".join(
                        [Path(pretrained).name if pretrained else "families", *_unusual(scorer, dtype, **settings)]
                    ),
                )
            click.echo(_line(scorers.model.config.model_type, cells))
    beyond = [cell for cell in cells for kind in kinds if cell[kind]["beyond"]]
    click.echo("\n".join(json.dumps(cell) for cell in beyond) or "every answer of both agrees")
    sys.exit(bool(beyond))


KINDS = ("dense", "masked")


def _unusual(scorer: str, dtype: str, rounding: int, **others: int) -> list[str]:
    named = [name for name, usual in ((scorer, "packed"), (dtype, "float32")) if name != usual]
    return [*named, *(["rounding"] if rounding else [])]


def _write(cells: list[dict[str, Any]], models: str) -> None:
    content = {
        "date": str(date.today()),
        "machine": machine(),
        "versions": versions(),
        "command": " ".join(["python", "benchmarks/check_scoring.py", *(Path(part).name for part in sys.argv[1:])]),
        "cells": cells,
    }
    write_json(RESULTS / f"scoring-exactness-{models}-{date.today()}.json", content)


def _models(pretrained: str | None, dtype: str, folder: Path, benchmarks_data: Path) -> Iterator[Scorers]:
    if pretrained:
        yield Scorers(pretrained, "cpu", dtype)
        return
    texts = training_texts(benchmarks_data)
    for family in PROVEN:
        config = tiny_config(family)
        config.vocab_size, config.max_position_embeddings = VOCABULARY, POSITIONS
        config.bos_token_id, config.eos_token_id, config.pad_token_id = 2, 2, 1
        for name in ("initializer_range", "init_std"):
            if hasattr(config, name):
                setattr(config, name, 0.1)  # so that answers differ from one another
        yield Scorers(str(save_random_model(folder / family, config, texts=texts)), "cpu", dtype)


def _cell(scorers: Scorers, requests: list[Any], kinds: tuple[str, ...], seed: int, **answering: Any) -> dict[str, Any]:
    shape = scorers.model.config.num_hidden_layers, scorers.model.config.num_attention_heads
    pruned = random_mask(*shape, prune_heads="0.5", prune_ffns="0.3", seed=seed)
    masks = dict(zip(KINDS, (PruningMask.dense(*shape), pruned), strict=True))
    found = {kind: _compared(scorers, requests, mask, **answering) for kind, mask in masks.items() if kind in kinds}
    return {"requests": len(requests), **found}


def _line(family: str, cells: list[dict[str, Any]]) -> str:
    found = [cell[kind] for cell in cells if cell["family"] == family for kind in KINDS if kind in cell]
    return (
        f"{family}: {sum(cell['requests'] for cell in cells if cell['family'] == family)} requests, dense and masked: "
        f"largest difference {max(each['max_difference'] for each in found):.1e}, "
        f"{max(each['max_steps'] for each in found):.1f} steps; from float64, there, hf "
        f"{max(each['hf_from_float64'] for each in found):.1e} and packed "
        f"{max(each['packed_from_float64'] for each in found):.1e}; greedy flags that differ: "
        f"{sum(each['greedy_differing'] for each in found)}"
    )


def _compared(
    scorers: Scorers, requests: list[Any], mask: PruningMask, scorer: str, batch_size: int, rounding: bool
) -> dict[str, float]:
    expected = _answers_of_hf(scorers, requests, mask, batch_size)
    ours = scorers.pruned(batch_size, mask, scorer=scorer)
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    one, other = (np.array([answer[0] for answer in answers]) for answers in (expected, found))
    differences = np.abs(one - other)
    worst = int(differences.argmax())
    exact = _in_float64(scorers.model, requests if rounding else [requests[worst]], mask)
    of_worst = exact[worst] if rounding else exact[0]
    steps = differences / np.spacing(np.abs(one).astype(np.float32))
    of_all: dict[str, float] = {}
    if rounding:
        alone = np.array([answer[0] for answer in _answers_of_hf(scorers, requests, mask, 1)])
        of_all = {
            "hf_rms_from_float64": float(np.sqrt(np.mean((one - exact) ** 2))),
            "packed_rms_from_float64": float(np.sqrt(np.mean((other - exact) ** 2))),
            "hf_from_itself": float(np.abs(one - alone).max()),
        }
    return {
        "max_difference": float(differences.max()),
        "max_steps": float(steps.max()),
        "beyond": int(((differences > 1e-4) & (steps > 2)).sum()),
        "largest_sum": float(np.abs(one).max()),
        "hf_from_float64": abs(float(one[worst] - of_worst)),
        "packed_from_float64": abs(float(other[worst] - of_worst)),
        "greedy_differing": sum(a[1] != b[1] for a, b in zip(expected, found, strict=True)),
        **of_all,
    }


def _answers_of_hf(scorers: Scorers, requests: list[Any], mask: PruningMask, batch_size: int) -> list[Any]:
    hf = scorers.hf(batch_size)
    hf.logits_cache = not _split_at_two_places(requests)
    with masked(scorers.model, mask):
        answers: list[Any] = hf._loglikelihood_tokens(requests, disable_tqdm=True)
    return answers


def _in_float64(model: Any, requests: list[Any], mask: PruningMask) -> np.ndarray:
    """The log-likelihoods of requests by the model itself, in double precision."""
    exact, sums = copy.deepcopy(model).double(), []
    with torch.no_grad(), masked(exact, mask):
        for _, context, continuation in requests:
            ids = torch.tensor([[*context, *continuation][-model.config.max_position_embeddings - 1 : -1]])
            rows = exact(input_ids=ids, use_cache=False).logits[0, -len(continuation) :].log_softmax(-1)
            sums.append(float(rows[range(len(continuation)), continuation].sum()))
    return np.array(sums)


def _split_at_two_places(requests: list[Any]) -> bool:
    lengths: dict[tuple[int, ...], set[int]] = {}
    for _, context, continuation in requests:
        lengths.setdefault((*context, *continuation[:-1]), set()).add(len(continuation))
    return any(len(each) > 1 for each in lengths.values())


if __name__ == "__main__":
    main()
