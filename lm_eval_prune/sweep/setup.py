"""What all cells of a folder have in common: the model, how it computes, and the harness. One folder holds one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval_prune.demo import BUNDLED_NAME, bundled_model_path
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.files import json_line
from lm_eval_prune.identity import MASK_ARGUMENTS, VERSION, counting_arguments, files_fingerprint, files_of_arguments
from lm_eval_prune.limits import number_limited
from lm_eval_prune.model_args import parse_model_args
from lm_eval_prune.sequential import looks_for
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.claims import claimed
from lm_eval_prune.sweep.config import SweepConfig
from lm_eval_prune.sweep.ranking import of_groups
from lm_eval_prune.sweep.schema import DecideSettings, SetupFile
from lm_eval_prune.sweep.tasks import PlannedTask

__all__ = [
    "Setup", "decide_settings", "find_setup", "model_arguments", "model_configuration", "require_same_setup", "settle",
]  # fmt: skip

ELSEWHERE = "give another --output_path"


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
    num_key_value_heads: int | None = None
    """Of a layer, where a ranking is of groups."""

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


def model_arguments(config: SweepConfig) -> dict[str, Any]:
    """The model's arguments, with the precision of this machine's CPU where that computes and nothing else is said.

    Of workers elsewhere it is known only where they are given no GPU.
    """
    from lm_eval_prune.harness.precision import with_cpu_precision

    arguments = parse_model_args(config.model_args)
    if config.executor == "local":
        return with_cpu_precision(arguments, config.device)
    return with_cpu_precision(arguments, "cpu" if config.num_gpus == 0 else config.device or "cuda")


def model_configuration(arguments: Mapping[str, Any]) -> tuple[str, Path, Any]:
    """(what the model is called, where its files are, its transformers configuration). Raises PruneError."""
    from lm_eval_prune.decoders.configuration import model_folder, read_configuration

    name = arguments.get("pretrained", BUNDLED_NAME)
    place = bundled_model_path() if name == BUNDLED_NAME else model_folder(name, arguments.get("revision"))
    known = read_configuration(
        place,
        name=arguments.get("pretrained"),
        trust_remote_code=arguments.get("trust_remote_code"),
        backend=arguments.get("backend"),
    )
    return name, place, known


def find_setup(config: SweepConfig, num_processes: int) -> Setup:
    """Look at the model's files, without loading weights. Raises PruneError."""
    from lm_eval_prune.decoders import key_value_heads, shape_of
    from lm_eval_prune.harness.arguments import check_arguments, check_fits_config, require_device, require_device_name
    from lm_eval_prune.harness.model import PrunedModel

    arguments = model_arguments(config)
    if given := arguments.keys() & MASK_ARGUMENTS:
        raise ArgumentError(f"model_args: {min(given)}: a sweep's masks come from its grid; leave it out")
    for name, value in (("batch_size", config.batch_size), ("device", config.device)):
        if name in arguments and value is not None:
            raise ArgumentError(f"model_args: {name}: a setting of its own; give it as {name}")
    for name in ("ablation", "means"):
        if name in arguments:
            raise ArgumentError(f"model_args: {name}: a sweep makes its own means; give ablation=mean as a setting")
    check_arguments(arguments)
    if config.device is not None:  # a worker's machine elsewhere has its own
        (require_device if config.executor == "local" else require_device_name)(config.device)
    name, place, known = model_configuration(arguments)
    check_fits_config(arguments, known)
    counting = counting_arguments(arguments)
    dtype = counting.pop("dtype", str(known.dtype or "float32").removeprefix("torch."))  # auto: the checkpoint's
    if config.ablation != "zero":
        counting["ablation"] = config.ablation
    fingerprint = files_fingerprint(place, arguments.get("subfolder") or "")
    return Setup(
        name=name,
        model={"identity": VERSION, "fingerprint": fingerprint, **counting, **files_of_arguments(arguments)},
        dtype=dtype,
        scorer=arguments.get("scorer", PrunedModel.default_scorer),
        num_processes=num_processes,
        shape=shape_of(known),
        num_key_value_heads=key_value_heads(known) if any(map(of_groups, config.ranking)) else None,
    )


def require_same_setup(folder: Path, setup: Setup, tasks: list[PlannedTask]) -> None:
    """Raise PruneError where the folder holds plans of another model, or of another version of a task."""
    record = setup.record(tasks)
    for path in disk.plan_paths(folder):
        fixed = disk.read_plan(path).fixed
        _require_same_model(folder, fixed.model, record["model"])
        _require_same_tasks(folder, fixed.tasks, record["tasks"])


