"""A study's costs: parameters, memory and fit, and the stages in FLOPs and, where a throughput is known, in time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval_prune.budget import token_budget
from lm_eval_prune.costs import flops
from lm_eval_prune.costs.dimensions import Dimensions
from lm_eval_prune.costs.workload import Load, Workload
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.fractions import number_pruned, parse_fraction
from lm_eval_prune.limits import checked_limit, number_limited
from lm_eval_prune.sequences import FIRST_LENGTH, NUM_SEQUENCES, STEP

if TYPE_CHECKING:
    from lm_eval_prune.costs.fit import Fit

__all__ = ["Grid", "Speed", "Stage", "removals", "stages"]

SCORERS = ("packed", "padded")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a sweep varies, and how it is scored; checked when made. Raises ArgumentError, FractionError."""

    workloads: tuple[Workload, ...]
    prune_heads: tuple[str, ...] = ("0", "0.7")
    """Shares of all heads, each combined with each of `prune_ffns`."""
    prune_ffns: tuple[str, ...] = ("0", "0.2")
    masks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Masks at each pair of shares (heads, FFNs): a ranking makes one, a random ranking one a seed. Empty: one at each
    pair."""
    fewshot_seeds: int = 1
    limit: float | None = None
    """Documents a task that are evaluated, or their share below 1; None is all."""
    importance_limit: float | None = 200
    """Training documents a task that importance is computed from, or their share below 1; None is all."""
    scorer: str = "packed"
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.scorer not in SCORERS:
            raise ArgumentError(f"scorer={self.scorer}: unknown; expected {' or '.join(SCORERS)}")
        for name in ("fewshot_seeds", "batch_size"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)}; expected at least 1")
        for name in ("limit", "importance_limit"):
            checked_limit(getattr(self, name), name)
        for name in ("prune_heads", "prune_ffns"):
            for share in getattr(self, name):
                parse_fraction(share, name)

    @cached_property
    def pruned_masks(self) -> dict[tuple[Fraction, Fraction], int]:
        """Masks at each pair (heads, FFNs) but the dense one."""
        masks = self.masks or dict.fromkeys(itertools.product(self.prune_heads, self.prune_ffns), 1)
        given = {(Fraction(heads), Fraction(ffns)): count for (heads, ffns), count in masks.items()}
        return {pair: count for pair, count in given.items() if any(pair)}

    @property
    def cells_per_task(self) -> int:
        """Evaluations of one task at one number of shots, the dense one included."""
        return (1 + sum(self.pruned_masks.values())) * self.fewshot_seeds

    @property
    def longest(self) -> int:
        """Tokens of the longest input."""
        return max(work.padded.longest for work in self.workloads)

    def documents(self, work: Workload) -> int:
        """How many documents of a task are evaluated."""
        return number_limited(work.documents, self.limit)

    def evaluation(self, work: Workload) -> Load:
        """One evaluation of a task."""
        return (work.packed if self.scorer == "packed" else work.padded).times(self.documents(work))


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What turns operations into time; None where it is not known, and then no time is said."""

    tflops: float | None = None
    """10^12 operations a second that one device sustains."""
    bandwidth: float | None = None
    """10^9 bytes a second at which offloaded weights come in."""

    def __post_init__(self) -> None:
        for name in ("tflops", "bandwidth"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ArgumentError(f"{name}={value}; expected a number above 0")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a study."""

    name: str
    work: str
    """How much of what."""
    tokens: float
    flops: float
    moved: float = 0
    """Bytes of offloaded weights that are brought in."""
    seconds: float | None = None


class _Step(NamedTuple):
    """A stage as it is made of parts, mostly of workloads."""

    name: str
    work: str
    parts: list[tuple[float, float, float]]
    """(tokens, operations, times that all layers are gone through) of each."""


def removals(model: Dimensions, component: str, shares: Sequence[str]) -> list[dict[str, Any]]:
    """What pruning each share of the heads (of the FFNs) removes: components and parameters.

    Shares are the original model's; what is gone already is pruned first. `removed` is what goes at least, whichever
    they are; `removed_as_groups`, where heads share keys and values, what goes where whole groups do.
    """
    rows = []
    whole = model.lacking.num_heads if component == "heads" else model.num_hidden_layers
    for share in dict.fromkeys(shares):
        count = number_pruned(parse_fraction(share, f"prune_{component}"), whole)
        least = model.pruned(count, 0) if component == "heads" else model.pruned(0, count)
        removed = model.removed_by(least)
        row = {"component": component, "share": share, "pruned": count, "of": whole, "removed": removed}
        if component == "heads" and model.num_key_value_heads < model.num_attention_heads:
            row["removed_as_groups"] = model.removed_by(model.pruned(count, 0, groups=True))
        rows.append({**row, "left": model.num_parameters - removed})
    return rows


def stages(model: Dimensions, grid: Grid, speed: Speed, fit: Fit | None) -> list[Stage]:
    """Each step of the study; the last is the whole sweep, whose dense cells are the first step once more."""
    steps = [
        _dense(model, grid),
        _gradients(model, grid, checkpointing=fit is not None and fit.offloaded > 0),
        _knockouts(model, grid, "ffns"),
        _knockouts(model, grid, "heads"),
        _induction(model),
        _sweep(model, grid),
    ]
    return [_timed(step, speed, fit) for step in steps]


def _dense(model: Dimensions, grid: Grid) -> _Step:
    loads = [grid.evaluation(work) for work in grid.workloads]
    parts = [(load.tokens, flops.forward(model, load), _batches(model, load, grid)) for load in loads]
    return _Step("dense evaluation", f"{len(loads)} evaluations", parts)


def _gradients(model: Dimensions, grid: Grid, *, checkpointing: bool) -> _Step:
    counts = [number_limited(work.training_documents, grid.importance_limit) for work in grid.workloads]
    parts = []
    for work, count in zip(grid.workloads, counts, strict=True):
        load = work.gold.times(count)
        operations = flops.gradient_importance(model, load, checkpointing=checkpointing)
        parts.append((load.tokens, operations, 2 * _batches(model, load, grid, packs=False)))
    return _Step("head importance (gradient)", f"{sum(counts):,} documents", parts)


def _knockouts(model: Dimensions, grid: Grid, component: str) -> _Step:
    masks = model.num_ffns if component == "ffns" else model.num_heads
    passes = flops.knockout_passes(model, component)
    parts = []
    for work in grid.workloads:
        load = work.packed if grid.scorer == "packed" else work.padded
        # Knockouts ask for the continuation's positions alone, however they are scored.
        asked = replace(load, outputs=work.packed.outputs)
        asked = asked.times(number_limited(work.training_documents, grid.importance_limit))
        operations = flops.knockouts(model, asked, component)
        parts.append((asked.tokens * passes, operations, _batches(model, asked, grid) * passes))
    return _Step("FFN knockouts" if component == "ffns" else "head knockouts", f"{masks:,} masks", parts)


def _induction(model: Dimensions) -> _Step:
    lengths = [FIRST_LENGTH + STEP * number for number in range(NUM_SEQUENCES)]
    lengths = [length for length in lengths if 4 * length + 1 <= model.max_position_embeddings]
    tokens = sum(2 + 5 * length for length in lengths)
    part = tokens, flops.induction(model, lengths), 2 * len(lengths)
    return _Step("induction", f"{len(lengths)} sequences", [part])


def _sweep(model: Dimensions, grid: Grid) -> _Step:
    masks = {
        (heads, ffns): model.pruned(
            number_pruned(heads, model.lacking.num_heads), number_pruned(ffns, model.num_hidden_layers)
        )
        for heads, ffns in grid.pruned_masks
    }
    parts = []
    for work in grid.workloads:
        load = grid.evaluation(work)
        once = flops.forward(model, load)
        for pair, count in grid.pruned_masks.items():
            # The packed scorer leaves pruned parts out, the padded one computes all and sets to zero.
            once += count * flops.forward(model, load, masks[pair] if grid.scorer == "packed" else None)
        cells = grid.cells_per_task
        parts.append((load.tokens * cells, once * grid.fewshot_seeds, _batches(model, load, grid) * cells))
    return _Step("sweep", f"{len(grid.workloads) * grid.cells_per_task:,} cells", parts)


def _batches(model: Dimensions, load: Load, grid: Grid, packs: bool = True) -> float:
    """How often all layers are gone through, by packs where the scorer makes any."""
    if not packs or grid.scorer != "packed":
        return -(-load.inputs // grid.batch_size)
    return -(-load.tokens // token_budget(model, "cuda", load.longest, grid.batch_size))


def _timed(step: _Step, speed: Speed, fit: Fit | None) -> Stage:
    tokens, operations, batches = map(sum, zip(*step.parts, strict=True))
    moved = batches * fit.offloaded if fit else 0.0
    seconds = None
    if speed.tflops is not None and (not moved or speed.bandwidth is not None) and (fit is None or fit.fits):
        seconds = operations / (speed.tflops * 1e12 * (fit.copies if fit else 1))
        if moved and speed.bandwidth is not None:
            seconds += moved / (speed.bandwidth * 1e9)
    return Stage(name=step.name, work=step.work, tokens=tokens, flops=operations, moved=moved, seconds=seconds)
