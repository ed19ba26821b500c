"""From settings to rows: importance first, where rankings need it, then masks, then cells with their identities."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.harness.cells import task_identity
from lm_eval_prune.harness.importance import ImportanceConfig, compute_importance
from lm_eval_prune.harness.requests import load_tasks
from lm_eval_prune.importance.aggregate import aggregate_files
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.selection import random_mask, ranked_mask
from lm_eval_prune.sweep.claims import claim
from lm_eval_prune.sweep.config import Ranking, SweepConfig, parse_ranking
from lm_eval_prune.sweep.folder import DENSE, VERSION, Row, Variant, digest

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedOPT

__all__ = ["Plan", "PlannedTask", "make_plan", "planned_tasks"]


@dataclass(frozen=True)
class PlannedTask:
    """A task at a number of shots, or why it cannot be loaded."""

    name: str
    num_fewshot: int
    identity: dict[str, Any] = field(default_factory=dict)
    error: PruneError | None = None


@dataclass
class Plan:
    """The rows of a grid, and the mask of each cell."""

    rows: list[Row] = field(default_factory=list)
    masks: dict[str, PruningMask] = field(default_factory=dict)
    """Cell id -> its mask."""
    identities: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Cell id -> everything that decides its result."""
    errors: dict[str, PruneError] = field(default_factory=dict)
    """Cell id -> why it cannot be computed: its task does not load, or has no importance."""

    def groups(self) -> Iterator[tuple[tuple[str, int, int], list[str]]]:
        """((task, num_fewshot, fewshot_seed), cells that share its requests), masks with most in common adjacent."""
        by_group: dict[tuple[str, int, int], dict[str, None]] = {}
        for row in self.rows:
            if row.cell in self.masks:
                by_group.setdefault((row.task, row.num_fewshot, row.fewshot_seed), {})[row.cell] = None
        for group, cells in by_group.items():
            yield group, sorted(cells, key=lambda cell: _branching(self.masks[cell]))


def planned_tasks(config: SweepConfig) -> list[PlannedTask]:
    """Every task at every number of shots; a task that cannot be loaded is listed with its error."""
    found: dict[tuple[str, int], PlannedTask] = {}
    for asked in config.tasks:
        try:
            names = list(load_tasks([asked], config.include_path, config.include_defaults))
        except PruneError as error:
            for shots in config.num_fewshot:
                found[asked, shots] = PlannedTask(asked, shots, error=error)
            continue
        for name, shots in itertools.product(names, config.num_fewshot):
            real, used, identity = task_identity(name, shots, config.include_path, config.include_defaults)
            hashed = {
                "task_version": identity["task_version"],
                "task_config_hash": digest(identity["task_config"]),
                "documents_hash": digest(identity["documents"]),
            }
            found[real, used] = PlannedTask(real, used, hashed)
    return list(found.values())


def make_plan(
    config: SweepConfig,
    tasks: list[PlannedTask],
    model: dict[str, Any],
    num_processes: int,
    load_model: Callable[[], PrunedOPT],
    shape: tuple[int, int],
) -> Plan:
    """The grid's rows. Importance that rankings need is computed now, or read where the folder has it already.

    `model` is the model's part of an identity; `shape` its layers and heads a layer.
    """
    plan = Plan()
    scores = _Scores(config, load_model)
    shares = [pair for pair in itertools.product(config.prune_heads, config.prune_ffns) if pair != ("0", "0")]
    for task, fewshot_seed in itertools.product(tasks, config.fewshot_seeds):
        base = {
            "model": model,
            "task": task.name,
            **task.identity,
            "num_fewshot": task.num_fewshot,
            "fewshot_seed": fewshot_seed,
            "seed": config.seed,
            "limit": config.limit,
            "bootstrap_iters": config.bootstrap_iters,
            "num_processes": num_processes,
            "lm_eval": version("lm_eval"),
            "format": VERSION,
        }
        _add(plan, task, base, DENSE, lambda: (PruningMask.dense(*shape), False))
        for text, (heads, ffns) in itertools.product(config.ranking, shares):
            ranking = parse_ranking(text)
            for seed in ranking.seeds or (None,):
                name = "random" if ranking.kind == "random" else _short(text)
                variant = Variant(name, heads, ffns, seed)
                _add(plan, task, base, variant, partial(scores.mask, ranking, variant, task, shape))
    plan.rows = list(dict.fromkeys(plan.rows))
    return plan


def _add(
    plan: Plan,
    task: PlannedTask,
    base: dict[str, Any],
    variant: Variant,
    mask_of: Callable[[], tuple[PruningMask, bool]],
) -> None:
    """Add the row of `variant`; one that cannot be computed gets an id too, by what was asked for."""
    try:
        if task.error is not None:
            raise task.error
        mask, oracle = mask_of()
        described = mask.to_dict()
        del described["provenance"]
        identity = {**base, "mask": described}
        cell = digest(identity)[:24]
        plan.masks[cell], plan.identities[cell] = mask, identity
        variant = variant._replace(oracle=oracle)
    except PruneError as error:
        cell = digest({**base, "variant": list(variant)})[:24]
        plan.errors[cell] = error
    plan.rows.append(Row(variant, task.name, task.num_fewshot, base["fewshot_seed"], cell))


