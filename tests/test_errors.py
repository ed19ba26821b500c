"""Errors raised on purpose: one line that a person can read, whatever a stranger's file holds."""

import copy
import json
import pickle

import pytest

from lm_eval_prune import errors
from lm_eval_prune.costs.plan import make_plan
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.model_args import parse_model_args
from lm_eval_prune.sweep.config import load_configs

LONG = "x" * 100_000


def _written(path, content):
    path.write_text(json.dumps(content))
    return path


RAISED_FOR = {
    "a share": lambda folder: parse_fraction(LONG),
    "model arguments": lambda folder: parse_model_args(LONG),
    "a setting": lambda folder: load_configs(_written(folder / "a.yaml", {"tasks": "a", "output_path": "b", LONG: 1})),
    "a ranking's seed": lambda folder: load_configs(
        _written(folder / "a.yaml", {"tasks": "a", "output_path": "b", "ranking": f"random:{LONG}"})
    ),
    "a mask's format": lambda folder: PruningMask.load(_written(folder / "a.json", {"format": LONG})),
    "an importance file's key": lambda folder: ImportanceScores.load(
        _written(folder / "a.json", {"format": "lm-eval-prune-importance", "version": 1, "component": LONG})
    ),
    "a model's name": lambda folder: make_plan(LONG),
    "an activation": lambda folder: make_plan(
        str(_written(folder / "config.json", {"model_type": "opt", "activation_function": LONG}).parent)
    ),
}


@pytest.mark.parametrize("call", RAISED_FOR.values(), ids=list(RAISED_FOR))
def test_no_message_is_longer_than_a_person_reads(call, tmp_path):
    with pytest.raises(PruneError) as error:
        call(tmp_path)
    assert 10 < len(str(error.value)) <= errors.LONGEST + len(" [...] ")
    assert "\n" not in str(error.value)


def test_what_was_wrong_and_what_would_be_right_stay():
    message = str(ArgumentError(f"here: {LONG}; expected less"))
    assert message.startswith("here: xxx")
    assert message.endswith("xxx; expected less")
    assert " [...] " in message
    assert str(ArgumentError("here: x")) == "here: x"


def test_errors_are_copied_and_pickled_as_they_are():
    for error in (ArgumentError(LONG), PruneError(), errors.FileFormatError("a: b")):
        for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
            assert (type(other), str(other)) == (type(error), str(error))
