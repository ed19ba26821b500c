"""A made-up leaderboard of the size of the paper's study: 14 tasks, 3 numbers of shots, 60 variants of OPT-66B."""

from __future__ import annotations

import functools
import random
import zlib
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
from sweep_folders import mask_of

from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.board import Average, Board, Cell, Column, Decline, Difference, Entry
from lm_eval_prune.report.harness_files import mask_text
from lm_eval_prune.report.outcomes import Document, Outcomes
from lm_eval_prune.report.reading import Collection
from lm_eval_prune.report.runs import Cost, Run, Value
from lm_eval_prune.report.schema import Mask
from lm_eval_prune.variants import DENSE, Variant

TASKS = (
    "hellaswag", "piqa", "arc_easy", "arc_challenge", "openbookqa", "winogrande", "boolq", "cb", "copa", "wic", "wsc",
    "icl14_multirc", "rte", "icl14_record",
)  # fmt: skip
DOCUMENTS = (10042, 1838, 2376, 1172, 500, 1267, 3270, 56, 100, 638, 104, 4848, 277, 10000)
"""Of each task, as the study has them."""
SHOTS = (0, 1, 5)
LAYERS, HEADS = 64, 72
PARAMETERS, PER_HEAD, PER_FFN = 65_700_000_000, 4_700_000, 679_000_000
COLUMNS = [Column(task, "em" if task == "icl14_record" else "acc") for task in TASKS]
SHARES = ("0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9")


def variants():
    grid = [Variant(r, heads, ffns) for r in ("own", "aggregate") for heads in SHARES for ffns in ("0", "0.2", "0.4")]
    return [DENSE, *(v for v in grid if (v.prune_heads, v.prune_ffns) != ("0", "0")), Variant("random", "0.5", "0", 0)]


def full_grid():
    """(Board, Collection), the same each time."""
    draw = random.Random(0)
    entries = [_entry(variant, shots, draw) for shots in SHOTS for variant in variants()]
    ranked = []
    for entry in entries:
        others = [other.average.value for other in entries if other.num_fewshot == entry.num_fewshot]
        ranked.append(replace(entry, rank=1 + sum(value > entry.average.value for value in others)))
    ranked.sort(key=lambda entry: (entry.num_fewshot, entry.rank))
    sentence = "own, 0-shot: 30 % of heads can go with the average above dense -0.01; at 30 % it is +0.0000"
    declines = [Decline("facebook/opt-66b", "own", "heads", shots, "0.3", sentence) for shots in SHOTS]
    board = Board(columns=COLUMNS, entries=ranked, problems=[], declines=declines, margin=0.01, outcomes=_outcomes)
    runs = [run for entry in ranked for run in entry.runs]
    return board, Collection(runs=runs, importance=list(_importance(draw)))


def _outcomes(run, metric):
    return _answers(run.task, run.num_fewshot, str(run.path), run.is_dense, metric)


@functools.cache
def _answers(task, shots, path, is_dense, metric):
    """Of which a tenth differs from the dense model's."""
    count = DOCUMENTS[TASKS.index(task)]
    right = np.random.default_rng(count + shots).random(count) < 0.6
    changed = np.random.default_rng(zlib.crc32(path.encode())).random(count) < 0.1
    values = right if is_dense else right ^ changed
    return Outcomes(_documents(task, shots), np.arange(count), {metric: values.astype(float)})


@functools.cache
def _documents(task, shots):
    return tuple(Document(f"{task} {n}", f"{shots}") for n in range(DOCUMENTS[TASKS.index(task)]))


def _entry(variant, shots, draw):
    heads, ffns = float(variant.prune_heads), float(variant.prune_ffns)
    removed = int(heads * LAYERS * HEADS) * PER_HEAD + int(ffns * LAYERS) * PER_FFN
    cost = Cost(
        parameters=PARAMETERS - removed, parameters_total=PARAMETERS, flops=2 * (PARAMETERS - removed),
        flops_total=2 * PARAMETERS, heads_pruned=int(heads * LAYERS * HEADS), heads_total=LAYERS * HEADS,
        ffns_pruned=int(ffns * LAYERS), ffns_total=LAYERS,
    )  # fmt: skip
    cells = {column: _cell(variant, draw.uniform(0.3, 0.9), draw) for column in COLUMNS}
    value = fmean(cell.value for cell in cells.values())
    dense = variant == DENSE
    return Entry(
        label=str(variant), model="facebook/opt-66b", backend="pruned-opt", ranking=variant.ranking,
        prune_heads=variant.prune_heads, prune_ffns=variant.prune_ffns, oracle=False, num_fewshot=shots,
        seeds=(), is_dense=dense, cost=cost, cells=cells,
        average=Average(
            value=value, low=value - 0.004, high=value + 0.004, method="bootstrap",
            difference=None if dense else _difference(draw), verdict="" if dense else "not shown",
        ),
        runs=[_run(variant, shots, column, cell, cost) for column, cell in cells.items()],
        against={} if dense else {column: [_dense_run(shots, column)] for column in COLUMNS},
    )  # fmt: skip


def _cell(variant, value, draw):
    difference = None if variant == DENSE else _difference(draw)
    verdict = "" if difference is None else draw.choice(["not shown", "worse", "better", "within the margin"])
    return Cell(value=value, stderr=draw.random() / 50, num_documents=1838, difference=difference, verdict=verdict)


def _difference(draw):
    value = draw.uniform(-0.1, 0.05)
    p = draw.random()
    return Difference(value, value - 0.012345, value + 0.012345, p, min(1.0, 60 * p), "mcnemar", 1838)


@functools.cache
def _dense_run(shots, column):
    return _run(DENSE, shots, column, Cell(value=0.6, stderr=0.01), Cost())


def _run(variant, shots, column, cell, cost):
    folder = Path("sweep")
    return Run(
        source=folder, path=folder / "cells" / f"{column.task}-{shots}-{variant}.json", model="facebook/opt-66b",
        weights="f00d", backend="pruned-opt", variant=variant, task=column.task, num_fewshot=shots,
        fewshot_seed=1234, values={column.metric: Value(cell.value, cell.stderr, True)}, task_version="1.0",
        task_config=None, limit=None, num_documents=1838, dtype="float16", scorer="packed", lm_eval="0.4.13", date=1.0,
        cost=cost, samples=None,
        mask=mask_text(Mask.model_validate(mask_of(variant, LAYERS, HEADS, column.task, shots))),
    )  # fmt: skip


def _importance(draw):
    common = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    for shots in SHOTS:
        for task in (*TASKS, "aggregate"):
            for component, method in (("heads", "gradient"), ("ffns", "knockout")):
                name = f"{task}-{shots}shot-{component}-{method}.json"
                rows = tuple(tuple(draw.random() for _ in range(HEADS)) for _ in range(LAYERS))
                scores = rows if component == "heads" else tuple(row[0] for row in rows)
                settings = {"method": method, "model": "facebook/opt-66b", "task": task, "num_fewshot": shots}
                yield (
                    Path("sweep/importance", name),
                    ImportanceScores(component=component, scores=scores, settings=settings, **common),
                )
    for method in ("prefix-matching", "copying-olsson2022"):
        rows = tuple(tuple(draw.random() for _ in range(HEADS)) for _ in range(LAYERS))
        settings = {"method": method, "model": "facebook/opt-66b"}
        yield (
            Path(f"sweep/importance/{method}.json"),
            ImportanceScores(component="heads", scores=rows, settings=settings, **common),
        )
