"""What the paper ran, as sweeps in one folder: nothing that `sweep` and `induction` could not compute one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.files import require_writable
from lm_eval_prune.model_args import parse_model_args
from lm_eval_prune.sweep.config import SweepConfig, make_config

if TYPE_CHECKING:
    from lm_eval_prune.sweep.results import Sweep

__all__ = [
    "COMBINED",
    "DONOR_SHARES",
    "FFNS",
    "GRIDS",
    "HEADS",
    "INDUCTION",
    "SWEEP",
    "TASKS",
    "TRANSFER",
    "Study",
    "make_study",
    "run_study",
]

TASKS = (
    "hellaswag", "piqa", "arc_easy", "arc_challenge", "openbookqa", "winogrande", "boolq", "cb", "copa", "wic", "wsc",
    "rte", "icl14_multirc", "icl14_record",
)  # fmt: skip
"""The paper's 14, two of them with a correction (docs/icl14.md)."""
BUNDLED_GROUP = "icl_demo"
"""The tasks of the model that comes with the package."""
SHOTS = (0, 1, 5)
SWEEP = "sweep"
INDUCTION = "induction"
"""Folders below the study's."""


def _tenths(first: int, last: int, step: int = 1) -> tuple[str, ...]:
    return tuple(f"{tenth / 10:g}" for tenth in range(first, last + 1, step))


HEADS = {"ranking": ("own", "aggregate"), "prune_heads": _tenths(0, 9)}
FFNS = {"ranking": ("own",), "prune_ffns": _tenths(1, 9)}
COMBINED = {"ranking": ("aggregate",), "prune_heads": _tenths(0, 7), "prune_ffns": _tenths(1, 5)}
DONOR_SHARES = _tenths(1, 9, 2)
"""Of heads, for transfer between tasks: those of the research code."""
TRANSFER = {"ranking": ("task:closest", "task:farthest"), "prune_heads": DONOR_SHARES}
GRIDS: tuple[dict[str, tuple[str, ...]], ...] = (HEADS, FFNS, COMBINED)
"""Heads by the task's own and by the mean importance, FFNs by knockout, and both together by the mean importance of
each (the paper's Figure 7): as in configs/opt-66b.yaml. With them TRANSFER: heads by the scores of the task that agrees
most, and least."""


@dataclass(frozen=True)
class Study:
    """The study of one model in one folder."""

    folder: Path
    sweeps: Sequence[SweepConfig]
    """Differ in rankings and shares alone."""
    unseen: Sequence[SweepConfig]
    """Tasks outside the study under its tasks' mean importance and their own; empty where none were asked for."""
    num_sequences: int
    """Of induction scores."""


def make_study(folder: Path, settings: Mapping[str, Any], *, unseen: Sequence[str] = (), num_sequences: int) -> Study:
    """The study under these settings of a sweep (`SweepConfig`), without its grid. Raises PruneError.

    The tasks are the paper's 14 unless `settings` names others; the bundled model's are its own. `unseen`: tasks that
    are evaluated under the mean importance of these, in which they have no part, and under their own.
    """
    common: dict[str, Any] = {"num_fewshot": SHOTS, **settings, "output_path": folder / SWEEP}
    if not common.get("tasks"):
        common |= _default_tasks(common)
    grids = [*GRIDS, TRANSFER] if _has_several_tasks(common) else GRIDS
    sweeps = [make_config({**common, **grid}) for grid in grids]
    return Study(folder, sweeps, _unseen(common, unseen), num_sequences)


def _unseen(common: Mapping[str, Any], unseen: Sequence[str]) -> list[SweepConfig]:
    """Sweeps of the tasks outside, told to be unknown before hours of work and not after them.

    By their own importance too, but for groups, and for tasks that have no documents beside those that are evaluated
    (the harness's LAMBADA has a test split alone).
    """
    from lm_eval_prune.harness.tasks import has_examples

    config = make_config(dict(common))
    place = config.include_path, config.include_defaults
    own = [task for task in unseen if has_examples(task, *place)]
    mean = "aggregate:" + "+".join(config.tasks)
    found = []
    for ranking, tasks in (((mean, "own"), own), ((mean,), [task for task in unseen if task not in own])):
        if tasks:
            grid = {"ranking": ranking, "prune_heads": ("0", *DONOR_SHARES)}
            found.append(make_config({**common, **grid, "tasks": tuple(tasks)}))
    return found


def _default_tasks(settings: Mapping[str, Any]) -> dict[str, Any]:
    if parse_model_args(settings.get("model_args", "")).get("pretrained"):
        return {"tasks": TASKS}
    from lm_eval_prune.harness.registration import tasks_folder

    return {"tasks": (BUNDLED_GROUP,), "include_path": str(tasks_folder()), "include_defaults": False}


def _has_several_tasks(settings: Mapping[str, Any]) -> bool:
    """Whether there is another task to take scores from."""
    from lm_eval_prune.harness.tasks import members_of, require_known

    config = make_config(dict(settings))
    if len(config.tasks) > 1:
        return True
    (name,), place = config.tasks, (config.include_path, config.include_defaults)
    require_known([name], *place)
    return len(members_of(name, *place)) > 1  # it may be a group


def run_study(
    study: Study,
    *,
    retry_failed: bool = False,
    say: Callable[[str], None] = lambda line: None,
    note: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> list[Sweep]:
    """Compute what is missing, and return the sweeps: the study's, and those of tasks outside.

    Start it again after any interruption; arguments as `run_sweep`. Induction scores are computed by this process (and
    those launched with it), wherever the sweep's cells are.
    """
    from lm_eval_prune.sweep.run import run_sweeps

    require_writable(study.folder)
    settings: dict[str, Any] = {"retry_failed": retry_failed, "say": say, "note": note, "progress": progress}
    sweeps = [run_sweeps(study.sweeps, **settings), *(run_sweeps([config], **settings) for config in study.unseen)]
    for path, computed in _induction(study):
        note(f"{path}" + ("" if computed else " (there already)"))
    return sweeps


def _induction(study: Study) -> list[tuple[Path, bool]]:
    """(file, whether it was computed), of prefix matching and copying."""
    from lm_eval_prune.harness.induction import InductionConfig, compute_induction
    from lm_eval_prune.harness.model_record import record_of_arguments
    from lm_eval_prune.sweep.setup import model_arguments
    from lm_eval_prune.sweep.worker import Worker

    first = study.sweeps[0]
    config = InductionConfig(
        output_path=study.folder / INDUCTION,
        num_sequences=study.num_sequences,
        seed=first.seed,
        model=record_of_arguments(model_arguments(first)),
    )
    return list(compute_induction(config, Worker(first).model))
