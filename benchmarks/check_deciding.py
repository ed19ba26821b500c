"""Deciding sweeps played back on recorded outcomes: how many documents they take, and whether they answer alike.

    lm-eval-prune sweep --config bundled --limit 320 --output_path FOLDER
    python benchmarks/check_deciding.py FOLDER [--mode walk] [--seeds 20] [--first_seed 0] [--margin 0.01]
    python benchmarks/check_deciding.py FOLDER --at_margin [--times 1] [--replicates 2000] [--margin 0.01]
    python benchmarks/check_deciding.py --made_up [--replicates 2000]

FOLDER is a sweep without `--decide` whose cells have all documents. The decisions are the sweep's own
(`lm_eval_prune.sweep.decisions`); instead of a model, what was recorded answers. Each seed is another order of the
documents. Written: the share of the sweep's documents that were taken, and for how many seeds every ranking's minimal
decline is that of all documents (of `rows`: how many rows have the verdict of all documents, and after how many a row
that loses 20 points is decided). With `--at_margin`: how often rows are called within the margin at any look where they
lose exactly the margin, of outcomes drawn from those recorded (`resampled.py`), so many times as there are; rows of all
tasks of the folder and of each task alone. With `--made_up`: how often a loss of the margin is called within it at any
look, and no loss a difference, of answers drawn at random.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import record
from resampled import Recorded, simulated

from lm_eval_prune.intervals import Z
from lm_eval_prune.sequential import LEVEL, Look, documents_at, looks, looks_for
from lm_eval_prune.sum_intervals import SumOfChanges, least_sum, sum_lower_limit, sum_p
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.decisions import OPEN, WITHIN, Decisions, Outcomes, outcomes_of
from lm_eval_prune.sweep.schema import DecideSettings, Row
from lm_eval_prune.unit_intervals import UnitChanges
from lm_eval_prune.variants import DENSE

LARGE = 0.2
"""A loss that few documents should show."""


class Played(Decisions):
    """Decisions over cells that grow at once, from what was recorded."""

    def __init__(self, folder: Path, rows: list[Row], settings: DecideSettings, recorded: dict[str, Outcomes]) -> None:
        super().__init__(folder, rows, settings)
        self.reached = dict.fromkeys(recorded, -1)
        task_of = {row.cell: row.task for row in rows}
        self.recorded = {cell: self._with_looks(found, task_of[cell]) for cell, found in recorded.items()}

    def look(self, cell: str) -> int:
        return self.reached[cell]

    def outcomes(self, cell: str) -> Outcomes:
        return self.recorded[cell].until(self.reached[cell])

    def failed(self, key: Any) -> bool:
        return False

    def play(self) -> None:
        """Until nothing has to grow."""
        while True:
            grown = {cell: max(self.reached[cell], target) for cell, target in self.targets().items()}
            if grown == self.reached:
                return
            self.reached = grown

    def declines(self) -> dict[Any, int]:
        """How many of a family's rows are shown to be within the margin, from the smallest share on."""
        found = {}
        for family in self.families():
            count = 0
            for place, key in enumerate(family):
                look = self.looks[min(self.reached[cell] for cell, _ in self.cells_of(key).values())]
                if self.verdict(key, look) == WITHIN:
                    count = place + 1
                elif self.settings.mode != "halving":
                    break
            found[family[0][0].ranking, family[0][0].prune_heads == "0", family[0][1]] = count
        return found

    def _with_looks(self, found: Outcomes, task: str) -> Outcomes:
        order = {int(number): place for place, number in enumerate(sorted(found.doc_ids))}
        arrived: dict[int, int] = {}
        for look in self.looks:
            for number in documents_at(len(order), self.settings.limits, look, self.settings.seed, task):
                arrived.setdefault(number, look.number)
        return found._replace(looks=np.array([arrived[order[int(number)]] for number in found.doc_ids]))


def recorded_outcomes(folder: Path) -> tuple[list[Row], dict[str, Outcomes]]:
    """The rows all of whose tasks have outcomes, and these."""
    rows, found = disk.read_rows(folder), {}
    for cell in {row.cell for row in rows}:
        path = disk.cell_path(folder, cell)
        if path.exists():
            lines = [{**line, "look": 0} for line in disk.read_samples(path)]
            if (known := outcomes_of(disk.read_cell(path, samples=False), lines)) is not None:
                found[cell] = known
    return [row for row in rows if row.cell in found], found


