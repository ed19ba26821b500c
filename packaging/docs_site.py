"""Hooks of mkdocs: what the pages of docs/ need to be a site.

*Links out of docs/.* In the repository `../benchmarks/x.json` is right as it stands; on the site, where there is
nothing beside the pages, it becomes the address of that file. A link to a file that is not there is a warning, which
`mkdocs build --strict` turns into a failure.

*Commands.* Where a page says `<!-- help of every command -->`, it gets what `--help` prints.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lm_eval_prune.cli.main import cli

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

logger = logging.getLogger("mkdocs.hooks")
LINK = re.compile(r"\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")
HELP = "<!-- help of every command -->"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's text, with its links out of docs/ made absolute and the commands' help filled in."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def absolute(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        if target.startswith("docs/"):
            return found[0]
        if not (Path(config.config_file_path).parent / target).exists():
            logger.warning("%s links to %s, which is not in the repository", page.file.src_uri, target)
        return f"]({str(config.repo_url).rstrip('/')}/blob/main/{target}{found[2] or ''})"

    return LINK.sub(absolute, markdown).replace(HELP, "\n\n".join(_help(cli, "lm-eval-prune", None)))


def _help(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    """A section a command, and after a group's its commands'."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=110)
    asks_harness = context.ignore_unknown_options  # `run` hands its arguments on, and the harness prints the help
    text = "Every option of `lm_eval run`." if asks_harness else f"```text\n{command.get_help(context)}\n```"
    yield f"## {context.command_path}\n\n{text}"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _help(found, child, context)
