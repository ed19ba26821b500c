"""What commands take and say as a terminal's user spells it: short options, lists in every form, near misses."""

import click
import pytest
from click.testing import CliRunner

from lm_eval_prune.cli import importance, induction, leaderboard, plan, sweep
from lm_eval_prune.cli.main import cli
from lm_eval_prune.cli.options import Choice, several, shots
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.importance.methods import COMPONENTS, METHODS
from lm_eval_prune.induction import COPYING_DEFINITIONS
from lm_eval_prune.limits import SPLITS


@pytest.mark.parametrize("module", [importance, sweep, plan, leaderboard])
def test_t_is_tasks(module):
    (option,) = [each for each in module.command.params if each.name == "tasks"]
    assert {"-t", "--tasks"} <= set(option.opts)


@pytest.mark.parametrize(
    "words",
    [["-f", "0,1,5"], ["-f", "0", "1", "5"], ["-f", "0", "-f", "1,5"], ["--num_fewshot", "0, 1", "5"]],
)
def test_shots_and_shares_come_in_every_form_of_a_list(words):
    found = []

    @click.command(cls=sweep.WordsGroup, invoke_without_command=True)
    @several("--num_fewshot", "-f", metavar="SHOTS...", text="", callback=shots)
    @several("--prune_heads", metavar="SHARE...", text="")
    def command(**values):
        found.append(values)

    shares = [word.replace("--num_fewshot", "--prune_heads").replace("-f", "--prune_heads") for word in words]
    CliRunner().invoke(command, [*words, *shares], standalone_mode=False, catch_exceptions=False)
    assert found == [{"num_fewshot": (0, 1, 5), "prune_heads": "0,1,5"}]


def test_none_of_them_is_the_default():
    found = []

    @click.command(cls=sweep.WordsGroup, invoke_without_command=True)
    @several("--num_fewshot", "-f", metavar="SHOTS...", text="", callback=shots)
    @several("--prune_heads", metavar="SHARE...", text="")
    def command(**values):
        found.append(values)

    CliRunner().invoke(command, [], standalone_mode=False, catch_exceptions=False)
    assert found == [{"num_fewshot": (None,), "prune_heads": None}]


METHODS_LISTED = "gradient, knockout, function_vector, block_influence, magnitude, random; did you mean gradient?"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("importance --method gradeint", f"method=gradeint: expected one of {METHODS_LISTED}"),
        (
            "importance --component head",
            "component=head: expected one of heads, ffns, attention, layers; did you mean heads?",
        ),
        ("importance --split tset", "split=tset: expected one of training, validation, test; did you mean test?"),
        ("sweep --executor rya", "executor=rya: expected one of local, ray; did you mean ray?"),
        ("plan 66b --dtype flt16", "dtype=flt16: expected one of float32, bfloat16, float16; did you mean float16?"),
        ("plan 66b --scorer xyz", "scorer=xyz: expected one of packed, padded"),
        ("induction --definition x", "definition=x: expected one of olsson2022, bansal2023"),
    ],
)
def test_a_wrong_choice_is_one_line_with_the_nearest_right_one(words, line):
    with pytest.raises(ArgumentError) as error:
        CliRunner().invoke(cli, words.split(), standalone_mode=False, catch_exceptions=False)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["swep"], "sweep"),
        (["leaderbord", "x"], "leaderboard"),
        (["importances"], "importance"),
        (["sweep", "--taks", "a"], "--tasks"),
        (["importance", "--num_fewshots", "1"], "--num_fewshot"),
    ],
)
def test_a_wrong_command_or_option_names_the_nearest(words, near):
    found = CliRunner().invoke(cli, words)
    assert found.exit_code == 2
    assert f"'{near}'" in found.output.splitlines()[-1]


def choices(module, name):
    (option,) = [each for each in module.command.params if each.name == name]
    assert isinstance(option.type, Choice)
    return list(option.type.choices)


def test_choices_are_what_the_library_takes():
    assert choices(importance, "method") == list(METHODS)
    assert choices(importance, "component") == list(COMPONENTS)
    assert choices(importance, "split") == choices(sweep, "importance_split") == list(SPLITS)
    assert choices(induction, "definition") == list(COPYING_DEFINITIONS)
