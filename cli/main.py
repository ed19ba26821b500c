"""`lm-eval-prune`: subcommands, loaded when they are called, and errors as one line."""

from __future__ import annotations

import errno
import importlib.util
import sys

import click

from lm_eval_prune.errors import PruneError
from lm_eval_prune.text import printable, replace_what_does_not_fit
from lm_eval_prune.version import __version__

COMMANDS = {
    "demo": "The whole study on the bundled model, offline, in a minute.",
    "run": "Evaluate a pruned model: every option of `lm_eval run`.",
    "importance": "Score every attention head or FFN on harness tasks.",
    "aggregate": "Average importance over tasks.",
    "mask": "Choose what to prune: a mask from importance files, or at random.",
    "induction": "Prefix-matching and copying scores of every head.",
    "sweep": "Every cell of a grid of masks, tasks and shots; resumes.",
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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lm-eval-prune")
def cli() -> None:
    """Which attention heads and FFNs does in-context learning need?

    A plugin of lm-evaluation-harness: the models `pruned-hf` and `pruned-opt`, and the study around them (Bansal et
    al. 2023).
    """


REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE)
"""What a file system says that will not give a file: the user's affair, and no fault of ours."""


def main() -> None:
    """Run the command: an error raised on purpose is one line on stderr and exit code 2; Ctrl-C is exit code 130."""
    replace_what_does_not_fit(sys.stdout, sys.stderr)
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
        click.echo("stopped", err=True)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _missing_package(error: BaseException) -> str | None:
    """What to install, where a package of other people's is not there: an installation that only reads results."""
    name = str(error.name).partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name in ("", "lm_eval_prune") or importlib.util.find_spec(name) is not None:
        return None  # a broken installation, whose traceback says more
    return f"this command needs the package {name}, which is not installed: pip install lm-eval-prune"


def _was_interrupted(error: BaseException) -> bool:
    """Whether it is Ctrl-C, or what came of Ctrl-C in the middle of an import."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, KeyboardInterrupt | click.Abort):
            return True
        found = found.__cause__ or found.__context__
    return False
