"""Options that several commands share, spelled as the harness spells them."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.limits import SPLITS, checked_limit
from lm_eval_prune.model_args import parse_model_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lm_eval_prune.harness.model import PrunedModel

__all__ = [
    "Choice",
    "WordsCommand",
    "WordsGroup",
    "batch_size",
    "device",
    "echo_files",
    "include_path",
    "limit",
    "load_model_of",
    "mapping",
    "metadata",
    "model_args",
    "names",
    "num_fewshot",
    "output_folder",
    "overwrite",
    "seed",
    "several",
    "shots",
    "split",
    "tasks",
]


class Words(click.Option):
    """An option of several words, as the harness has them: `--tasks piqa copa`, `--tasks piqa,copa`, or given twice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "multiple": True})


class WordsCommand(click.Command):
    """Gives a `Words` option the words behind it, up to the next option, as the harness's commands do.

    Where the command itself takes words (`leaderboard DIR...`, `plan MODEL`), those that exist on disk or hold a path's
    separator stay its own, and so does the last one where it has got none.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [parameter for parameter in self.params if isinstance(parameter, click.Option)]
        greedy = {name for option in options if isinstance(option, Words) for name in option.opts}
        takes_words = len(options) < len(self.params)
        spread, last = _spread(args, greedy, takes_words)
        if takes_words and last is not None:
            _, own, _ = click.Command(None, params=[*options]).make_parser(ctx).parse_args(list(spread))
            if not own:
                del spread[last]
        return super().parse_args(ctx, spread)


class WordsGroup(WordsCommand, click.Group):
    """The same of a group that does something by itself."""


def _spread(args: list[str], options: set[str], takes_words: bool) -> tuple[list[str], int | None]:
    """`--tasks a b` as `--tasks a --tasks b`; and the place of the last `--tasks` that was put in, if any."""
    spread: list[str] = []
    last, option = None, ""
    for number, word in enumerate(args):
        if word == "--":
            return [*spread, *args[number:]], last
        if word.startswith("-"):
            option = word if word in options else ""
        elif option and spread[-1] != option and not (takes_words and _is_path(word)):
            last = len(spread)
            spread.append(option)
        spread.append(word)
    return spread, last


def _is_path(word: str) -> bool:
    try:
        return os.sep in word or Path(word).exists()
    except (OSError, ValueError):  # no file system takes the name, as one of 5,000 letters
        return False


def names(ctx: click.Context, parameter: click.Parameter, value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The names in words, each a comma-separated list."""
    words = (value,) if isinstance(value, str) else value or ()
    return tuple(name.strip() for word in words for name in word.split(",") if name.strip())


def several(*names: str, metavar: str, text: str, callback: Callable[..., Any] | None = None) -> Callable[[Any], Any]:
    """An option of several values, in the forms that `Words` takes; as they are, one comma-separated text."""
    return click.option(*names, cls=Words, callback=callback or _listed, metavar=metavar, help=text)


def _listed(ctx: click.Context, parameter: click.Parameter, value: str | tuple[str, ...] | None) -> str | None:
    """Words and comma-separated lists as one comma-separated list; None where there are none."""
    return ",".join(names(ctx, parameter, value)) or None if value else None


