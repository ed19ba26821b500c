"""What a search's mask is worth on documents that it was not chosen by, and what choosing cost.

A mask that did best of many on some documents did so in part by luck, and is worse on others: the price of choosing is
its difference to the dense model on the development documents minus that on the test documents. To the dense model, so
that one part's documents may be harder than the other's. The two parts share no document: the interval of the price is
that of a difference of independent estimates, from their own intervals (Zou and Donner 2008, "MOVER").
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval_prune.errors import PruneError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.report.board import Board, Entry
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.search.budget import Costs

__all__ = ["Estimated", "Verdict", "judge", "price"]


class Estimated(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


class Verdict(NamedTuple):
    """What came of a search."""

    trial: int
    """Whose mask it is; 0 is the knapsack's."""
    trials: int
    """Beside trial 0."""
    cost: int
    allowed: int
    total: int
    """Of the budget's kind: what the masked model costs, may cost, and costs whole."""
    heads_pruned: int
    ffns_pruned: int
    development: float
    """The mean over tasks on the development documents, of which it is the best trial."""
    test: float
    """The same on the test documents."""
    dense: float
    """The dense model there."""
    plain: float
    """The plain ranking's mask there."""
    against_dense: Estimated
    """On the test documents, paired."""
    against_plain: Estimated | None
    """On the test documents, paired; None where both are one mask."""
    price: Estimated
    """The difference to dense on the development documents minus that on the test documents."""
    oracle: tuple[str, ...]
    """Tasks whose scores were taken from evaluated documents."""
    seconds: tuple[float, float] | None = None
    """Of a forward pass of the whole model and of the compact one, measured; None unless time is the budget."""

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        found = self._asdict()
        for name, value in found.items():
            if isinstance(value, Estimated):
                found[name] = {key: part if math.isfinite(part) else None for key, part in value._asdict().items()}
        return {"format": "lm-eval-prune-search", "version": 1, **found, "oracle": list(self.oracle)}

    def lines(self, unit: str) -> list[str]:
        """What a person wants to know; `unit` is the budget's kind."""
        plain = "the same mask" if self.against_plain is None else f"{self.against_plain}"
        found = [
            f"mask: {self.heads_pruned} heads and {self.ffns_pruned} FFNs pruned, {unit} {self.cost / self.total:.4f} "
            f"of the whole (at most {self.allowed / self.total:.4f}); trial {self.trial} of 0 to {self.trials}",
            f"development score: {self.development:.4f}",
            f"test score:        {self.test:.4f} (dense {self.dense:.4f}, plain ranking {self.plain:.4f})",
            f"test, to dense:    {self.against_dense}",
            f"test, to plain:    {plain}",
            f"price of choosing: {self.price} (development minus test, of the difference to dense)",
        ]
        if self.seconds is not None:
            whole, left = self.seconds
            found.append(
                f"measured here:     {left * 1e3:.2f} ms a forward pass, compacted, of {whole * 1e3:.2f} ms whole: "
                f"{left / whole:.4f}"
            )
        if self.oracle:
            found.append(f"oracle: scores of {', '.join(self.oracle)} are from documents that are evaluated")
        return found


def price(development: Estimated, test: Estimated) -> Estimated:
    """The first minus the second, of independent estimates."""
    value = development.value - test.value
    low = value - math.hypot(development.value - development.low, test.high - test.value)
    high = value + math.hypot(development.high - development.value, test.value - test.low)
    return Estimated(value, low, high)


def judge(folder: Path, trial: int, trials: int, costs: Costs, mask: PruningMask) -> Verdict:
    """Read both parts of the search in `folder`, whose best of so many trials (0 included) is `mask`.

    Raises PruneError where a part lacks a result.
    """
    development = _entry(compare(read_collection([folder / "development"])), f"mask:masks/trial-{trial:04d}.json")
    name, ordinary = f"mask:{folder.name}/mask.json", f"mask:{folder.name}/plain.json"
    collection = read_collection([folder / "test"])
    board = compare(collection)
    found, plain = _entry(board, name), _entry(board, ordinary)
    dense = next(entry for entry in board.entries if entry.is_dense)
    return Verdict(
        trial=trial,
        trials=trials - 1,
        cost=costs.left(mask),
        allowed=costs.allowed,
        total=costs.total,
        heads_pruned=mask.num_pruned_heads,
        ffns_pruned=mask.num_pruned_ffns,
        development=_value(development),
        test=_value(found),
        dense=_value(dense),
        plain=_value(plain),
        against_dense=_difference(found),
        against_plain=_against(folder, collection, name, plain),
        price=price(_difference(development), _difference(found)),
        oracle=tuple(mask.provenance.get("oracle_on", ())),
    )


def _against(folder: Path, collection: Any, name: str, plain: Entry) -> Estimated | None:
    own, other = (PruningMask.load(folder / file) for file in ("mask.json", "plain.json"))
    if own == other:
        return None
    return _difference(_entry(compare(collection, BoardConfig(against=plain.label)), name))


def _entry(board: Board, ranking: str) -> Entry:
    found = [entry for entry in board.entries if entry.ranking == ranking]
    if len(found) != 1 or found[0].average is None:
        raise PruneError(f"{ranking}: no result on all tasks")
    return found[0]


def _value(entry: Entry) -> float:
    assert entry.average is not None
    return entry.average.value


def _difference(entry: Entry) -> Estimated:
    difference = entry.average.difference if entry.average is not None else None
    if difference is None:
        raise PruneError(f"{entry.label}: no dense result to compare with")
    return Estimated(difference.value, difference.low, difference.high)