def with_all(folder: Path, rows: list[Row], recorded: dict[str, Outcomes], margin: float) -> Played:
    """As the leaderboard has them: by the 95 % interval over all documents."""
    settings = DecideSettings(mode="rows", margin=margin, seed=0, looks=1, limits=[None])
    played = Played(folder, rows, settings, recorded)
    played.looks = [Look(0, 0, 1.0, Z, 1.0)]
    played.reached = dict.fromkeys(recorded, 0)
    return played


def on_recorded(folder: Path, mode: str, margin: float, seeds: range) -> dict[str, Any]:
    rows, recorded = recorded_outcomes(folder)
    whole = with_all(folder, rows, recorded, margin)
    totals: dict[int, dict[str, int]] = defaultdict(dict)
    for row in rows:
        totals[row.num_fewshot][row.task] = len(recorded[row.cell].doc_ids)
    count = looks_for(max(sum(of.values()) for of in totals.values()))
    everything = sum(len(found.doc_ids) for found in recorded.values())
    shares, answers = [], []
    for seed in seeds:
        settings = DecideSettings(mode=mode, margin=margin, seed=seed, looks=count, limits=[None])
        played = Played(folder, rows, settings, recorded)
        played.play()
        shares.append(sum(len(played.outcomes(cell).doc_ids) for cell in recorded) / everything)
        answers.append(verdicts(played, whole) if mode == "rows" else declines(played, whole))
        print(seed, round(shares[-1], 3), "" if mode == "rows" else answers[-1], flush=True)
    return {
        "cells": len(recorded),
        "documents": everything,
        "looks": count,
        "share_of_documents": float(np.mean(shares)),
        "largest_share": max(shares),
        "seeds": len(seeds),
        "first_seed": seeds.start,
        **(of_rows if mode == "rows" else of_walks)(answers),
        "walks": len(whole.declines()),
    }


def declines(played: Played, whole: Played) -> dict[str, tuple[int, int]]:
    """Families whose minimal decline is another one than that of all documents: (shares found, shares of all)."""
    found, fixed = played.declines(), whole.declines()
    return {" ".join(map(str, key)): (found[key], fixed[key]) for key in fixed if found[key] != fixed[key]}


def of_walks(answers: list[dict[str, tuple[int, int]]]) -> dict[str, Any]:
    pairs = [pair for one in answers for pair in one.values()]
    return {
        "same_answers": sum(not one for one in answers),
        "walks_that_ended_earlier": sum(mine < theirs for mine, theirs in pairs),
        "walks_that_ended_later": sum(mine > theirs for mine, theirs in pairs),
    }


class RowVerdict(NamedTuple):
    """One row, decided and with all documents."""

    decided: str
    whole: str
    documents: int
    """Of all tasks together, until it was decided."""
    loss: float
    """With all documents."""


def verdicts(played: Played, whole: Played) -> list[RowVerdict]:
    found = []
    for key in played._cells:
        if key[0] == DENSE:
            continue
        pairs = list(played.cells_of(key).values())
        for look in played.looks:  # as `_Wanted` goes through them
            if verdict := played.verdict(key, look):
                break
        documents = sum(len(played.recorded[cell].until(look.number).doc_ids) for cell, _ in pairs)
        changes = [whole._changes(*pair, 0) for pair in pairs]
        loss = -float(np.mean([float(one.difference) for one in changes if one is not None]))
        found.append(RowVerdict(verdict or OPEN, whole.verdict(key, whole.looks[0]) or OPEN, documents, loss))
    return found


def of_rows(answers: list[list[RowVerdict]]) -> dict[str, Any]:
    together = [row for one in answers for row in one]
    large = [row.documents for row in together if row.loss >= LARGE]
    return {
        "rows": len(answers[0]),
        "decided": float(np.mean([row.decided != OPEN for row in together])),
        "decided_with_all": float(np.mean([row.whole != OPEN for row in together])),
        "same_verdicts": float(np.mean([row.decided == row.whole for row in together])),
        "contradicted": sum(OPEN not in row[:2] and row.decided != row.whole for row in together),
        f"rows_that_lose_{LARGE:g}": len(large) // len(answers),
        "their_documents": dict(
            zip(("median", "90 %", "most"), np.quantile(large, [0.5, 0.9, 1]).tolist(), strict=True)
        ),
    }