class Choice(click.Choice[str]):
    """One of some names. Raises ArgumentError for another one, with the closest of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            known = [str(choice) for choice in self.choices]
            near = difflib.get_close_matches(str(value).lower(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            name = param.name if param is not None else "value"
            raise ArgumentError(f"{name}={value}: expected one of {', '.join(known)}{hint}") from None


def tasks(text: str = "Harness tasks, groups or tags.") -> Callable[[Any], Any]:
    """The option `--tasks`."""
    return click.option("--tasks", "-t", cls=Words, callback=names, metavar="TASK...", help=text)


def _arguments(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, Any] | None:
    return parse_model_args(value) if value else None


def model_args(
    text: str = "As for pruned-hf, such as pretrained=facebook/opt-125m,dtype=float32.",
) -> Callable[[Any], Any]:
    """The option `--model_args`: a mapping, or None where it is not given. Raises ArgumentError."""
    return click.option("--model_args", "-a", cls=Words, callback=_arguments, metavar="NAME=VALUE,...", help=text)


def _mapping(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, Any] | None:
    try:
        return parse_model_args(value) if value else None
    except ArgumentError as error:
        raise ArgumentError(str(error).replace("model_args", str(parameter.name), 1)) from None


def mapping(name: str, text: str) -> Callable[[Any], Any]:
    """An option of names and values, in all forms of `--model_args`."""
    return click.option(name, cls=Words, callback=_mapping, metavar="NAME=VALUE,...", help=text)


metadata = mapping(
    "--metadata", "What tasks' functions are handed beside the model's arguments, as by lm_eval; JSON too."
)
batch_size = click.option("--batch_size", "-b", type=int, default=8, show_default=True)
device = click.option("--device", help="cuda, cuda:0, cpu, mps. Default: what the harness picks.")
include_path = click.option("--include_path", help="Folder with further task definitions.")
overwrite = click.option("--overwrite", is_flag=True, help="Compute finished files again.")
split = click.option("--split", type=Choice(SPLITS), help="Default: training, or validation where there is none.")


def seed(text: str) -> Callable[[Any], Any]:
    """The option `--seed`, in the range that every generator takes."""
    kind = click.IntRange(0, 2**63 - 1)
    return click.option("--seed", type=kind, default=1234, show_default=True, help=text)


def output_folder(text: str, default: str | None = None, *, required: bool = False) -> Callable[[Any], Any]:
    """The option `--output_path` of a command that writes several files."""
    return click.option(
        "--output_path",
        "-o",
        type=click.Path(file_okay=False, path_type=Path),
        default=default,
        show_default=default is not None,
        required=required,
        help=text,
    )


def num_fewshot(
    text: str = "Numbers of shots, such as 0,1,5. Default: the task's own.",
    *,
    metavar: str = "SHOTS...",
    callback: Callable[..., Any] | None = None,
) -> Callable[[Any], Any]:
    """The option `--num_fewshot`: one comma-separated text, or with the callback `shots` numbers."""
    return several("--num_fewshot", "-f", metavar=metavar, text=text, callback=callback)


def shots(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...] | None) -> tuple[int | None, ...]:
    """Numbers of shots from words and comma-separated lists; (None,) without any. Raises ArgumentError."""
    if not value:
        return (None,)
    text = ",".join(value)
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ArgumentError(f"num_fewshot={text}: expected whole numbers, such as 0,1,5") from None


def limit(
    *names: str, text: str = "Documents a task, or their share below 1.", **settings: Any
) -> Callable[[Any], Any]:
    """An option of documents, by default `--limit`: a whole number, or a share below 1. Raises ArgumentError."""
    names = names or ("--limit", "-L")
    return click.option(*names, callback=_limit, metavar="DOCUMENTS", help=text, **settings)


def _limit(ctx: click.Context, parameter: click.Parameter, value: Any) -> float | None:
    return checked_limit(value, str(parameter.name))


def load_model_of(arguments: dict[str, Any], batch_size: int, device: str | None) -> PrunedModel:
    """The harness model of these arguments. Raises PruneError."""
    from lm_eval_prune.harness.model import PrunedModel

    settings = {"batch_size": batch_size, "device": device}
    for name, value in settings.items():
        if name in arguments and value is not None:
            raise ArgumentError(f"model_args: {name}: give it as --{name}")
    return PrunedModel.create_from_arg_obj(arguments | {n: v for n, v in settings.items() if v is not None})


def echo_files(files: Iterable[tuple[Path, bool]]) -> None:
    """A line for each file when it is there, and whether it was before: (path, whether it was computed now)."""
    for path, computed in files:
        click.echo(f"{path}" if computed else f"{path} (there already)")
