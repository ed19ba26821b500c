"""Requests to a harness model, and models built alike."""

from __future__ import annotations

from lm_eval.api.instance import Instance

TEXTS = [
    ("The river near the garden", " is cold"),
    ("", "Summer"),
    ("A teacher", " saw a stone bridge in the forest, and left"),
    ("The river near the garden", " is a market"),
]
"""(context, continuation) pairs: a usual one, an empty context, a long continuation, a shared context."""


def requests(kind, arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=args, idx=i, metadata=("t", i, 1))
        for i, args in enumerate(arguments)
    ]


def build(model, checkpoint, **kwargs):
    return model(pretrained=str(checkpoint), **{"device": "cpu", "dtype": "float32", "batch_size": 3, **kwargs})
