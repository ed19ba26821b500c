"""How often the leaderboard's verdicts are wrong: studies with a known loss, simulated and judged by its own functions.

    python benchmarks/check_statistics.py [--replicates 2000] [--processes 2]
    python benchmarks/check_statistics.py --only "averages: 5 x 60" --replicates 20000    # of some shapes, not written

Each shape is a study as users have them: tasks of their true sizes, averages, documents that share passages, several
draws, boards of many rows, walks from the smallest share pruned to the largest. A replicate draws its answers and
judges them; beside that, the percentile bootstrap of paired differences that the leaderboard had before. Written as a
dated JSON, a line a shape, in percent of the replicates: `within` the margin (wrongly, at a loss of the margin or more;
of a walk: a minimal decline that claims such a share), `shown` to be worse or better (wrongly, at no loss), `covered`
by the interval, and the first and last for the bootstrap (of 500 replicates); then a table of the worst of each group.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import Pool
from typing import Any

import numpy as np
from common import record
from scipy.special import ndtr

from lm_eval_prune.intervals import Changes, Z, holm, score_limits, score_p, smallest_margin
from lm_eval_prune.report.averages import LEVEL
from lm_eval_prune.report.parts import Part, paired_part
from lm_eval_prune.report.statistics import Estimate
from lm_eval_prune.sum_intervals import SumOfChanges, least_sum, sum_limits
from lm_eval_prune.unit_intervals import UnitChanges, unit_limits

MARGIN = 0.01
RESAMPLES, RESAMPLED = 400, 500
"""Of the bootstrap that was before: it is made for the first replicates only, as most of the time would go to it."""
ICL14 = (10042, 1838, 2376, 1172, 500, 1267, 3270, 56, 100, 638, 104, 4848, 277, 10000)
"""Documents of the 14 tasks, as `lm-eval-prune plan` lists them."""


@dataclass(frozen=True)
class Shape:
    """A study: what changes, and what of it is a loss."""

    group: str
    documents: tuple[int, ...]
    """Of each task."""
    gained: float
    """Share of the answers that are gained; as many are lost beside the loss."""
    loss: float
    """The true loss of the average, in margins."""
    where: str = "spread"
    """`spread`: every task loses as much; `one task`, the smallest, has all of the loss."""
    passage: int = 1
    """Documents that share one."""
    passages: str = "whole"
    """`whole` passages change; `spread`: documents by themselves; `mixed`: the loss comes in whole passages only."""
    draws: int = 1
    between: float = 0.0
    """Standard deviation of the loss between draws, which tasks share."""
    answers: str = "own"
    """`own`: every draw changes other documents; `same`: all the same ones; `mixed`: only the loss is in the same."""
    rows: int = 1
    """Rows of the board, none with a loss, over which p-values are corrected."""
    walk: tuple[float, ...] = ()
    """True losses, in margins, of a ranking's shares pruned; each loses what the one before it lost, and more."""

    def __str__(self) -> str:
        default = Shape("", (), 0, 0)
        sizes = sorted(set(self.documents))
        tasks = f"{len(sizes)} true sizes" if len(sizes) > 1 else f"{len(self.documents)} x {sizes[0]}"
        named = {k: v for k, v in asdict(self).items() if k not in ("group", "documents") and v != getattr(default, k)}
        return f"{self.group}: {tasks}, " + ", ".join(f"{k} {v}" for k, v in {"gained": 0, "loss": 0, **named}.items())