class _Scores:
    """Importance of the grid's tasks, computed through the importance command's files when a ranking asks for it."""

    def __init__(self, config: SweepConfig, load_model: Callable[[], PrunedOPT]) -> None:
        self.config, self.load_model = config, load_model
        self.folder = config.output_path / "importance"
        self.loaded: dict[tuple[str, ...], ImportanceScores] = {}

    def mask(
        self, ranking: Ranking, variant: Variant, task: PlannedTask, shape: tuple[int, int]
    ) -> tuple[PruningMask, bool]:
        """(the mask of `variant` for `task`, whether its scores saw the documents that are then evaluated)."""
        if ranking.kind == "random":
            assert variant.seed is not None
            shares = {"prune_heads": variant.prune_heads, "prune_ffns": variant.prune_ffns}
            return random_mask(*shape, **shares, seed=variant.seed), False  # type: ignore[arg-type]
        arguments: dict[str, Any] = {}
        used = []
        for component, share in (("heads", variant.prune_heads), ("ffns", variant.prune_ffns)):
            if share != "0":
                scores = self._of(ranking, component, task)
                if scores.shape != shape:
                    raise ArgumentError(f"ranking {ranking.text}: scores of another model's shape {scores.shape}")
                kind = component.removesuffix("s")
                arguments |= {f"{kind}_scores": scores.tensor(), f"{kind}_fraction": share}
                used.append(scores)
        mask = ranked_mask(num_attention_heads=shape[1], order=ranking.order, **arguments)
        return mask, any(_saw(scores, task.name) for scores in used)

    def _of(self, ranking: Ranking, component: str, task: PlannedTask) -> ImportanceScores:
        if ranking.kind == "files":
            for file in ranking.files:
                scores = ImportanceScores.load(file)
                if scores.component == component:
                    return scores
            raise ArgumentError(f"ranking {ranking.text}: no scores of {component} in it, but the grid prunes them")
        if ranking.kind == "aggregate":
            return self._aggregate(component, task.num_fewshot)
        return self._computed(ranking.task or task.name, component, task.num_fewshot)

    def _aggregate(self, component: str, shots: int) -> ImportanceScores:
        key = ("aggregate", component, str(shots))
        if key not in self.loaded:
            names = [n for t in self.config.tasks for n in load_tasks([t], *self._where())]
            for name in names:
                self._computed(name, component, shots)
            method = self._method(component)
            paths = [self.folder / f"{name}-{shots}shot-{component}-{method}.json" for name in dict.fromkeys(names)]
            self.loaded[key] = aggregate_files(paths)
            with claim(self.config.output_path, f"aggregate-{component}-{shots}", wait=True):
                self.loaded[key].save(self.folder / f"aggregate-{shots}shot-{component}-{method}.json")
        return self.loaded[key]

    def _computed(self, name: str, component: str, shots: int) -> ImportanceScores:
        key = (name, component, str(shots))
        if key not in self.loaded:
            config = self.config
            settings = ImportanceConfig(
                component=component,
                method=self._method(component),
                tasks=(name,),
                num_fewshot=(shots,),
                output_path=self.folder,
                limit=config.importance_limit,
                split=config.importance_split,
                seed=config.seed,
                batch_size=config.batch_size if isinstance(config.batch_size, int) else 8,
                include_path=config.include_path,
                include_defaults=config.include_defaults,
            )
            with claim(config.output_path, f"importance-{name}-{component}-{shots}", wait=True):
                (outcome,) = compute_importance(settings, self.load_model)
            self.loaded[key] = ImportanceScores.load(outcome.path)
        return self.loaded[key]

    def _method(self, component: str) -> str:
        return self.config.head_method if component == "heads" else self.config.ffn_method

    def _where(self) -> tuple[str | None, bool]:
        return self.config.include_path, self.config.include_defaults


def _saw(scores: ImportanceScores, task: str) -> bool:
    """Whether the scores come from the split of `task` that the harness evaluates: not its training split."""
    settings = scores.settings
    if settings.get("task") == "aggregate":
        splits = dict(zip(settings["tasks"], (file.get("split") for file in settings["files"]), strict=True))
        return splits.get(task) not in (None, "training")
    return settings.get("task") == task and settings.get("split") not in (None, "training")


def _short(ranking: str) -> str:
    """A ranking's text with file names instead of paths."""
    return ranking if not ranking.endswith(".json") else "+".join(Path(part).name for part in ranking.split("+"))


def _branching(mask: PruningMask) -> tuple[Any, ...]:
    return tuple((mask.pruned_heads.get(layer, ()), layer in mask.pruned_ffns) for layer in range(mask.shape[0]))
