"""Options of several words, in every form that the harness's own commands take."""

import ast
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import lm_eval_prune
from lm_eval_prune.cli.main import cli
from lm_eval_prune.cli.options import Words, WordsCommand, WordsGroup, model_args, names, tasks


def parsed(*arguments, argument=None, cls=WordsCommand):
    """What a command with these options gets: --model_args, --tasks, --limit and, where asked for, words of its own."""
    found = {}
    extra = [click.Argument(["paths"], nargs=-1, required=True)] if argument == "many" else []
    extra += [click.Argument(["paths"])] if argument == "one" else []
    keep = found.update
    command = cls("x", callback=lambda **values: keep(values), params=[*extra, click.Option(["--limit", "-L"])])
    for option in (tasks("t"), model_args("m")):
        option(command.callback)
    command.params += command.callback.__click_params__
    if cls is WordsGroup:
        command.invoke_without_command = True
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    if done.exception:
        raise done.exception
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["--tasks", "a,b,c"],
        ["--tasks", "a", "b", "c"],
        ["--tasks", "a, b", "c"],
        ["--tasks", "a", "--tasks", "b", "c"],
        ["--tasks=a,b", "--tasks", "c"],
    ],
)
@pytest.mark.parametrize("cls", [WordsCommand, WordsGroup])
def test_tasks_with_commas_with_spaces_and_twice_are_one(words, cls):
    for place in (["--limit", "4", *words], [*words, "-L", "4"], [*words, "--limit=4"]):
        found = parsed(*place, cls=cls)
        assert found["tasks"] == ("a", "b", "c")
        assert found["limit"] == "4"


@pytest.mark.parametrize(
    "words",
    [
        ["--model_args", "pretrained=x,dtype=float32"],
        ["-a", "pretrained=x", "dtype=float32"],
        ["--model_args", '{"pretrained": "x", "dtype": "float32"}'],
        ["--model_args", "pretrained=y", "-a", "pretrained=x", "dtype=float32"],
    ],
)
def test_model_args_as_text_as_words_and_as_json_are_one(words):
    assert parsed(*words)["model_args"] == {"pretrained": "x", "dtype": "float32"}
    assert parsed()["model_args"] is None


@pytest.mark.parametrize(
    ("words", "paths", "chosen"),
    [
        (["here", "--tasks", "a", "b"], ("here",), ("a", "b")),
        (["--tasks", "a", "b", "--", "here", "c"], ("here", "c"), ("a", "b")),
        (["--tasks", "a", "b", "here"], ("here",), ("a", "b")),
        (["--tasks", "a", "gone/r.json", "b"], ("gone/r.json",), ("a", "b")),
        (["--tasks", "a", "b", "absent"], ("absent",), ("a", "b")),
        (["--tasks", "a", "b", "absent", "--limit", "1"], ("absent",), ("a", "b")),
        (["--tasks", "a", "b", "--limit", "1", "absent"], ("absent",), ("a", "b")),
    ],
)
def test_a_command_with_words_of_its_own_keeps_them(words, paths, chosen, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    found = parsed(*words, argument="many")
    assert (found["paths"], found["tasks"]) == (paths, chosen)
    if len(paths) == 1:
        assert parsed(*words, argument="one")["paths"] == paths[0]


def test_no_command_has_its_own_reading_of_them():
    commands = [cli.get_command(None, name) for name in cli.list_commands(None)]
    found = [
        (command, option)
        for command in commands
        for option in command.params
        if {"--tasks", "--model_args"} & set(option.opts)
    ]
    assert len(found) > 5
    for command, option in found:
        assert isinstance(command, WordsCommand), command.name
        assert isinstance(option, Words), command.name
    assert names(None, None, "a, b,") == ("a", "b")


def test_a_folder_with_a_comma_in_its_name(checkpoint, tmp_path):
    folder = tmp_path / "lr=0.1,seed=1"
    folder.symlink_to(checkpoint)
    text = f'{{"pretrained": "{folder}"}}'
    for words in ([text], [f"pretrained='{folder}'"]):
        out = tmp_path / "mask.json"
        done = CliRunner().invoke(
            cli, ["mask", "--random", "-a", *words, "--prune_heads", "0.5", "-o", str(out)], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        assert Path(out).exists()


def test_compact_takes_a_folder_with_a_comma_and_the_dtype_that_it_has(checkpoint, mask, tmp_path):
    folder = tmp_path / "lr=0.1,seed=1"
    folder.symlink_to(checkpoint)
    mask.save(tmp_path / "mask.json")
    text = f'{{"pretrained": "{folder}", "dtype": "float32"}}'
    words = ["compact", "-a", text, "--mask", str(tmp_path / "mask.json"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "config.json").exists()


# -- options that messages name -----------------------------------------------------------------------------------

PACKAGE = Path(lm_eval_prune.__file__).parent
OTHERS = {
    "always",
    "force-reinstall",
    "no-deps",
    "no-build-isolation",
    "no-index",
    "no-binary",
    "only-binary",
    "dest",
    "require-hashes",
}
"""pip's."""
SHARED = ("harness/requests.py", "harness/tasks.py", "harness/gold.py", "harness/cells.py", "harness/packed.py",
          "harness/task_identity.py", "components.py",
          "importance/*.py", "scoring/*.py", "decoders/*.py", "masks.py", "selection.py", "model_args.py")  # fmt: skip
"""What several commands run, each with options of its own: a setting is named there, never an option."""


def texts_of(path):
    """A file's texts but docstrings, f-strings' parts too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    ]


def options_named_in(path):
    return {name for text in texts_of(path) for name in re.findall(r"(?<![\w-])--([a-z][a-z_-]*[a-z])", text)}


def all_options():
    """Of every command and subcommand of ours, and of the harness's `run`."""
    import argparse

    from lm_eval._cli.run import Run

    found = {option for action in Run(argparse.ArgumentParser().add_subparsers())._parser._actions
             for option in action.option_strings}  # fmt: skip
    commands = [cli, *(cli.get_command(None, name) for name in cli.list_commands(None))]
    commands += [each for group in commands if isinstance(group, click.Group) and group is not cli
                 for each in group.commands.values()]  # fmt: skip
    for command in commands:
        found |= {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return {option.lstrip("-") for option in found} | {"help", "version"}


def test_every_option_that_a_text_names_exists():
    known = all_options() | OTHERS
    assert {"tasks", "model_args", "retry_failed", "importance_split", "wandb_args"} <= known
    named = {
        path: options_named_in(path)
        for path in [*PACKAGE.rglob("*.py"), *Path(cli.callback.__code__.co_filename).parent.glob("*.py")]
    }
    assert sum(map(len, named.values())) > 20
    for path, options in named.items():
        if path.name == "random_opt.py":  # a script with options of its own
            continue
        assert options <= known, f"{path}: {sorted(options - known)}"


def test_what_several_commands_run_names_settings_and_no_options():
    for pattern in SHARED:
        for path in PACKAGE.glob(pattern):
            assert options_named_in(path) == set(), path