def shapes() -> Iterator[Shape]:
    """What is simulated."""
    for documents in (56, 100, 104, 277, 381, 500, 638, 1172, 1838, 3270, 10042):
        for gained in (0.0, 0.01, 0.05, 0.1):
            for loss in (0.0, 1.0, 3.0):
                yield Shape("tasks", (documents,), gained, loss)
    for sizes in ((60,) * 5, (172,) * 5, (200,) * 14, (1000,) * 14, ICL14):
        for gained in (0.0, 0.01, 0.05, 0.1):
            for loss in (0.0, 1.0, 3.0):
                yield Shape("averages", sizes, gained, loss)
            yield Shape("averages", sizes, gained, 1.0, where="one task")
    for passages, size in ((83, 58), (400, 10), (400, 58), (1000, 3), (500, 2)):
        for kind in ("whole", "spread", "mixed"):
            for gained in (0.0, 0.01, 0.05):
                for loss in (0.0, 1.0):
                    yield Shape("passages", (passages * size,), gained, loss, passage=size, passages=kind)
    for draws in (2, 3, 5):
        for documents in ((1000,), (200,) * 5):
            for answers, between in (("own", 0.0), ("own", 0.02), ("own", 0.005), ("same", 0.005), ("mixed", 0.0)):
                for loss in (0.0, 1.0):
                    yield Shape("draws", documents, 0.03, loss, draws=draws, between=between, answers=answers)
        yield Shape("draws", (200,), 0.03, 1.0, draws=draws, answers="mixed")
    for documents in (56, 277, 1000):
        for gained in (0.01, 0.05):
            yield Shape("rows", (documents,), gained, 0.0, rows=20)
    for sizes in ((405,), (500,), (1838,), (172,) * 5, (200,) * 14, (1000,) * 14, ICL14):
        for gained in (0.0, 0.01, 0.05):
            for walk in ((0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0), (1.0,) * 9):
                yield Shape("walks", sizes, gained, 1.0, walk=walk)


def losses(shape: Shape) -> np.ndarray:
    """(tasks,): the true loss of each."""
    number = len(shape.documents)
    if shape.where == "one task":
        return np.eye(number)[int(np.argmin(shape.documents))] * MARGIN * shape.loss * number
    return np.full(number, MARGIN * shape.loss)


def counted(shape: Shape, number: int, rng: np.random.Generator) -> np.ndarray:
    """(number, tasks, 3): answers lost, unchanged and gained, of documents by themselves."""
    found = []
    for documents, loss in zip(shape.documents, losses(shape), strict=True):
        lost = shape.gained + loss
        found.append(rng.multinomial(documents, [lost, 1 - lost - shape.gained, shape.gained], size=number))
    return np.stack(found, axis=1)


