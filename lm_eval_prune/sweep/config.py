"""What a sweep computes: settings, from flags or a YAML file, checked once."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from lm_eval_prune.errors import ArgumentError, FileFormatError, FractionError
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.limits import checked_limit
from lm_eval_prune.model_args import model_args_text, parse_model_args
from lm_eval_prune.strict_yaml import read_yaml
from lm_eval_prune.sweep.ranking import OF_HEADS, of_layers, parse_ranking
from lm_eval_prune.variants import LARGEST

__all__ = ["READY", "READY_FOLDER", "SweepConfig", "common_settings", "load_configs"]


PLACES = {
    "output_path", "batch_size", "device", "masks_at_once", "include_path", "include_defaults",
    "executor", "ray_address", "num_workers", "num_gpus", "num_cpus", "wandb_args", "trackio_args",
}  # fmt: skip
"""Settings that say where and how fast, not what."""


READY_FOLDER = Path(__file__).with_name("configs")
READY = ("bundled", "opt-66b")
"""Grids that come with the package: the study's in small for the bundled model, and the paper's own."""
MOST_ROWS = 100_000
"""Of a grid: each is a few kilobytes of plan, and at least seconds of work."""
SPLIT = {"part", "development_share", "split_seed"}
GRID = ("ranking", "prune_heads", "prune_ffns", "prune_layers")
"""Settings in which the grids of one folder that are computed together may differ."""
MOST_GRIDS = 100
"""In one file."""
Seed = Annotated[int, Field(ge=0, le=LARGEST)]


class SweepConfig(BaseModel):
    """A grid: rankings x fractions x tasks x shots x few-shot draws. Raises pydantic's ValidationError."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_path: Path
    """The sweep's folder."""
    model_args: str = ""
    """As for `pruned-hf`; without `pretrained` the bundled model. Masks come from the grid, not from here."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Harness tasks, groups or tags."""
    num_fewshot: tuple[Annotated[int, Field(ge=0, le=10_000)] | None, ...] = Field((None,), min_length=1)
    """None is the number that the task or its group fixes, or 0."""
    prune_heads: tuple[str, ...] = Field(("0",), min_length=1)
    """Shares of all heads, exact decimals."""
    prune_ffns: tuple[str, ...] = Field(("0",), min_length=1)
    """Shares of all FFNs; every share of heads is combined with every one of these."""
    prune_layers: tuple[str, ...] = Field(("0",), min_length=1)
    """Shares of all layers, of which all heads and the FFN go; for rankings that begin with `layer:` alone."""
    ranking: tuple[str, ...] = Field(("own",), min_length=1)
    """`own`, `aggregate`, `aggregate:SHOTS`, `aggregate:TASK+TASK@SHOTS`, `task:NAME`, `task:closest`, `task:farthest`,
    `induction`, `function_vector@SHOTS`, `random:SEEDS`, FILE, or HEADS_FILE+FFNS_FILE; `most:` before it turns the
    order round; `most-without:induction:SHARE@SHOTS`, `most-without:function_vector:SHARE@SHOTS`;
    `block_influence`; `kv_group:` and `attention:` rank and prune the heads that share a key/value head, or all those
    of a layer, together; `layer:block_influence`, `layer:random:SEEDS`, `layer:FILE` whole layers."""
    masks: tuple[str, ...] = ()
    """Mask files: a row each, beside those of rankings and shares."""
    part: Literal["all", "development", "test"] = "all"
    """Of each task's documents: what is chosen by the one part is judged on the other, and they never meet."""
    development_share: str = "0.5"
    """Of the documents, about; passages stay whole."""
    split_seed: Annotated[int, Field(ge=0, le=LARGEST)] = 1234
    """Of the hash that decides a document's part."""
    fewshot_seeds: tuple[Seed, ...] = Field((1234,), min_length=1)
    limit: float | None = None
    """Documents a task, or their share below 1."""
    decide: Literal["walk", "halving", "rows"] | None = None
    """Documents are taken in batches, for as long as it takes to answer a question: `walk`, how far each ranking can
    go, from its smallest share on; `halving`, the same from the share in the middle; `rows`, every row against dense.
    None: all documents."""
    margin: float = Field(0.01, gt=0, lt=1)
    """The loss that is still acceptable, where it is decided."""
    seed: int = Field(1234, ge=0, lt=2**32)
    """Of importance's few-shot draws, NumPy and torch."""
    importance_limit: float | None = 200
    """Documents a task that importance is computed from."""
    importance_split: Literal["training", "validation", "test"] | None = None
    head_method: str = "gradient"
    ffn_method: str = "knockout"
    ablation: Literal["zero", "mean"] = "zero"
    """What is in the place of what is pruned: nothing, or each task's own mean outputs."""
    knockout_metric: str | None = None
    """A metric of the tasks, or `loss`; None is `acc`, or `em` without it."""
    batch_size: Annotated[int, Field(ge=1, le=10**6)] | Literal["auto"] = 8
    device: str | None = None
    include_path: str | None = None
    include_defaults: bool = True
    """Whether the harness's own tasks are looked for too; reading them all takes seconds."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """What tasks' functions are handed beside the model's arguments, as `lm_eval --metadata`."""
    bootstrap_iters: int = Field(100_000, ge=0, le=10**8)
    masks_at_once: int = Field(4, ge=1, le=10**4)
    """Masks that are scored together, and lost together when the process dies."""
    executor: Literal["local", "ray"] = "local"
    """Where cells are computed: this process (with those of `accelerate launch`), or workers on a Ray cluster."""
    ray_address: str = "auto"
    """The cluster's address; auto is the one of this machine."""
    num_workers: int | None = Field(None, ge=1, le=10**5)
    """Workers on Ray; without, as many as the cluster's GPUs hold, or one a node where there are none."""
    num_gpus: float | None = Field(None, ge=0, le=10**5)
    """GPUs a worker on Ray; without, 1 where the cluster has any."""
    num_cpus: float = Field(1, ge=0, le=10**5)
    """CPUs a worker on Ray."""
    wandb_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `wandb.init`, such as `{"project": "pruning"}`: every cell that is computed becomes a run there."""
    trackio_args: dict[str, Any] = Field(default_factory=dict)
    """The same of `trackio.init`."""

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """No true or false where a number stands, and no NUL, which no path or name has."""
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, bool) and info.field_name != "include_defaults":
                raise ValueError("true and false are no values of it")
            if isinstance(part, bytes):
                raise ValueError("expected a text")
            if isinstance(part, str | Path) and "\0" in str(part):
                raise ValueError("holds the character NUL")
        return value

    @field_validator(
        "tasks",
        "num_fewshot",
        "prune_heads",
        "prune_ffns",
        "prune_layers",
        "ranking",
        "masks",
        "fewshot_seeds",
        mode="before",
    )
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

    @field_validator("metadata", "wandb_args", "trackio_args", mode="before")
    @classmethod
    def _as_mapping(cls, value: Any) -> Any:
        """Text and lists of words, as on a command line, too. Raises ValueError for what JSON does not have."""
        try:
            found = parse_model_args(value)
            json.dumps(found, allow_nan=False)
        except ArgumentError as error:
            raise ValueError(str(error).removeprefix("model_args: ")) from None
        except (TypeError, ValueError, RecursionError):
            raise ValueError("expected texts, numbers, lists and mappings, as JSON has them") from None
        return found

    @field_validator("limit", "importance_limit", mode="before")
    @classmethod
    def _whole_or_share(cls, value: Any) -> Any:
        try:
            return checked_limit(value)
        except ArgumentError as error:
            raise ValueError(str(error).partition(": ")[2]) from None

    @field_validator("prune_heads", "prune_ffns", "prune_layers", mode="before")
    @classmethod
    def _decimals(cls, value: Any) -> list[str]:
        parts = cls._listed(value)
        try:
            return [_decimal(part) for part in parts]
        except FractionError as error:
            raise ValueError(str(error)) from None

    @field_validator("development_share")
    @classmethod
    def _between(cls, value: str) -> str:
        try:
            share = parse_fraction(value, "development_share")
        except FractionError as error:
            raise ValueError(str(error)) from None
        if not 0 < share < 1:
            raise ValueError("expected a share between 0 and 1, such as 0.5")
        return value

    @field_validator("head_method", "ffn_method")
    @classmethod
    def _method(cls, value: str, info: ValidationInfo) -> str:
        from lm_eval_prune.importance.methods import method_for  # imports torch

        try:
            method_for("heads" if info.field_name == "head_method" else "ffns", value)
        except ArgumentError as error:
            raise ValueError(str(error).removeprefix(f"method {value!r}: ")) from None
        return value

    @field_validator("ranking")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                parse_ranking(text)
            except ArgumentError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _bounded(self) -> SweepConfig:
        require_rows(self, len(self.tasks))
        if self.decide is not None and self.part != "all":
            raise ArgumentError(
                f"decide={self.decide} and part={self.part} exclude one another; leave one of the two out"
            )
        layers = [text for text in self.ranking if of_layers(text)]
        if bool(layers) != any(share != "0" for share in self.prune_layers):
            given = f"ranking {layers[0]}: give prune_layers" if layers else "prune_layers: give a ranking"
            raise ArgumentError(f"{given}, such as layer:block_influence with prune_layers 0.25")
        alone = next((text for text in self.ranking if parse_ranking(text).method in OF_HEADS), None)
        if alone is not None and any(share != "0" for share in self.prune_ffns):
            raise ArgumentError(
                f"ranking {alone}: ranks heads, but prune_ffns is {', '.join(self.prune_ffns)}; expected 0"
            )
        return self

    @property
    def pruned(self) -> list[tuple[str, tuple[str, str]]]:
        """Each ranking with each pair of shares, of heads and of FFNs, that it prunes; of layers both are the same."""
        pairs = list(itertools.product(self.prune_heads, self.prune_ffns))
        whole = [(share, share) for share in self.prune_layers]
        return [
            (text, pair)
            for text in self.ranking
            for pair in (whole if of_layers(text) else pairs)
            if pair != ("0", "0")
        ]

    def grid(self) -> dict[str, Any]:
        """What decides the cells, as JSON values: all but where and how fast they are computed."""
        left_out = PLACES | ({"ablation"} if self.ablation == "zero" else set())
        left_out |= {"prune_layers"} if self.prune_layers == ("0",) else set()
        left_out |= {"decide", "margin"} if self.decide is None else set()
        left_out |= SPLIT if self.part == "all" else set()  # so that older plans are the same
        left_out |= set() if self.masks else {"masks"}
        return self.model_dump(mode="json", exclude=left_out)


def require_rows(config: SweepConfig, num_tasks: int) -> None:
    """Raise ArgumentError for a grid of more rows than anybody computes."""
    shares = len(set(config.prune_heads)) * len(set(config.prune_ffns))
    layers = len(set(config.prune_layers))
    variants = 1 + sum(
        max(1, len(parse_ranking(text).seeds)) * (layers if of_layers(text) else shares) for text in config.ranking
    )
    variants += len(config.masks)
    rows = num_tasks * len(set(config.num_fewshot)) * len(set(config.fewshot_seeds)) * variants
    if rows > MOST_ROWS:
        raise ArgumentError(f"a grid of {rows:,} rows (tasks x shots x draws x masks); expected at most {MOST_ROWS:,}")


def load_configs(path: Path | str, **changes: Any) -> list[SweepConfig]:
    """The settings in the YAML file, with `changes` over them: one for each of its `grids`, or the only one.

    `grids` is a list of mappings with some of GRID; all else is theirs in common. `path` may also name ready grids that
    come with the package (`READY`): `bundled`, `opt-66b`. Raises PruneError that names the line and the key.
    """
    path = _ready(Path(path))
    content, lines = read_yaml(path)
    places = {key: f"{path}, line {line}: " for key, line in lines.items()} | dict.fromkeys(changes, "")
    grids = _grids(content.pop("grids"), places["grids"]) if "grids" in content else [{}]
    made: list[SweepConfig] = []
    for grid in grids:
        own = places | dict.fromkeys(grid.keys() - changes.keys(), f"{places.get('grids', '')}grids: ")
        found = make_config({**content, **grid, **changes}, lambda key, own=own: own.get(key, f"{path}: "))  # type: ignore[misc]
        made += [found] if found not in made else []
    return made


def _grids(given: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_GRIDS:
        raise ArgumentError(f"{place}grids: expected a list of 1 to {MOST_GRIDS} mappings of {', '.join(GRID)}")
    for number, grid in enumerate(given, start=1):
        if not isinstance(grid, dict) or not grid or not set(grid) <= set(GRID):
            keys = ", ".join(map(str, grid))[:60] if isinstance(grid, dict) and grid else _shown(grid)
            raise ArgumentError(f"{place}grids: {keys} in number {number}; expected a mapping of {', '.join(GRID)}")
    return given


def common_settings(configs: Sequence[SweepConfig]) -> SweepConfig:
    """The first of several grids in one folder, which speaks for all but its grid. Raises ArgumentError."""
    first, *others = configs
    for other in others:
        for name in SweepConfig.model_fields.keys() - set(GRID):
            if (there := getattr(other, name)) != getattr(first, name):
                raise ArgumentError(f"{name}: {there} in one sweep, {getattr(first, name)} in another of one folder")
    return first


def _ready(path: Path) -> Path:
    """The file of a ready grid where `path` is its name, and no file. Raises FileFormatError where it is neither."""
    if str(path) in READY and not path.is_file():
        return READY_FOLDER / f"{path}.yaml"
    if path.parent == Path() and not path.suffix and not os.path.lexists(path):
        raise FileFormatError(f"{path}: no such file, nor one of the ready settings: {', '.join(READY)}")
    return path


def make_config(settings: dict[str, Any], place: Callable[[str], str] = lambda key: "") -> SweepConfig:
    """SweepConfig, its errors as one line each that names the setting behind where it stands, its `place`."""
    try:
        return SweepConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        if not key:  # what holds of several together
            raise ArgumentError(f"{place(key)}{message}") from None
        if first["type"] == "missing":
            message = f"missing; give --{key}, or {key}: in the settings file"
        elif first["type"] == "extra_forbidden":
            message += f"; known are {', '.join(SweepConfig.model_fields)}"
        else:
            message += f" (given {_shown(first['input'])})"
        raise ArgumentError(f"{place(key)}{key}: {message}") from None


def _shown(value: Any) -> str:
    """The value on one short line."""
    try:
        line = repr(value)
    except ValueError:  # a number of more digits than Python writes
        line = f"a number of {value.bit_length():,} bits" if isinstance(value, int) else "too long to show"
    return line if len(line) <= 60 else f"{line[:57]}..."


def _decimal(value: Any) -> str:
    """A share as its shortest decimal, so that 0.10 and 0.1 are one. Raises FractionError."""
    share = parse_fraction(value, "share")
    number = Decimal(share.numerator) / share.denominator
    if Fraction(number) != share:  # a third from Python, or more digits than Decimal computes with
        raise FractionError(f"share={value}: expected a decimal of at most 28 digits, such as 0.3333")
    return f"{number:f}"
