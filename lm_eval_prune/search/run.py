"""`run_search`: a mask under a budget, chosen on the development documents of some tasks and judged on their test ones.

    OUTPUT/masks/trial-0000.json, ...   the mask of each trial; 0 is the knapsack's
    OUTPUT/development/                 a sweep folder: every trial is a cell on the development documents
    OUTPUT/mask.json                    the best of them there
    OUTPUT/plain.json                   the plain ranking's: as many groups of heads and FFNs, the least important ones
    OUTPUT/test/                        a sweep folder: both, and the dense model, on the test documents
    OUTPUT/search.json                  what came of it
    OUTPUT/latency.json                 with a budget of it, the times that were measured

All of it may be stopped and started again, and shared by several processes on one folder, or on Ray, as sweeps are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from lm_eval_prune.compaction.memory import compact
from lm_eval_prune.costs.dimensions import Dimensions
from lm_eval_prune.decoders import key_value_heads, shape_of
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.files import sha256_of, write_json
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.search import latency
from lm_eval_prune.search.budget import Budget, Costs, Unit, mask_of
from lm_eval_prune.search.knapsack import best_kept, unit_values
from lm_eval_prune.search.trials import Proposer, require_optuna, weighted
from lm_eval_prune.search.verdict import Verdict, judge
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.executor import make_executor
from lm_eval_prune.sweep.results import METRICS, Sweep, headline
from lm_eval_prune.sweep.run import run_sweeps
from lm_eval_prune.sweep.setup import model_arguments, model_configuration
from lm_eval_prune.sweep.stopping import check
from lm_eval_prune.sweep.worker import Worker

__all__ = ["BATCH", "Search", "SearchConfig", "begin", "run_search"]

BATCH = 4
"""Trials that are proposed together; a constant, so that the same search proposes the same ones."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What to search; checked when made. Raises ArgumentError."""

    budget: Budget
    sweep: SweepConfig
    """Model, tasks, one number of shots, limit, split and where it runs; `output_path` is the search's folder."""
    head_importance: Path | None = None
    ffn_importance: Path | None = None
    """Importance files; without the one or the other, none of these go."""
    trials: int = 40
    """Beside the knapsack's own choice; 0 needs no optuna."""
    seed: int = 1234

    def __post_init__(self) -> None:
        if self.head_importance is None and self.ffn_importance is None:
            raise ArgumentError("no scores to choose by; give head_importance, ffn_importance or both")
        if self.trials < 0:
            raise ArgumentError(f"trials={self.trials}; expected 0 or more")
        if len(self.sweep.num_fewshot) != 1 or len(self.sweep.fewshot_seeds) != 1:
            raise ArgumentError("a search is at one number of shots and one draw of them")
        if self.budget.kind == "latency" and self.sweep.executor != "local":
            raise ArgumentError(
                f"budget {self.budget}: times are of this machine, and workers on Ray may be on others; leave "
                "executor=ray out, or take parameters, flops or kv_bytes"
            )
        if self.sweep.masks or any(set(shares) != {"0"} for shares in (self.sweep.prune_heads, self.sweep.prune_ffns)):
            raise ArgumentError("a search makes its masks by itself; leave shares and masks out")

    def part(self, name: str, masks: Sequence[Path] = ()) -> SweepConfig:
        """The sweep of one part of the documents."""
        folder = self.sweep.output_path / name
        return self.sweep.model_copy(update={"part": name, "output_path": folder, "masks": tuple(map(str, masks))})