def by_passage(shape: Shape, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(number, passages) each: answers gained and lost, of one task."""
    size, gain, loss = shape.passage, shape.gained, MARGIN * shape.loss
    every = (number, shape.documents[0] // size)
    if shape.passages == "whole":
        chance = rng.random(every)
        return (chance < gain) * size, ((chance >= gain) & (chance < 2 * gain + loss)) * size
    apart = gain + loss if shape.passages == "spread" else gain
    found = rng.multinomial(size, [gain, apart, 1 - gain - apart], size=every)
    whole = rng.random(every) < (loss if shape.passages == "mixed" else 0.0)
    return np.where(whole, 0, found[..., 0]), np.where(whole, size, found[..., 1])


def judged(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(low, high, least) of the average for all replicates of (replicates, tasks, 3) at once: as `Estimate` has it."""
    number, documents = counts.shape[1], counts.sum(-1).astype(float)
    least = least_sum((1 / number,) * number, tuple(documents[0]))
    if number == 1:
        low, high = score_limits(Changes(documents[:, 0], *(counts[:, 0, kind].astype(float) for kind in (2, 0))))
        return low, high, least
    kinds = np.broadcast_to(np.array([-1.0, 0.0, 1.0]), counts.shape)
    changes = UnitChanges(kinds, np.ones(counts.shape), counts.astype(float))
    return *sum_limits(SumOfChanges(changes, np.full(number, 1 / number))), least


def bootstrapped(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(2, first replicates): percentile limits of the average over tasks of (replicates, tasks, 3) counts."""
    counts = counts[:RESAMPLED]
    totals = counts.sum(-1, keepdims=True)
    means = np.zeros((RESAMPLES, len(counts)))
    for task in range(counts.shape[1]):
        shares = counts[:, task] / totals[:, task]
        found = rng.multinomial(totals[0, task, 0], shares, size=(RESAMPLES, len(counts)))
        means += (found[..., 2] - found[..., 0]) / totals[0, task, 0]
    return np.quantile(means / counts.shape[1], [0.025, 0.975], axis=0)


def of_documents(shape: Shape, number: int, rng: np.random.Generator) -> dict[str, Any]:
    counts = counted(shape, number, rng)
    low, high, least = judged(counts)
    return _row(shape, (low >= -MARGIN) & (least <= MARGIN), low, high, bootstrapped(counts, rng))


def of_passages(shape: Shape, number: int, rng: np.random.Generator) -> dict[str, Any]:
    gained, lost = by_passage(shape, number, rng)
    size, documents = shape.passage, shape.documents[0]
    kinds = np.arange(-size, size + 1.0)
    counts = np.stack([((gained - lost) == kind).sum(1) for kind in kinds], axis=-1).astype(float)
    low, high = unit_limits(
        UnitChanges(np.broadcast_to(kinds, counts.shape), np.full(counts.shape, float(size)), counts)
    )
    within = (low >= -MARGIN) & (smallest_margin(documents / size) <= MARGIN)
    totals = np.stack([lost.sum(1), documents - (gained + lost).sum(1), gained.sum(1)], axis=-1)
    return _row(shape, within, low, high, bootstrapped(totals[:, None].astype(int), rng))


def of_draws(shape: Shape, number: int, rng: np.random.Generator) -> dict[str, Any]:
    rates = MARGIN * shape.loss + shape.between * rng.standard_normal((number, shape.draws))
    estimates = []
    for own in rates:
        parts = [part_of_draws(shape, documents, own, rng) for documents in shape.documents]
        estimates.append(Estimate([(1 / len(parts), part) for part in parts]))
    search_together(estimates, shape.draws)
    low, high = np.array([estimate.interval for estimate in estimates]).T
    least = np.array([estimate.least() for estimate in estimates])
    return _row(shape, (low >= -MARGIN) & (least <= MARGIN), low, high, None)


def search_together(estimates: list[Estimate], draws: int) -> None:
    """Puts down the intervals by documents, searched for in one go: one by one takes ten times as long."""
    kinds = np.arange(-draws, draws + 1) / draws
    counts = np.zeros((len(estimates), len(estimates[0].parts), len(kinds)))
    for own, estimate in zip(counts, estimates, strict=True):
        for task, (_, part) in zip(own, estimate.parts, strict=True):
            changes = part.by_unit
            task[np.rint(changes.sums * draws).astype(int) + draws] = changes.counts
    changes = UnitChanges(np.broadcast_to(kinds, counts.shape), np.ones(counts.shape), counts)
    weights = np.array([weight for weight, _ in estimates[0].parts])
    for estimate, low, high in zip(estimates, *sum_limits(SumOfChanges(changes, weights)), strict=True):
        if len(weights) == 1:
            vars(estimate.parts[0][1])["interval"] = (float(low), float(high))
        vars(estimate)["_together"] = (low, high)


def part_of_draws(shape: Shape, documents: int, rates: np.ndarray, rng: np.random.Generator) -> Part:
    """A negative chance of a loss is one of a gain more."""
    same = rng.random(documents)
    columns = []
    for rate in rates:
        chance = same if shape.answers == "same" else rng.random(documents)
        gained, lost = shape.gained + max(-rate, 0.0), shape.gained + max(rate, 0.0)
        if shape.answers == "mixed":
            lost = shape.gained
            chance = np.where(same < rate, 1.0, chance)
        columns.append((chance < gained) * 1.0 - (chance > 1 - lost))
    return paired_part(np.column_stack(columns), draws=[(seed, 0) for seed in range(len(rates))])


def of_rows(shape: Shape, number: int, rng: np.random.Generator) -> dict[str, Any]:
    counts = np.concatenate([counted(shape, number, rng) for _ in range(shape.rows)], axis=1).astype(float)
    lost, gained, documents = counts[..., 0], counts[..., 2], counts.sum(-1)
    p_values = score_p(Changes(documents, gained, lost))
    shown = [min(holm(row)) < LEVEL for row in p_values.tolist()]
    return {"shown": round(100 * float(np.mean(shown)), 2)}


def of_walks(shape: Shape, number: int, rng: np.random.Generator) -> dict[str, Any]:
    within = walked(shape, number, rng)
    first = next(place for place, loss in enumerate(shape.walk) if loss >= 1)
    return {"within": round(100 * float(np.mean(within[:, : first + 1].all(1))), 2)}


def walked(shape: Shape, number: int, rng: np.random.Generator) -> np.ndarray:
    """(number, shares): whether each share's average is within the margin."""
    counts = walk_counts(shape, number, rng)
    within = []
    for share in range(len(shape.walk)):
        low, _, least = judged(counts[:, share])
        within.append((low >= -MARGIN) & (least <= MARGIN))
    return np.column_stack(within)


def walk_counts(shape: Shape, number: int, rng: np.random.Generator) -> np.ndarray:
    """(number, shares, tasks, 3): answers lost, unchanged and gained."""
    steps = MARGIN * np.diff([0.0, *shape.walk])
    tasks = []
    for documents in shape.documents:
        chances = [shape.gained, shape.gained, *steps, 1 - 2 * shape.gained - steps.sum()]
        gained, either, *more = rng.multinomial(documents, chances, size=number).T.astype(float)
        lost = either + np.cumsum(more[:-1], axis=0)
        tasks.append(np.stack([lost, documents - lost - gained, np.broadcast_to(gained, lost.shape)], axis=-1))
    return np.stack(tasks, axis=2).swapaxes(0, 1)


def _row(
    shape: Shape, within: np.ndarray, low: np.ndarray, high: np.ndarray, before: np.ndarray | None
) -> dict[str, Any]:
    truth = -MARGIN * shape.loss
    found = {"within": within, "shown": (low > 0) | (high < 0), "covered": (low <= truth) & (truth <= high)}
    if before is not None:
        found |= {
            "within_before": before[0] >= -MARGIN, "covered_before": (before[0] <= truth) & (truth <= before[1])
        }  # fmt: skip
    return {name: round(100 * float(np.mean(value)), 2) for name, value in found.items()}


KINDS = {"passages": of_passages, "draws": of_draws, "rows": of_rows, "walks": of_walks}


def simulated(given: tuple[Shape, int]) -> dict[str, Any]:
    """Percentages over the replicates, seeded by the shape's name."""
    shape, number = given
    return KINDS.get(shape.group, of_documents)(shape, number, np.random.default_rng(zlib.crc32(str(shape).encode())))


def oracle_power(documents: int, changed: float) -> float:
    """Of a normal test of "within the margin" that knows the variance, in percent."""
    return 100 * float(ndtr(MARGIN / np.sqrt(changed / documents) - Z))


def table(found: dict[Shape, dict[str, Any]]) -> str:
    """The worst of each group, as Markdown."""
    lines = [
        "| group | shapes | within at a loss of the margin or more: before | now | shown at no loss | "
        "covered, at least 5 % changed | covered, all | before |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in dict.fromkeys(shape.group for shape in found):
        own = {shape: row for shape, row in found.items() if shape.group == group}
        lossy = [row for shape, row in own.items() if shape.loss >= 1]
        many = [row for shape, row in own.items() if 2 * shape.gained + shape.loss * MARGIN >= 0.05]
        cells = [group, str(len(own)), _most(lossy, "within_before"), _most(lossy, "within")]
        cells.append(_most([row for shape, row in own.items() if shape.loss == 0], "shown"))
        cells += [_range(many, "covered"), _range(own.values(), "covered"), _range(own.values(), "covered_before")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _most(rows: Any, name: str) -> str:
    values = [row[name] for row in rows if name in row]
    return f"{max(values):.1f} %" if values else ""


def _range(rows: Any, name: str) -> str:
    values = [row[name] for row in rows if name in row]
    return f"{min(values):.1f} to {max(values):.1f} %" if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--only", default="", help="shapes whose name holds this, such as draws; nothing is written")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    chosen = [shape for shape in shapes() if given.only in str(shape)]
    with Pool(given.processes) as pool:
        rows = list(pool.imap(simulated, [(shape, given.replicates) for shape in chosen], chunksize=1))
    found = dict(zip(chosen, rows, strict=True))
    if given.only:
        for shape, row in found.items():
            print(f"{shape}: {row}")
        return
    power = simulated((Shape("power", (1000,), 0.02, 0.0), given.replicates))
    results: dict[str, Any] = {str(shape): row for shape, row in found.items()}
    results["power: 1,000 documents, 4 % changed"] = {**power, "oracle": round(oracle_power(1000, 0.04), 2)}
    record("statistics", results, replicates=given.replicates, margin=MARGIN, before=[RESAMPLED, RESAMPLES])
    print(table(found))


if __name__ == "__main__":
    main()
