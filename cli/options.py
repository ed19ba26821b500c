"""Options that several commands share, spelled as the harness spells them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from lm_eval_prune.errors import ArgumentError

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedOPT

__all__ = [
    "TASKS",
    "arguments_of",
    "device",
    "fraction_or_count",
    "load_pruned_opt",
    "model_args",
    "model_asked_for",
    "shots",
]

model_args = click.option(
    "--model_args", "-a", default="", help="As for pruned-opt, such as pretrained=facebook/opt-125m,dtype=float32."
)
device = click.option("--device", help="cuda, cuda:0, cpu, mps. Default: what the harness picks.")


def TASKS(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:  # noqa: N802
    """Names from a comma-separated list."""
    return tuple(name.strip() for name in (value or "").split(",") if name.strip())


def shots(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int | None, ...]:
    """Numbers of shots from a comma-separated list; (None,) without one. Raises ArgumentError."""
    if value is None:
        return (None,)
    try:
        return tuple(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError:
        raise ArgumentError(f"num_fewshot={value}: expected whole numbers, such as 0,1,5") from None


def fraction_or_count(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A number above 0: whole from 1 on, a share below. Raises ArgumentError."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf or (number >= 1 and number != int(number)):
        raise ArgumentError(f"{parameter.name}={value}: expected a whole number, or a share below 1")
    return int(number) if number >= 1 else number


def arguments_of(model_args: str) -> dict[str, str]:
    """The names and values in NAME=VALUE,NAME=VALUE. Raises ArgumentError."""
    parts = [part for part in model_args.split(",") if part]
    if broken := [part for part in parts if "=" not in part]:
        raise ArgumentError(f"model_args: {broken[0]!r}; expected name=value, such as pretrained=facebook/opt-125m")
    return dict(part.split("=", 1) for part in parts)  # type: ignore[misc]


def model_asked_for(model_args: str) -> dict[str, Any]:
    """What files of the model of these arguments say of it, without loading it. Raises PruneError."""
    from lm_eval_prune.harness.model_record import record_of_arguments

    arguments_of(model_args)
    return record_of_arguments(model_args)


def load_pruned_opt(model_args: str, batch_size: int, device: str | None) -> PrunedOPT:
    """The harness model of these arguments. Raises PruneError."""
    from lm_eval_prune.harness.model import PrunedOPT

    given = arguments_of(model_args)
    settings = {"batch_size": batch_size, "device": device}
    for name, value in settings.items():
        if name in given and value is not None:
            raise ArgumentError(f"model_args: {name}: give it as --{name}")
    return PrunedOPT.create_from_arg_string(model_args, settings)
