"""What a document asked: from the harness's arguments as it hands them over, and as its files have them."""

from __future__ import annotations

import pytest

from lm_eval_prune.questions import LONGEST_CHOICE, LONGEST_PROMPT, question_of


def as_written(arguments):
    """As the harness writes them."""
    return {f"gen_args_{i}": {f"arg_{j}": text for j, text in enumerate(one)} for i, one in enumerate(arguments)}


@pytest.mark.parametrize("form", [lambda found: found, lambda found: [list(one) for one in found], as_written])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([("Q: sky?\nA:", " blue"), ("Q: sky?\nA:", " red")], ("Q: sky?\nA:", [" blue", " red"])),
        ([("He gave Ann", " the book"), ("He gave Bob", " the book")], (" the book", ["He gave Ann", "He gave Bob"])),
        ([("Count:", {"until": ["\n"]})], ("Count:", [])),
        ([("Only one", " end")], ("Only one", [" end"])),
        ([("A whole text",)], ("A whole text", [])),
    ],
    ids=["choices", "contexts", "generation", "one", "rolling"],
)
def test_prompt_and_choices(form, arguments, expected):
    assert question_of(form(arguments)) == expected


def test_long_ones_are_cut_the_prompt_at_its_start_and_choices_at_their_end():
    question = question_of([("examples " * 1000 + "the question", "a" * 5000), ("x", "b")])
    assert question.prompt.endswith("the question")
    assert question.prompt.startswith("…")
    assert len(question.prompt) == LONGEST_PROMPT
    assert question.choices == ["a" * (LONGEST_CHOICE - 1) + "…", "b"]


def test_halves_of_characters_are_replaced():
    assert question_of([("a\ud800b", " \udfff")]) == ("a?b", [" ?"])


@pytest.mark.parametrize("arguments", [None, 3, "text", [], {}, [3], [[]], {"gen_args_0": 1}, [{"a": 1}], [(1, 2)]])
def test_anything_else_is_no_question(arguments):
    assert question_of(arguments) is None
