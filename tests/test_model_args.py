"""`--model_args` in every form that the harness takes, with the harness's own values."""

import argparse
import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval._cli.utils import MergeDictAction

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.model_args import TEXTS, model_args_text, parse_model_args


def of_the_harness(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_args", nargs="+", action=MergeDictAction)
    return parser.parse_args(["--model_args", *words]).model_args


@pytest.mark.parametrize(
    "words",
    [
        ["pretrained=facebook/opt-125m,dtype=float32"],
        ["pretrained=facebook/opt-125m", "dtype=float32", "batch_size=4"],
        ['{"pretrained": "runs/lr=0.1,seed=1", "max_length": 512, "peft": null, "add_bos_token": true}'],
        ["pretrained='a,b',max_length=512,logits_cache=False,softmax_dtype='float32'"],
        ["max_memory=[1,2],stops=('a','b'),rate=1e-3,negative=-1,nothing=None"],
        ["a==b,c=d=e,,empty="],
        ["parallelize=TRUE,name=true-ish,path=/a/b.c,number=0x10"],
    ],
)
def test_values_are_those_of_lm_eval_run(words):
    expected = of_the_harness(*words)
    expected = {name: value for name, value in expected.items() if value is not None or name not in TEXTS}
    found = parse_model_args(words)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


def test_none_is_a_name_or_path_that_is_not_given():
    for form in ("revision=None,pretrained=x", '{"revision": null, "pretrained": "x"}'):
        assert parse_model_args(form) == {"pretrained": "x"}
    assert parse_model_args("max_length=None") == {"max_length": None}


def test_a_text_a_list_and_a_mapping_are_one():
    mapping = {"pretrained": "x/y", "dtype": "float32", "max_length": 256}
    texts = ("pretrained=x/y,dtype=float32,max_length=256", " pretrained = x/y , dtype=float32\n,max_length=256")
    for form in (*texts, json.dumps(mapping), ["pretrained=x/y", "dtype=float32", '{"max_length": 256}'], mapping):
        assert parse_model_args(form) == mapping
    assert parse_model_args(None) == parse_model_args("") == parse_model_args([]) == parse_model_args(" , ") == {}


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("revision=1234567", "revision", "1234567"),
        ("revision=1e5", "revision", "1e5"),
        ("pretrained=007", "pretrained", "007"),
        ("prune_heads=0.29", "prune_heads", "0.29"),
        ("prune_ffns=.50", "prune_ffns", ".50"),
        ("mask='a, b.json'", "mask", "a, b.json"),
        ('{"revision": 1234567}', "revision", "1234567"),
        ("subfolder=none", "subfolder", "none"),
    ],
)
def test_names_paths_and_shares_stay_text(text, name, value):
    assert name in TEXTS
    assert parse_model_args(text) == {name: value}


@pytest.mark.parametrize(
    ("given_", "line"),
    [
        ("pretrained", "model_args: 'pretrained'; expected name=value, such as pretrained=facebook/opt-125m"),
        ("a=1,=2", "model_args: '=2'; expected name=value"),
        (["a=1", "b"], "model_args: 'b'; expected name=value"),
        (["a=1", 7], "model_args: 7; expected name=value"),
        ('{"a": 1', "model_args: not valid JSON (Expecting"),
        ("{'a': 1}", "JSON's texts stand in double quotes"),
        ('{"a": ' + "[" * 100_000, "model_args: JSON nested too deeply"),
        ('{"": 1}', "model_args: '': not the name of an argument"),
        ({"pretrained": ["x"]}, 'model_args: pretrained: expected text, found ["x"]'),
        ({"mask": True}, "model_args: mask: expected text, found true"),
        ({3: 1}, "model_args: 3: not the name of an argument"),
        ("self=3", "model_args: 'self': not the name of an argument"),
    ],
)
def test_what_is_no_argument_is_one_line(given_, line):
    with pytest.raises(ArgumentError) as error:
        parse_model_args(given_)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["9" * 5000, "²", "[" * 5000, "1if 1else 2", "\0", "(" * 300 + ")" * 300])
def test_a_value_that_is_nothing_else_is_text_or_a_number(value):
    found = parse_model_args(f"a={value}")["a"]
    assert found in (value, float("inf"), ())


NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.integers(), st.booleans(), st.none(),
    st.floats(allow_nan=False), st.lists(st.integers(), max_size=3),
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_the_text_of_arguments_is_read_as_them(arguments):
    expected = parse_model_args(arguments)  # numbers of names and paths are text from here on
    assert parse_model_args(model_args_text(expected)) == expected


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=40) | st.text(alphabet="ab=,'\"[](){}0.e-N ", max_size=40))
def test_any_text_is_arguments_or_our_error(text):
    with contextlib.suppress(ArgumentError):
        assert all(isinstance(name, str) and name for name in parse_model_args(text))
