"""What a document asked the model, cut to what a person reads: the end of its prompt, and its choices.

Imports nothing heavy: the harness writes questions into the samples of a sweep's dense runs, the report reads them
there and in the harness's own samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "LONGEST_CHOICE",
    "LONGEST_PROMPT",
    "MOST_CHOICES",
    "Question",
    "question_of",
    "shortened_end",
    "shortened_start",
]

LONGEST_PROMPT = 700
"""Characters, of the end: what comes before are the examples."""
LONGEST_CHOICE = 200
MOST_CHOICES = 50


class Question(NamedTuple):
    """A document as the model was asked it."""

    prompt: str
    choices: list[str]
    """What the model could continue with; empty where it wrote its answer itself."""


def question_of(arguments: Any) -> Question | None:
    """The question of a sample's `arguments`, as the harness hands them over or writes them; None for anything else.

    They are (context, continuation) for each choice. Where only the contexts differ, as in Winogrande, these are the
    choices.
    """
    requests = [_texts(one) for one in _values(arguments)[:MOST_CHOICES]]
    pairs = [(one[0], one[1]) for one in requests if one and len(one) > 1]
    if not pairs or len(pairs) < len(requests):
        texts = [one[0] for one in requests if one]
        return Question(shortened_start(texts[0], LONGEST_PROMPT), []) if texts else None
    contexts, continuations = zip(*pairs, strict=True)
    if len(set(continuations)) == 1 and len(set(contexts)) > 1:
        prompt, choices = continuations[0], [shortened_start(text, LONGEST_CHOICE) for text in contexts]
        return Question(shortened_end(prompt, LONGEST_PROMPT), choices)
    return Question(
        shortened_start(contexts[0], LONGEST_PROMPT), [shortened_end(text, LONGEST_CHOICE) for text in continuations]
    )


def shortened_start(text: str, longest: int) -> str:
    """The end of a long text."""
    return _whole(text if len(text) <= longest else "…" + text[1 - longest :])


def shortened_end(text: str, longest: int) -> str:
    """The start of a long text."""
    return _whole(text if len(text) <= longest else text[: longest - 1] + "…")


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _values(found: Any) -> Sequence[Any]:
    """A list of requests; the harness writes `{"gen_args_0": {"arg_0": ...}}`."""
    if isinstance(found, Mapping):
        return list(found.values())
    return found if isinstance(found, list | tuple) else []


def _texts(request: Any) -> list[str]:
    """The leading texts of a request's arguments; settings of generation follow them."""
    texts = []
    for value in _values(request):
        if not isinstance(value, str):
            break
        texts.append(value)
    return texts