class Search:
    """What masks are chosen from, and by. Raises PruneError for scores of another model, or too small a budget."""

    def __init__(self, config: SearchConfig, write: bool = True) -> None:
        """Without `write`, times that are measured are not kept."""
        self.config = config
        name, _, known = model_configuration(model_arguments(config.sweep))
        shape = shape_of(known)
        self.heads = _scores(config.head_importance, "heads", shape)
        self.ffns = _scores(config.ffn_importance, "ffns", shape)
        times = _latency(config, key_value_heads(known), write) if config.budget.kind == "latency" else None
        self.costs = Costs(known, config.budget, Dimensions(name, known).num_parameters, times)
        self.units = self.costs.units(heads=self.heads is not None, ffns=self.ffns is not None)
        self.values = unit_values(self.units, self.heads, self.ffns)
        self.provenance = {"budget": str(config.budget)} | {
            key: {"path": str(path), "sha256": sha256_of(path)}
            for key, path in (("head_importance", config.head_importance), ("ffn_importance", config.ffn_importance))
            if path is not None
        }
        if seen := sorted({task for scores in (self.heads, self.ffns) if scores for task in scores.oracle_on}):
            self.provenance["oracle_on"] = seen  # type: ignore[assignment]

    def mask(self, factors: Mapping[str, float], trial: int = 0) -> PruningMask:
        """The best under the budget, the values weighted by `factors`; `trial` is told with it."""
        gone = best_kept(self.units, weighted(self.units, self.values, factors), self.costs)
        return replace(
            mask_of(self.costs.shape, gone), provenance={**self.provenance, "trial": trial, "factors": dict(factors)}
        )

    def plain(self, like: PruningMask) -> PruningMask:
        """The least important groups of heads and FFNs, as many as `like` prunes."""
        gone: list[Unit] = []
        size = self.costs.shape[1] // self.costs.num_key_value_heads
        for of_heads, number in ((True, like.num_pruned_heads // size), (False, like.num_pruned_ffns)):
            places = [place for place, unit in enumerate(self.units) if bool(unit.heads) == of_heads]
            lowest = sorted(places, key=lambda place: (self.values[place], place))
            gone += [self.units[place] for place in lowest[:number]]
        return replace(mask_of(self.costs.shape, gone), provenance={**self.provenance, "choice": "plain ranking"})


def begin(config: SearchConfig, write: bool = True) -> Search:
    """All that can be refused before anything is computed or written, but for a budget's times."""
    if config.trials:
        require_optuna()
    if Processes.current().world_size > 1:
        raise ArgumentError("a search is one process; start several on one folder, or use --executor ray")
    return Search(config, write)


def run_search(
    config: SearchConfig, *, retry_failed: bool = False, say: Say = lambda line: None, progress: bool = True
) -> Verdict:
    """Choose on the development documents, judge on the test ones; start it again after any interruption.

    Cells that failed stay so until `retry_failed`. Raises PruneError, also where the dense model or the knapsack's mask
    cannot be evaluated.
    """
    search = begin(config)
    for name in ("development", "test") if retry_failed else ():
        disk.remove_failures(config.sweep.output_path / name)
    found = _trials(search, say, progress)
    best = max(found, key=lambda number: (found[number], -number))
    folder = config.sweep.output_path
    mask = PruningMask.load(_trial_path(folder, best))
    chosen = replace(mask, provenance={**mask.provenance, "trials": len(found) - 1, "development_score": found[best]})
    chosen.save(folder / "mask.json")
    search.plain(mask).save(folder / "plain.json")
    test = config.part("test", [folder / "mask.json", folder / "plain.json"])
    sweep = run_sweeps([test], say=say, note=say, progress=progress)
    if sweep.failed:
        raise PruneError(f"{sweep.folder}: cells failed; see lm-eval-prune sweep status {sweep.folder}")
    seconds = _seconds(config, mask) if config.budget.kind == "latency" else None
    verdict = judge(folder, best, len(found), search.costs, chosen)._replace(seconds=seconds)
    write_json(folder / "search.json", verdict.record())
    return verdict


def _latency(config: SearchConfig, num_key_value_heads: int, write: bool) -> latency.Latency:
    """The times of the search's model, measured if nobody has."""
    path = config.sweep.output_path / "latency.json"

    def measure() -> latency.Latency:
        return latency.measured(Worker(config.sweep).model(), num_key_value_heads)

    return latency.settled(path, measure) if write or path.exists() else measure()


def _seconds(config: SearchConfig, mask: PruningMask) -> tuple[float, float]:
    """Of a forward pass of the whole model, and of what `mask` leaves, compacted; measured now."""
    model = Worker(config.sweep).model().model
    return latency.forward_seconds(model), latency.forward_seconds(compact(model, mask))


def _trials(search: Search, say: Say, progress: bool) -> dict[int, float]:
    """Trial -> its score on the development documents, of all that could be computed."""
    config, folder = search.config, search.config.sweep.output_path
    executor = make_executor(config.part("development"), lambda share: check())
    try:
        scores = _scored(config, [_written(search, folder, 0, {})], executor, say, progress)
        if scores[0] is None:
            raise PruneError(f"{folder / 'development'}: the first mask could not be evaluated; see sweep status there")
        found = {0: scores[0]}
        say(f"trial 0 (knapsack): {scores[0]:.4f} on the development documents")
        if not config.trials:
            return found
        proposer = Proposer(config.seed)
        proposer.known(scores[0])
        for first in range(1, config.trials + 1, BATCH):
            numbers = range(first, min(first + BATCH, config.trials + 1))
            asked = proposer.ask(len(numbers))
            paths = [_written(search, folder, n, factors) for n, (_, factors) in zip(numbers, asked, strict=True)]
            scores = _scored(config, paths, executor, say, progress)
            proposer.tell([trial for trial, _ in asked], scores)
            found |= {n: score for n, score in zip(numbers, scores, strict=True) if score is not None}
            top = max(found, key=lambda number: (found[number], -number))
            say(f"trials {numbers[0]} to {numbers[-1]} of {config.trials}: best so far {found[top]:.4f} (trial {top})")
        return found
    finally:
        executor.close()


def _written(search: Search, folder: Path, number: int, factors: Mapping[str, float]) -> Path:
    """The mask file of a trial. Raises ArgumentError where it is another one's."""
    path = _trial_path(folder, number)
    mask = search.mask(factors, number)
    if not path.exists():
        mask.save(path)
    elif PruningMask.load(path) != mask:
        raise ArgumentError(f"{path}: of a search with other settings; give another --output_path")
    return path


def _trial_path(folder: Path, number: int) -> Path:
    return folder / "masks" / f"trial-{number:04d}.json"


def _scored(config: SearchConfig, paths: Sequence[Path], executor: Any, say: Say, progress: bool) -> list[float | None]:
    """The mean over tasks of each mask's headline metric; None where a cell of it failed."""
    sweep = run_sweeps([config.part("development", paths)], say=say, progress=progress, executor=executor)
    names = [f"mask:masks/{path.name}" for path in paths]
    return [_mean(sweep, name) for name in names]


def _mean(sweep: Sweep, ranking: str) -> float | None:
    values = []
    for row in sweep.rows:
        if row.variant.ranking != ranking:
            continue
        path = disk.cell_path(sweep.folder, row.cell)
        if not path.exists():
            return None
        found = headline(disk.read_cell(path, samples=False), row.task)
        if found is None or found.name not in METRICS:
            raise ArgumentError(f"task {row.task}: none of {', '.join(METRICS)} to choose by")
        values.append(found.value)
    return fmean(values) if values else None


def _scores(path: Path | None, component: str, shape: tuple[int, int]) -> ImportanceScores | None:
    if path is None:
        return None
    scores = ImportanceScores.load(path, component)
    if scores.shape != shape:
        raise ArgumentError(
            "{}: scores of {} layers of {} heads; the model has {} of {}".format(path, *scores.shape, *shape)
        )
    return scores