def settle(
    folder: Path,
    setup: Setup,
    tasks: list[PlannedTask],
    importance: Mapping[str, Mapping[str, Any]],
    process: str,
    decide: DecideSettings | None = None,
) -> DecideSettings | None:
    """Write down what the folder is for, before anything is computed: who comes first decides.

    `importance` maps each file that this sweep needs to the settings that it is computed with. What was written down is
    forgotten where nothing came of it and nobody but this `process` is at work. Raises PruneError where it is for
    another model, or where a task or a file of importance is another one, or cells are decided otherwise.

    Returns how cells grow, from the first limit that was planned on; None where they do not.
    """
    record = setup.record(tasks)
    mine = SetupFile(
        setup=setup.of_importance(),
        importance={name: dict(settings) for name, settings in importance.items()},
        tasks=record["tasks"],
        decide=decide,
    )
    found = disk.read_setup(folder)
    if found is not None and _is_used(folder, process):
        _require_same_model(folder, found.setup, mine.setup)
        _require_same_tasks(folder, found.tasks, mine.tasks)
        alone = not _others(folder, process)
        for name, settings in mine.importance.items():
            if alone and not (folder / "importance" / name).exists():
                continue  # nothing came of it, or the file was deleted
            for key, now in settings.items():
                there = found.importance.get(name, settings).get(key)
                if there != now:
                    raise ArgumentError(
                        f"{folder / 'importance' / name}: computed with {key}={json_line(there)}, now "
                        f"{json_line(now)}; delete the file, or {ELSEWHERE}"
                    )
        mine = SetupFile(
            setup=mine.setup,
            importance=found.importance | mine.importance,
            tasks=found.tasks | mine.tasks,
            decide=_decided_alike(folder, found.decide, mine.decide, tasks),
        )
    disk.write_setup(folder, mine)
    return mine.decide


def decide_settings(config: SweepConfig, tasks: Sequence[PlannedTask]) -> DecideSettings | None:
    """How the cells of a sweep grow that is the first of its folder; None where they do not."""
    if config.decide is None:
        return None
    totals: dict[int, int] = defaultdict(int)
    for task in tasks:
        totals[task.num_fewshot] += number_limited(task.num_documents, config.limit)
    return DecideSettings(
        mode=config.decide,
        margin=config.margin,
        seed=config.seed,
        looks=looks_for(max(totals.values(), default=0)),
        limits=[config.limit],
    )


def _decided_alike(
    folder: Path, there: DecideSettings | None, mine: DecideSettings | None, tasks: Sequence[PlannedTask]
) -> DecideSettings | None:
    """The folder's, with the limit of this sweep behind those that were planned before. Raises ArgumentError."""
    if there is None or mine is None:
        return there or mine
    for name, option in (("mode", "decide"), ("margin", "margin"), ("seed", "seed")):
        if (before := getattr(there, name)) != (now := getattr(mine, name)):
            raise ArgumentError(f"{folder}: holds cells decided with {option}={before}, now {now}; {ELSEWHERE}")
    (limit,), last = mine.limits, there.limits[-1]
    known = [task.num_documents for task in tasks if task.error is None]
    pairs = [(number_limited(total, last), number_limited(total, limit)) for total in known]
    if any(now < before for before, now in pairs):
        before, now = ("all" if one is None else f"{one:g}" for one in (last, limit))
        raise ArgumentError(f"{folder}: holds cells decided with limit={before}, now {now}: fewer; {ELSEWHERE}")
    grown = any(now > before for before, now in pairs)
    return there.model_copy(update={"limits": [*there.limits, limit]}) if grown else there


def _is_used(folder: Path, process: str) -> bool:
    """Whether anything was computed there, or somebody else is at work."""
    if disk.plan_paths(folder) or any((folder / "importance").glob("*.json")):
        return True
    return _others(folder, process)


def _others(folder: Path, process: str) -> bool:
    """Whether another process is at work."""
    return any(name != process for name in claimed(folder, "process-"))


def _require_same_model(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    if before.get("identity") != VERSION:
        raise ArgumentError(
            f"{folder}: written by a release that told models apart in another way (identity "
            f"{json_line(before.get('identity', 1))}, now {VERSION}); leaderboard and export still read it; {ELSEWHERE}"
        )
    for key in dict.fromkeys([*after, *before]):
        there, now = before.get(key), after.get(key)
        if there != now:
            raise ArgumentError(
                f"{folder}: holds cells of another model or setup ({key} {json_line(there)}, now {json_line(now)}); "
                f"{ELSEWHERE}"
            )


def _require_same_tasks(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    for name, identity in after.items():
        there = before.get(name, identity)
        if changed := [key for key in identity if there.get(key) != identity[key]]:
            raise PruneError(f"{folder}: the task {name} has changed ({', '.join(changed)}) since; {ELSEWHERE}")
