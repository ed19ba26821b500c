"""What all cells of a folder have in common: the model, how it computes, and the harness. One folder holds one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval_prune.demo import BUNDLED_NAME
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.files import json_line
from lm_eval_prune.model_args import parse_model_args
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.claims import claimed
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.fingerprint import model_files_fingerprint, model_folder
from lm_eval_prune.sweep.tasks import PlannedTask

__all__ = ["Setup", "find_setup", "require_same_setup"]

FURTHER_FILES = ("tokenizer", "peft", "delta")
"""Model arguments that may name folders whose content counts."""


@dataclass(frozen=True)
class Setup:
    """The part of an identity that is the same for every cell."""

    name: str
    """What the model is called; does not count."""
    model: dict[str, Any]
    """Fingerprint of its files, and the arguments that decide a result."""
    dtype: str
    scorer: str
    num_processes: int
    """Of the harness's launch: few-shot draws depend on it."""
    shape: tuple[int, int]
    """The model's layers, and heads a layer."""

    def identity(self) -> dict[str, Any]:
        """Its part of a cell's identity."""
        computed = {"dtype": self.dtype, "scorer": self.scorer, "num_processes": self.num_processes}
        return {"model": self.model, **computed, "lm_eval": version("lm_eval")}

    def of_importance(self) -> dict[str, Any]:
        """What importance depends on, as JSON values."""
        return {**self.model, "dtype": self.dtype}

    def record(self, tasks: list[PlannedTask]) -> dict[str, Any]:
        """What plans of one folder must agree on, as JSON values."""
        ours = self.identity()
        return {
            "model": {**ours.pop("model"), **ours},
            "tasks": {f"{task.name}, {task.num_fewshot}-shot": task.identity for task in tasks if task.identity},
        }


def find_setup(config: SweepConfig, num_processes: int) -> Setup:
    """Look at the model's files, without loading weights. Raises PruneError."""
    from lm_eval_prune.decoders.configuration import read_configuration
    from lm_eval_prune.harness.arguments import check_arguments, require_device
    from lm_eval_prune.harness.model import PrunedModel
    from lm_eval_prune.harness.model_record import MASK_ARGUMENTS, PLACEMENT

    arguments = parse_model_args(config.model_args)
    if given := arguments.keys() & MASK_ARGUMENTS:
        raise ArgumentError(f"model_args: {min(given)}: a sweep's masks come from its grid; leave it out")
    for name, value in (("batch_size", config.batch_size), ("device", config.device)):
        if name in arguments and value is not None:
            raise ArgumentError(f"model_args: {name}: a setting of its own; give it as {name}")
    check_arguments(arguments)
    if config.device is not None and config.executor == "local":  # a worker's machine elsewhere has its own
        require_device(config.device)
    place = model_folder(arguments)
    known = read_configuration(
        place, name=arguments.get("pretrained"), trust_remote_code=arguments.get("trust_remote_code")
    )
    counting = {key: value for key, value in sorted(arguments.items()) if key not in PLACEMENT}
    dtype = counting.pop("dtype", "auto").removeprefix("torch.")
    scorer = counting.pop("scorer", PrunedModel.default_scorer)
    for name in FURTHER_FILES:
        if name in arguments and Path(arguments[name]).is_dir():
            counting[name] = model_files_fingerprint(Path(arguments[name]))
    if dtype == "auto":  # the harness's default: as the checkpoint says
        dtype = str(known.dtype or "float32").removeprefix("torch.")
    return Setup(
        name=arguments.get("pretrained", BUNDLED_NAME),
        model={"fingerprint": model_files_fingerprint(place), **counting},
        dtype=dtype,
        scorer=scorer,
        num_processes=num_processes,
        shape=(known.num_hidden_layers, known.num_attention_heads),
    )


def require_same_setup(folder: Path, setup: Setup, tasks: list[PlannedTask]) -> None:
    """Raise PruneError where the folder holds plans or importance of another model, or of another task version."""
    hint, record = "give another --output_path", setup.record(tasks)
    plans = [disk.read_plan(path)[0].get("fixed", {}) for path in disk.plan_paths(folder)]
    pairs = [(found.get("model", {}), record["model"]) for found in plans]
    # Before a first plan there may be importance, or somebody at it: then what was written before it counts.
    if any((folder / "importance").glob("*.json")) or claimed(folder, "importance-"):
        pairs.append((disk.read_setup(folder) or setup.of_importance(), setup.of_importance()))
    for before, after in pairs:
        for key in dict.fromkeys([*after, *before]):
            there, now = before.get(key), after.get(key)
            if there != now:
                raise ArgumentError(
                    f"{folder}: holds cells of another model or setup ({key} {json_line(there)}, now "
                    f"{json_line(now)}); {hint}"
                )
    for found in plans:
        for name, identity in record["tasks"].items():
            there = found.get("tasks", {}).get(name, identity)
            changed = [key for key in identity if there.get(key) != identity[key]]
            if changed:
                raise PruneError(f"{folder}: the task {name} has changed ({', '.join(changed)}) since; {hint}")
