"""What a sweep computes: settings, from flags or a YAML file, checked once."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lm_eval_prune.errors import ArgumentError, FileFormatError, FractionError
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.model_args import model_args_text, parse_model_args

__all__ = ["Ranking", "SweepConfig", "load_config", "parse_ranking"]


PLACES = {
    "output_path", "batch_size", "device", "masks_at_once", "include_path", "include_defaults",
    "executor", "ray_address", "num_workers", "num_gpus", "num_cpus",
}  # fmt: skip
"""Settings that say where and how fast, not what."""


class SweepConfig(BaseModel):
    """A grid: rankings x fractions x tasks x shots x few-shot draws. Raises pydantic's ValidationError."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_path: Path
    """The sweep's folder."""
    model_args: str = ""
    """As for `pruned-opt`; without `pretrained` the bundled model. Masks come from the grid, not from here."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Harness tasks, groups or tags."""
    num_fewshot: tuple[Annotated[int, Field(ge=0)] | None, ...] = Field((None,), min_length=1)
    """None is the number that the task or its group fixes, or 0."""
    prune_heads: tuple[str, ...] = Field(("0",), min_length=1)
    """Shares of all heads, exact decimals."""
    prune_ffns: tuple[str, ...] = Field(("0",), min_length=1)
    """Shares of all FFNs; every share of heads is combined with every one of these."""
    ranking: tuple[str, ...] = Field(("own",), min_length=1)
    """`own`, `aggregate`, `task:NAME`, `random:SEEDS`, FILE, or HEADS_FILE+FFNS_FILE; `most:` turns the order round."""
    fewshot_seeds: tuple[int, ...] = Field((1234,), min_length=1)
    limit: float | None = Field(None, gt=0)
    """Documents a task, or their share below 1."""
    seed: int = 1234
    """Of importance's few-shot draws, NumPy and torch."""
    importance_limit: float | None = Field(200, gt=0)
    """Documents a task that importance is computed from."""
    importance_split: Literal["training", "validation", "test"] | None = None
    head_method: str = "gradient"
    ffn_method: str = "knockout"
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 8
    device: str | None = None
    include_path: str | None = None
    include_defaults: bool = True
    """Whether the harness's own tasks are looked for too; reading them all takes seconds."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """What tasks' functions are handed beside the model's arguments, as `lm_eval --metadata`."""
    bootstrap_iters: int = Field(100_000, ge=0)
    masks_at_once: int = Field(4, ge=1)
    """Masks that are scored together, and lost together when the process dies."""
    executor: Literal["local", "ray"] = "local"
    """Where cells are computed: this process (with those of `accelerate launch`), or workers on a Ray cluster."""
    ray_address: str = "auto"
    """The cluster's address; auto is the one of this machine."""
    num_workers: int | None = Field(None, ge=1)
    """Workers on Ray; without, as many as the cluster's GPUs hold, or one a node where there are none."""
    num_gpus: float | None = Field(None, ge=0)
    """GPUs a worker on Ray; without, 1 where the cluster has any."""
    num_cpus: float = Field(1, ge=0)
    """CPUs a worker on Ray."""

    @field_validator("tasks", "num_fewshot", "prune_heads", "prune_ffns", "ranking", "fewshot_seeds", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A single value stands for a list of one; a text for its parts between commas."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value if isinstance(value, list | tuple) else [value]

    @field_validator("model_args", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """A mapping or a list, as YAML has them, as one text."""
        try:
            arguments = parse_model_args(value)
        except ArgumentError as error:
            raise ValueError(str(error).removeprefix("model_args: ")) from None
        return value if isinstance(value, str) else model_args_text(arguments)

    @field_validator("limit", "importance_limit")
    @classmethod
    def _whole_or_share(cls, value: float | None) -> float | None:
        if value is not None and not (value < 1 or value.is_integer()):
            raise ValueError("expected a whole number, or a share below 1")
        return value

    @field_validator("prune_heads", "prune_ffns", mode="before")
    @classmethod
    def _decimals(cls, value: Any) -> list[str]:
        parts = cls._listed(value)
        try:
            return [_decimal(part) for part in parts]
        except FractionError as error:
            raise ValueError(str(error)) from None

    @field_validator("ranking")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                parse_ranking(text)
            except ArgumentError as error:
                raise ValueError(str(error)) from None
        return value

    def grid(self) -> dict[str, Any]:
        """What decides the cells, as JSON values: all but where and how fast they are computed."""
        return self.model_dump(mode="json", exclude=PLACES)


class Ranking(BaseModel):
    """One entry of `SweepConfig.ranking`."""

    model_config = ConfigDict(frozen=True)

    text: str
    kind: Literal["own", "aggregate", "task", "random", "files"]
    order: Literal["least", "most"] = "least"
    task: str | None = None
    seeds: tuple[int, ...] = ()
    files: tuple[str, ...] = ()


def parse_ranking(text: str) -> Ranking:
    """The ranking that `text` describes. Raises ArgumentError."""
    rest = text.removeprefix("most:")
    order: Any = "most" if rest != text else "least"
    kind, _, argument = rest.partition(":")
    if rest in ("own", "aggregate"):
        return Ranking(text=text, kind=rest, order=order)  # type: ignore[arg-type]
    if kind == "task" and argument:
        return Ranking(text=text, kind="task", order=order, task=argument)
    if kind == "random" and order == "least":
        try:
            seeds = tuple(int(part) for part in argument.replace("+", " ").replace(",", " ").split())
        except ValueError:
            seeds = ()
        if seeds:
            return Ranking(text=text, kind="random", seeds=seeds)
    files = tuple(rest.split("+"))
    if all(file.endswith(".json") for file in files) and len(files) <= 2:
        return Ranking(text=text, kind="files", order=order, files=files)
    raise ArgumentError(
        f"ranking {text!r}: expected own, aggregate, task:NAME, random:0+1+2 (seeds), or an importance file (two with "
        "+ between: heads' and FFNs'), with most: before it for the most important first"
    )


def load_config(path: Path, **changes: Any) -> SweepConfig:
    """The settings in the YAML file, with `changes` over them. Raises PruneError that names the line and the key."""
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) or {}
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FileFormatError(f"{path}: not a text file; expected YAML") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise FileFormatError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise FileFormatError(f"{path}: expected settings, such as tasks: [piqa]")
    lines = _lines(path, text)
    places = {key: f"{path}, line {line}: " for key, line in lines.items()} | dict.fromkeys(changes, "")
    return make_config({**content, **changes}, lambda key: places.get(key, f"{path}: "))


def make_config(settings: dict[str, Any], place: Callable[[str], str] = lambda key: "") -> SweepConfig:
    """SweepConfig, its errors as one line each that names the setting behind where it stands, its `place`."""
    try:
        return SweepConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "missing":
            message = f"missing; give --{key}, or {key}: in the settings file"
        elif first["type"] == "extra_forbidden":
            message += f"; known are {', '.join(SweepConfig.model_fields)}"
        else:
            message += f" (given {first['input']!r})"
        raise ArgumentError(f"{place(key)}{key}: {message}") from None


def _lines(path: Path, text: str) -> dict[str, int]:
    """The line of each setting. Raises FileFormatError for one that is there twice."""
    lines: dict[str, int] = {}
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, _ in node.value if node is not None else ():
        line = key.start_mark.line + 1
        if key.value in lines:
            raise FileFormatError(f"{path}, line {line}: {key.value}: stands in line {lines[key.value]} already")
        lines[key.value] = line
    return lines


def _decimal(value: Any) -> str:
    """A share as its shortest decimal, so that 0.10 and 0.1 are one. Raises FractionError."""
    share = parse_fraction(value, "share")
    number = Decimal(share.numerator) / share.denominator
    if Fraction(number) != share:  # a third from Python, or more digits than Decimal computes with
        raise FractionError(f"share={value}: expected a decimal of at most 28 digits, such as 0.3333")
    return f"{number:f}"
