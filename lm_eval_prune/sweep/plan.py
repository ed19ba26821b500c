"""From settings to rows: masks, and cells with their identities. Importance that rankings need is there by then."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lm_eval_prune.errors import PruneError
from lm_eval_prune.files import digest
from lm_eval_prune.harness.tasks import Member
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.means import Means
from lm_eval_prune.sweep.config import SPLIT, SweepConfig
from lm_eval_prune.sweep.jobs import Group, ImportanceJob
from lm_eval_prune.sweep.ranking import Ranking, parse_ranking, unit_prefix
from lm_eval_prune.sweep.rankings import Chosen, Donor, Masks, given_masks, mask_variant
from lm_eval_prune.sweep.schema import VERSION, Row
from lm_eval_prune.sweep.setup import Setup
from lm_eval_prune.sweep.sources import Aggregate
from lm_eval_prune.sweep.tasks import PlannedTask
from lm_eval_prune.variants import DENSE, Variant, file_name

__all__ = ["Plan", "make_plan"]


IMPORTANCE_SETTINGS = ("head_method", "ffn_method", "importance_limit", "importance_split", "seed")
"""Settings on which it depends what a ranking prunes."""


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
    replaced: dict[str, Row] = field(default_factory=dict)
    """The id that a row goes by while it cannot be computed -> the row, of those that can be."""
    members: dict[tuple[str, int], Member] = field(default_factory=dict)
    """(task, shots) -> what the task is loaded out of."""
    aggregates: dict[Aggregate, ImportanceScores] = field(default_factory=dict)
    """The mean importance that rankings took."""
    means: dict[tuple[Member, int], Means] = field(default_factory=dict)
    """(what the task is loaded out of, shots) -> what is pruned gives; nothing for zero ablation."""
    donors: dict[tuple[str, str, ImportanceJob], Donor] = field(default_factory=dict)
    """(ranking, component, the task's own importance) -> the other task whose importance the ranking chose."""

    def joined(self, other: Plan) -> Plan:
        """Both grids as one; rows and cells that they share are there once."""
        return Plan(
            rows=list(dict.fromkeys([*self.rows, *other.rows])),
            masks={**self.masks, **other.masks},
            identities={**self.identities, **other.identities},
            errors={**self.errors, **other.errors},
            replaced={**self.replaced, **other.replaced},
            members={**self.members, **other.members},
            aggregates={**self.aggregates, **other.aggregates},
            means={**self.means, **other.means},
            donors={**self.donors, **other.donors},
        )

    def groups(self) -> Iterator[tuple[Group, list[str]]]:
        """Cells that share requests, masks with most in common adjacent: the dense model first."""
        by_group: dict[Group, dict[str, None]] = {}
        for row in self.rows:
            if row.cell in self.masks:
                group = Group(self.members[row.task, row.num_fewshot], row.num_fewshot, row.fewshot_seed)
                by_group.setdefault(group, {})[row.cell] = None
        for group, cells in by_group.items():
            yield group, sorted(cells, key=lambda cell: _branching(self.masks[cell]))


def make_plan(
    config: SweepConfig,
    tasks: Sequence[PlannedTask],
    setup: Setup,
    importance: Mapping[ImportanceJob, ImportanceScores | PruneError],
    means: Mapping[ImportanceJob, Means | PruneError] | None = None,
) -> Plan:
    """The grid's rows. Raises PruneError for importance files that cannot be used.

    `means` are those of each task, where pruned components give them.
    """
    found_means = {(job.member, job.num_fewshot): found for job, found in (means or {}).items()}
    plan = Plan(members={(task.name, task.num_fewshot): task.member for task in tasks})
    masks, names = Masks(config, tasks, importance, setup.shape, setup.num_key_value_heads), _row_names(config.ranking)
    grid = config.grid()
    importance_settings = {key: grid[key] for key in IMPORTANCE_SETTINGS}
    if config.knockout_metric is not None:
        importance_settings["knockout_metric"] = config.knockout_metric
    given = given_masks(config, setup.shape)
    for task, fewshot_seed in itertools.product(tasks, config.fewshot_seeds):
        if task.num_fewshot == 0 and fewshot_seed != config.fewshot_seeds[0]:
            continue  # nothing is drawn
        base = {
            **setup.identity(),
            "task": task.name,
            "num_fewshot": task.num_fewshot,
            "fewshot_seed": fewshot_seed,
            "seed": config.seed,
            # Cells that grow are the same ones whatever they grow to.
            **({"limit": config.limit} if config.decide is None else {"decide": True}),
            "bootstrap_iters": config.bootstrap_iters,
            "format": VERSION,
            **({"metadata": grid["metadata"]} if config.metadata else {}),
            **({} if config.part == "all" else {key: grid[key] for key in sorted(SPLIT)}),
        }
        _add(plan, task, base, {}, DENSE, lambda: Chosen(PruningMask.dense(*setup.shape)))
        for text, (heads, ffns) in config.pruned:
            ranking = parse_ranking(text)
            asked = {"ranking": text, **importance_settings}
            if ranking.of_the_grid:
                asked["tasks"] = sorted({planned.name for planned in tasks})
            for seed in ranking.seeds or (None,):
                variant = Variant(names[text], heads, ffns, seed)
                own = found_means.get((task.member, task.num_fewshot))
                _add(plan, task, base, asked, variant, partial(masks.of, ranking, variant, task), own)
        for path, mask in given.items():
            own = found_means.get((task.member, task.num_fewshot))
            chosen = Chosen(mask, task.name in mask.provenance.get("oracle_on", ()))
            _add(plan, task, base, {"mask": path}, mask_variant(path, mask), partial(Chosen, *chosen), own)
    plan.rows = list(dict.fromkeys(plan.rows))
    plan.means = {key: found for key, found in found_means.items() if isinstance(found, Means)}
    plan.aggregates, plan.donors = masks.aggregates, masks.donors
    for identity in plan.identities.values():  # told, but not part of the id: the same files elsewhere are the same
        identity["model"] = {"name": setup.name, **setup.model}
    return plan


def _add(
    plan: Plan,
    task: PlannedTask,
    base: dict[str, Any],
    asked: dict[str, Any],
    variant: Variant,
    mask_of: Callable[[], Chosen],
    means: Means | PruneError | None = None,
) -> None:
    """Add the row of `variant`; one that cannot be computed gets an id too, by what was asked for."""
    # By the shots that were asked for: a task that does not load has not said its own number.
    unplanned = digest({**base, "num_fewshot": task.requested, **asked, "variant": list(variant)})[:24]
    try:
        if task.error is not None:
            raise task.error
        if isinstance(means, PruneError):
            raise means
        chosen = mask_of()
        described = chosen.mask.to_dict()
        del described["provenance"]
        identity = {**base, **task.identity, "mask": described}
        if means is not None and not chosen.mask.is_dense:
            identity["means"] = means.digest
        cell = digest(identity)[:24]
        plan.masks[cell], plan.identities[cell] = chosen.mask, identity
        variant, donor = variant._replace(oracle=chosen.oracle), chosen.donor
    except PruneError as error:
        cell, donor = unplanned, ""
        plan.errors[cell] = error
    row = Row(variant, task.name, task.num_fewshot, base["fewshot_seed"], cell, donor)
    plan.rows.append(row)
    if cell != unplanned:
        plan.replaced[unplanned] = row


def _row_names(rankings: Sequence[str]) -> dict[str, str]:
    """What rows call each ranking: `random`, or its text, of files only with the folder that they are in.

    Where two would have one name, both keep whole paths.
    """
    short = {text: _short(parse_ranking(text)) for text in dict.fromkeys(rankings)}
    often = Counter(name for name in short.values() if not name.endswith("random"))
    return {text: text if often[name] > 1 else name for text, name in short.items()}


def _short(ranking: Ranking) -> str:
    if ranking.kind == "random":
        return f"{unit_prefix(ranking.text)}random"
    if ranking.kind != "files":
        return ranking.text
    names = "+".join(map(file_name, ranking.files))
    names = names if ranking.order == "least" else f"most:{names}"
    return f"{unit_prefix(ranking.text)}{names}"


def _branching(mask: PruningMask) -> tuple[Any, ...]:
    return tuple((mask.pruned_heads.get(layer, ()), layer in mask.pruned_ffns) for layer in range(mask.shape[0]))
