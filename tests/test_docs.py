"""The documentation holds: links lead somewhere, and today's program takes the commands and the Python in it."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from docs_text import PAGES, ROOT, blocks, commands

from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import PruneError

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="the tests run outside a checkout")

SHELL = [block for page in PAGES for block in blocks(page, "sh", "bash")]
PYTHON = [block for page in PAGES for block in blocks(page, "python")]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def repository():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(r'^Repository = "(.+)"$', text, re.MULTILINE)[1]


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def require_target(page, target):
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    assert found.exists(), f"{page.name}: {target}"
    assert not anchor or anchor in anchors(found), f"{page.name}: {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(repository()):
            ours = target.removeprefix(repository()).removeprefix("/")
            kept = re.sub(r"^(blob|raw|tree)/main/", "", ours)
            assert not ours or kept != ours, target
            require_target(ROOT / "README.md", kept)
        elif not target.startswith(("http://", "https://")):
            assert page.name != "README.md", f"{target}: README is shown elsewhere too, such as on PyPI; absolute links"
            require_target(page, target)


def test_the_repository_has_one_address():
    """Whoever moves it changes it in three files."""
    assert f"repo_url: {repository()}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    owner = repository().rsplit("/", 2)[1]
    for page in PAGES:
        for found in re.findall(rf"https://[\w./-]*{owner}[\w./-]*", page.read_text(encoding="utf-8")):
            assert found.startswith(repository()), f"{page}: {found}"


def ours(words):
    """The arguments of one of our commands, however it is started; None for other programs."""
    name = Path(words[0]).name
    if name in ("lm-eval-prune", "lm_eval"):
        return name, words[1:]
    if "-m" in words and words[words.index("-m") + 1] in ("lm_eval_prune", "lm_eval"):
        at = words.index("-m")
        return {"lm_eval_prune": "lm-eval-prune", "lm_eval": "lm_eval"}[words[at + 1]], words[at + 2 :]
    return None


def require_accepted(arguments):
    """That a command of ours has the options that are given, and takes such values where it knows which there are."""
    command, context = cli, click.Context(cli, info_name="lm-eval-prune")
    while isinstance(command, click.Group) and arguments and arguments[0] in command.list_commands(context):
        command = command.get_command(context, arguments[0])
        context = click.Context(command, info_name=arguments[0], parent=context)
        arguments = arguments[1:]
    if context.ignore_unknown_options or command.context_settings.get("ignore_unknown_options"):
        require_taken_by_harness(arguments)
        return
    values, _, _ = command.make_parser(context).parse_args([word for word in arguments if not word.startswith("$")])
    for parameter in command.params:
        value = values.get(parameter.name)
        if isinstance(value, str) and "$" not in value and not isinstance(parameter.type, click.Path | click.File):
            parameter.type_cast_value(context, value)


def require_taken_by_harness(arguments):
    from lm_eval._cli import HarnessCLI

    given, sys.argv = sys.argv, ["lm_eval", *arguments]
    try:
        HarnessCLI().parse_args()
    finally:
        sys.argv = given


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_are_taken(block):
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True, timeout=30)
    for words in commands(block.text):
        if (found := ours(words)) is not None and "..." not in words:
            name, arguments = found
            try:
                (require_accepted if name == "lm-eval-prune" else require_taken_by_harness)(arguments)
            except (click.ClickException, PruneError, SystemExit) as error:
                pytest.fail(f"{block}: {' '.join(words)}: {getattr(error, 'message', error)}")
        elif words[0].endswith("python") and len(words) > 1 and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), f"{block}: {words[1]}"


def test_a_wrong_option_in_the_docs_is_noticed():
    found = list(commands("A=1 lm-eval-prune mask --prune_head 0.7 > x.log 2>&1 && lm_eval --task piqa; wait"))
    assert found == [["lm-eval-prune", "mask", "--prune_head", "0.7"], ["lm_eval", "--task", "piqa"], ["wait"]]
    with pytest.raises(click.NoSuchOption):
        require_accepted(found[0][1:])
    with pytest.raises((click.BadParameter, PruneError)):
        require_accepted(["importance", "--component", "head"])
    with pytest.raises(SystemExit):
        require_taken_by_harness(["--model", "hf", "--tusks", "piqa"])


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_is_python_and_its_imports_of_ours_are_there(block):
    fragment = re.match(r'"\w+": ', block.text)  # of a dictionary
    for node in ast.walk(ast.parse(f"{{{block.text}}}" if fragment else block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lm_eval_prune"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], str(block)


@functools.lru_cache(maxsize=1)
def messages():
    return list(texts())


def texts():
    """Every text in the sources, as a page quotes it: an ellipsis for what is filled in."""
    for path in [*(ROOT / "lm_eval_prune").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value.replace("{}", "…")


QUOTED = re.compile(r"\*\*`([^`]+)`\*\*")


def unknown(quotes):
    """Those of `quotes` that are no part of any message."""
    return [quote for quote in quotes if not any(quote.strip() in message for message in messages())]


def test_quoted_errors_are_the_programs_own():
    quotes = QUOTED.findall((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))
    assert len(quotes) > 30
    assert not unknown(quotes)


def test_an_error_that_is_not_the_programs_is_noticed():
    wrong = ["device=…: torch finds no … device there", "pruned_heads: layer 3 is repeated", "Errors and their cures"]
    assert unknown([*wrong, "pruned_heads: layer … is repeated"]) == wrong
