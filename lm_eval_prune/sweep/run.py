"""`run_sweep`: every missing cell of a grid computed, and written as soon as it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from lm_eval_prune.errors import ArgumentError, FileFormatError, PruneError
from lm_eval_prune.files import json_line
from lm_eval_prune.harness.cells import Seeds, TaskRun
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.claims import claim, clear_claims
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.fingerprint import model_files_fingerprint, model_folder
from lm_eval_prune.sweep.plan import Plan, make_plan, planned_tasks
from lm_eval_prune.sweep.results import Sweep, headline

if TYPE_CHECKING:
    from lm_eval_prune.masks import PruningMask

__all__ = ["run_sweep"]

logger = logging.getLogger(__name__)

PLACEMENT = {
    "pretrained", "device", "parallelize", "device_map_option", "max_memory_per_gpu", "max_cpu_memory",
    "offload_folder", "batch_size", "max_batch_size", "gpus",
}  # fmt: skip
"""Model arguments that say where and how fast, not what."""
POLL_SECONDS = 1.0
"""How often to look at cells that another process computes."""


def run_sweep(
    config: SweepConfig,
    *,
    retry_failed: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> Sweep:
    """Compute what is missing of the grid, and return it. Start it again after any interruption.

    `say` gets a line for each finished or failed cell. A cell that fails is recorded in the folder and does not stop
    the others; it stays failed until `retry_failed`. Several processes may run on one folder at once. Raises PruneError
    for a folder that holds cells of another model, task version or setup, or that cannot be written.
    """
    work = _Work(config, say)
    if retry_failed:
        for path in (config.output_path / "failed").glob("*.json"):
            path.unlink(missing_ok=True)
    work.prepare()
    with tqdm(total=len(work.cells), desc="Cells", unit="cell", disable=not progress or work.rank > 0) as bar:
        work.bar = bar
        work.run()
    clear_claims(config.output_path, [path.stem for path in (config.output_path / "claims").glob("*.lock")])
    return Sweep(config.output_path)


class _Work:
    """One process's part in a sweep."""

    def __init__(self, config: SweepConfig, say: Callable[[str], None]) -> None:
        from lm_eval_prune.importance.processes import Processes

        self.config, self.folder, self.say = config, config.output_path, say
        processes = Processes.current()
        self.rank, self.world_size = processes.rank, processes.world_size
        if self.world_size > 1:
            raise ArgumentError(
                "a sweep under `accelerate launch` is not supported; start several sweeps on one folder instead, "
                "one a GPU (--device cuda:0, cuda:1, ...): they share the cells"
            )
        self.bar: tqdm[Any] | None = None
        self._lm: PrunedOPT | None = None
        self.arguments = _arguments(config.model_args)
        if given := {"mask", "head_importance", "prune_heads", "ffn_importance", "prune_ffns"} & self.arguments.keys():
            raise ArgumentError(f"model_args: {min(given)}: a sweep's masks come from its grid; leave it out")

    def model(self) -> PrunedOPT:
        if self._lm is None:
            settings = {"batch_size": self.config.batch_size, "device": self.config.device}
            self._lm = PrunedOPT.create_from_arg_string(self.config.model_args, settings)
        return self._lm

    def prepare(self) -> None:
        """Make the plan, write it, look at what is there."""
        from transformers import AutoConfig

        with claim(self.folder, "plan", wait=True):
            pass  # a folder that cannot be written is known before tasks are read
        place = model_folder(self.arguments)
        known = AutoConfig.from_pretrained(place)
        model = {
            "fingerprint": model_files_fingerprint(place),
            **{key: value for key, value in sorted(self.arguments.items()) if key not in PLACEMENT},
            "scorer": self.arguments.get("scorer", PrunedOPT.default_scorer),
        }
        tasks = planned_tasks(self.config)
        fixed = {
            "model": model,
            "tasks": {f"{task.name}, {task.num_fewshot}-shot": task.identity for task in tasks if task.identity},
        }
        _require_same_setup(self.folder, fixed)
        shape = known.num_hidden_layers, known.num_attention_heads
        self.plan: Plan = make_plan(self.config, tasks, model, self.world_size, self.model, shape)
        self.cells = list(dict.fromkeys(row.cell for row in self.plan.rows))
        self.row_of = {row.cell: row for row in reversed(self.plan.rows)}
        disk.write_plan(self.folder, self.config.grid(), fixed, self.plan.rows)
        for cell, error in self.plan.errors.items():
            if not disk.failure_path(self.folder, cell).exists():
                disk.write_failure(self.folder, self.row_of[cell], error)
                self.say(f"failed: {self._named(cell)}: {error}")

    def run(self) -> None:
        missing = {cell for cell in self.plan.masks if not self._settled(cell, check=True)}
        self._advance(len(self.cells) - len(missing))
        while missing:
            before = len(missing)
            for group, cells in self.plan.groups():
                wanted = [cell for cell in cells if cell in missing]
                if wanted:
                    self._group(group, wanted, missing)
            if missing and len(missing) == before:
                time.sleep(POLL_SECONDS)  # all of them are claimed by others

    def _group(self, group: tuple[str, int, int], wanted: list[str], missing: set[str]) -> None:
        """Cells of one task, shots and draw: those that nobody else has, a few masks at a time."""
        task_run: TaskRun | None = None
        size = self.config.masks_at_once
        for first in range(0, len(wanted), size):
            with ExitStack() as claims:
                mine = []
                for cell in wanted[first : first + size]:
                    if self._settled(cell):
                        missing.discard(cell)
                        self._advance(1)
                    elif claims.enter_context(claim(self.folder, cell)) and not self._settled(cell):
                        mine.append(cell)
                if not mine:
                    continue
                try:
                    task_run = task_run or self._task_run(*group)
                    self._compute(task_run, mine)
                except (FileFormatError, KeyboardInterrupt):
                    raise  # the disk is full, say: the next cell would not fare better
                except Exception as error:
                    self._failed(mine, error)
                missing -= set(mine)

    def _compute(self, task_run: TaskRun, mine: list[str]) -> None:
        masks: list[PruningMask] = [self.plan.masks[cell] for cell in mine]
        start, done = time.time(), 0.0

        def advance(share: float) -> None:
            nonlocal done
            done += share
            self._advance(share)

        for cell, found in zip(mine, task_run.results(masks, advance), strict=True):
            block = {
                "format": disk.CELL_FORMAT,
                "version": disk.VERSION,
                "id": cell,
                "identity": self.plan.identities[cell],
                "timing": {"seconds": (time.time() - start) / len(mine), "date": time.time()},
            }
            disk.write_cell(self.folder, cell, {**found.results, "cell": block}, found.samples)
            self._report(cell, found.results)
        self._advance(len(mine) - done)

    def _failed(self, mine: list[str], error: Exception) -> None:
        for cell in mine:
            if not disk.cell_path(self.folder, cell).exists():
                disk.write_failure(self.folder, self.row_of[cell], error)
                self.say(f"failed: {self._named(cell)}: {type(error).__name__}: {' '.join(str(error).split())}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._advance(len(mine))

    def _task_run(self, task: str, num_fewshot: int, fewshot_seed: int) -> TaskRun:
        config = self.config
        return TaskRun(
            self.model(),
            task,
            num_fewshot=num_fewshot,
            limit=config.limit,
            seeds=Seeds(numpy=config.seed, torch=config.seed, fewshot=fewshot_seed),
            bootstrap_iters=config.bootstrap_iters,
            include_path=config.include_path,
            include_defaults=config.include_defaults,
        )

    def _settled(self, cell: str, *, check: bool = False) -> bool:
        """Whether a cell is there, whole, or failed; `check` reads it, and moves a damaged one aside."""
        path = disk.cell_path(self.folder, cell)
        if not path.exists():
            return disk.failure_path(self.folder, cell).exists()
        if check:
            try:
                disk.read_cell(path)
            except FileFormatError as error:
                with claim(self.folder, cell) as mine:
                    if mine:
                        where = disk.move_aside(self.folder, cell)
                        self.say(f"damaged, computed again: {error} (moved to {where})")
                return False
        return True

    def _advance(self, share: float) -> None:
        if self.bar is not None:
            self.bar.update(min(share, self.bar.total - self.bar.n))

    def _report(self, cell: str, results: dict[str, Any]) -> None:
        row = self.row_of[cell]
        metric, value = headline(results, row.task)
        line = f"{self._named(cell)}: {metric} {value:.4f}"
        dense = next(
            (r for r in self.plan.rows if r.variant == disk.DENSE and r[1:4] == row[1:4] and r.cell != cell), None
        )
        if dense is not None and disk.cell_path(self.folder, dense.cell).exists():
            _, base = headline(disk.read_cell(disk.cell_path(self.folder, dense.cell), samples=False), row.task)
            line += f" ({value - base:+.4f} to dense)"
        self.say(line)

    def _named(self, cell: str) -> str:
        row = self.row_of[cell]
        return f"{row.variant} on {row.task}, {row.num_fewshot}-shot"


def _arguments(model_args: str) -> dict[str, str]:
    parts = [part.partition("=") for part in model_args.split(",") if part]
    if broken := [name for name, equals, _ in parts if not equals]:
        raise ArgumentError(f"model_args: {broken[0]!r}; expected name=value, such as pretrained=facebook/opt-125m")
    return {name: value for name, _, value in parts}


def _require_same_setup(folder: Path, fixed: dict[str, Any]) -> None:
    """Raise ArgumentError where the folder's plans are for another model, or another version of a task."""
    for path in disk.plan_paths(folder):
        found = disk.read_plan(path)[0].get("fixed", {})
        hint = "give another --output_path"
        for key, value in fixed["model"].items():
            there = found.get("model", {}).get(key)
            if there != value:
                raise ArgumentError(
                    f"{folder}: holds cells of another model or setup ({key} {json_line(there)}, now "
                    f"{json_line(value)}); {hint}"
                )
        for name, identity in fixed["tasks"].items():
            there = found.get("tasks", {}).get(name, identity)
            changed = [key for key in identity if there.get(key) != identity[key]]
            if changed:
                raise PruneError(f"{folder}: the task {name} has changed ({', '.join(changed)}) since; {hint}")