def at_margin(folder: Path, margin: float, replicates: int, times: int) -> dict[str, Any]:
    """In percent: how often rows of the folder that lose exactly the margin are called within it at any look."""
    rows, recorded = recorded_outcomes(folder)
    settings = DecideSettings(mode="rows", margin=margin, seed=0, looks=1, limits=[None])
    decisions = Decisions(folder, rows, settings)
    changes: dict[str, list[Recorded]] = {}
    task_of = {row.cell: row.task for row in rows}
    for key in decisions._cells:
        pairs = {task: pair for task, pair in decisions.cells_of(key).items() if pair[1] not in (None, pair[0])}
        found = {task_of[cell]: changed(recorded[cell], recorded[dense], times) for cell, dense in pairs.values()}
        name = f"{key[0]}, {key[1]}-shot"
        if len(found) > 1:
            changes[f"{name}, all tasks"] = list(found.values())
        changes |= {f"{name}, {task}": [own] for task, own in found.items()}
    return simulated(changes, margin, replicates)


def changed(mine: Outcomes, dense: Outcomes, times: int) -> Recorded:
    _, ours, theirs = np.intersect1d(mine.doc_ids, dense.doc_ids, return_indices=True)
    units = None if mine.units is None else [mine.units[place] for place in ours]
    known = Recorded.of(mine.values[ours] - dense.values[theirs], units)
    return Recorded(*(np.concatenate([part] * times) for part in known))


MADE_UP = [((405,), 0.0), ((500,), 0.01), ((1838,), 0.05), ((10042,), 0.05), ((320,) * 5, 0.01), ((200,) * 14, 0.03)]


def on_made_up(margin: float, replicates: int) -> dict[str, Any]:
    """In percent: a loss of the margin within it at any look; a difference shown at any look where there is none."""
    found = {}
    for sizes, gained in MADE_UP:
        rng = np.random.default_rng(len(sizes) * sizes[0])
        for loss in (margin, 0.0):
            counts = np.zeros((replicates, len(sizes), 3))
            within, different = np.zeros(replicates, bool), np.zeros(replicates, bool)
            read = 0.0
            for look in looks(looks_for(sum(sizes))):
                for task, size in enumerate(sizes):
                    more = math.ceil(size * look.share) - math.ceil(size * read)
                    chances = [gained + loss, 1 - 2 * gained - loss, gained]
                    counts[:, task] += rng.multinomial(more, chances, size=replicates)
                read = look.share
                kinds = np.broadcast_to(np.array([-1.0, 0.0, 1.0]), counts.shape)
                weights = np.full(len(sizes), 1 / len(sizes))
                tasks = SumOfChanges(UnitChanges(kinds, np.ones(counts.shape), counts), weights)
                least = least_sum(tuple(weights), tuple(counts[0].sum(-1)), look.z)
                within |= (sum_lower_limit(tasks, look.z) >= -margin) & (least <= margin)
                different |= sum_p(tasks) * look.factor < LEVEL
            name = f"{len(sizes)} x {sizes[0]}, gained {gained}, loss {loss}"
            found[name] = {"within": 100 * float(within.mean()), "different": 100 * float(different.mean())}
            print(name, found[name], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--mode", default="walk", choices=["walk", "halving", "rows"])
    parser.add_argument("--margin", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--made_up", action="store_true")
    parser.add_argument("--at_margin", action="store_true")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--replicates", type=int, default=2000)
    given = parser.parse_args()
    if given.made_up:
        record("deciding-made-up", on_made_up(given.margin, given.replicates), replicates=given.replicates)
        return
    if given.at_margin:
        found = at_margin(given.folder, given.margin, given.replicates, given.times)
        name = f"deciding-at-margin-{given.folder.name}-{given.margin:g}" + (
            f"-times-{given.times}" * (given.times > 1)
        )
        record(name, found, margin=given.margin, replicates=given.replicates, times=given.times)
        return
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    found = on_recorded(given.folder, given.mode, given.margin, seeds)
    others = f"-seeds-from-{seeds.start}" if seeds.start else ""
    others += f"-margin-{given.margin:g}" if given.margin != 0.01 else ""
    record(f"deciding-{given.mode}-{given.folder.name}{others}", found, margin=given.margin)


if __name__ == "__main__":
    main()
